"""Where does the error enter? Every layer's output in the pruned model against the original's, on data.

    error = sum |y - y'|^2 / sum |y - mean y|^2        over all channels that are left; each has a mean of its own
    sqnr_db = -10 log10 error

Layers whose outputs are the same are 0 and infinite. What a layer got wrong already comes into the next one, so the
figures tell most where they jump.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from onnxprune.cutting.plan import Plan
from onnxprune.execution.batches import Batch
from onnxprune.execution.walk import Walk, take_all
from onnxprune.files.model import Model
from onnxprune.repair.layer_fit import Lost, left
from onnxprune.repair.linear_layers import Layer, layers
from onnxprune.repair.moments import Moments


@dataclass(frozen=True)
class LayerError:
    """One layer."""

    layer: str
    """Its node."""
    op: str
    tensor: str
    """What was compared: its output, bias or BatchNormalization included."""
    error: float

    @property
    def sqnr_db(self) -> float:
        """In decibels."""
        return -10 * math.log10(self.error) if self.error > 0 else math.inf


def layer_errors(
    original: Model, pruned: Model, plan: Plan, data: Iterable[Batch], *, threads: int = 1
) -> tuple[LayerError, ...]:
    """Of all layers that both models have, in the order in which they run."""
    lost = plan.removed()
    ours_at, theirs_at = (
        {name: index for index, node in enumerate(model.graph.node) for name in node.output}
        for model in (original, pruned)
    )
    compared = [layer for layer in layers(pruned) if layer.y in ours_at]
    compared.sort(key=lambda layer: theirs_at[layer.y])
    found = []
    with Walk(original, threads=threads) as ours, Walk(pruned, threads=threads) as theirs:
        take_all(data, ours, theirs, to="compare layers on")
        for number, layer in enumerate(compared):
            later = {other.y for other in compared[number:]}
            theirs.until(theirs_at[layer.y] + 1, later)
            ours.until(ours_at[layer.y] + 1, later)
            error = _error(layer, ours, theirs, lost)
            if error is not None:
                found.append(LayerError(layer.node.name or layer.y, layer.node.op_type, layer.y, error))
    return tuple(found)


def _error(layer: Layer, ours: Walk, theirs: Walk, lost: Lost) -> float | None:
    """None: the two cannot be compared."""
    pair = Moments(layer.channel)
    for y, other in zip(left(ours, layer.y, lost), theirs.numbers(layer.y), strict=True):
        if y.shape != other.shape or y.ndim < 2:
            return None
        pair.add(y, other)
    (mean, off), ((whole, both), (_, have)) = pair.mean, pair.covariance
    gap = float(((mean - off) ** 2 + (whole - 2 * both + have).clip(0)).sum())
    power = float(whole.sum())
    return gap / power if power else float(gap > 0)
