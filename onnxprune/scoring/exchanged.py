"""What other weights do to a model's outputs, measured on a few samples.

Nodes before the first that reads an exchanged weight compute what they always do, so they run once for all exchanges;
from there on the model runs to its end with the other weights, and what comes out is held against the original's:

    error = sum |y' - y|^2 / sum |y|^2        at most 1; the mean over the outputs (see `probes`)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.execution.batches import Batch
from onnxprune.execution.walk import Walk, reads, take_all
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.probes import probes
from onnxprune.graph.shapes import infer

Array = NDArray[Any]
Exchange = Mapping[str, Tensor]

FEW = 64
"""Samples that are enough, in whole batches. Of a ResNet-20, 512 lead to the same accuracy."""
HELD = 1 << 20
"""Numbers of an output that are compared, about; larger ones are thinned out."""


def errors(model: Model, data: Iterable[Batch], exchanges: Sequence[Exchange], *, threads: int = 1) -> list[float]:
    """Of each exchange, what the outputs are off by; zeros where nothing can be compared."""
    found = [0.0] * len(exchanges)
    names = probes(model.graph, infer(model))
    first = {name: index for index, node in reversed(list(enumerate(model.graph.node))) for name in reads(node)}
    starts = [min((first[name] for name in exchange), default=0) for exchange in exchanges]
    with Walk(model, threads=threads) as walk:
        take_all(few(data), walk, to="measure on")
        expected = _outputs(walk, names)
        powers = {name: sum(float(np.square(part).sum()) for part in parts) for name, parts in expected.items()}
        for number in sorted(range(len(exchanges)), key=lambda each: starts[each]):
            walk.until(starts[number])
            walk.exchange(exchanges[number])
            gaps = {
                name: sum(float(np.square(a - b).sum()) for a, b in zip(parts, expected[name], strict=True))
                for name, parts in _outputs(walk, names).items()
            }
            walk.exchange({name: model.weights[name] for name in exchanges[number]})
            shares = [_share(gaps.get(name, 0.0), power) for name, power in powers.items()]
            found[number] = sum(shares) / max(len(shares), 1)
    return found


def few(data: Iterable[Batch]) -> list[Batch]:
    """Some batches, at even distances."""
    kept: list[Batch] = []
    step = 1
    for index, batch in enumerate(data):
        if index % step == 0:
            kept.append(batch)
        if len(kept) > 1 and sum(each.count for each in kept) > 2 * FEW:
            kept, step = kept[::2], 2 * step
    return kept


def _outputs(walk: Walk, names: Sequence[str]) -> dict[str, list[Array]]:
    """Batch by batch what has not been made yet, as far as it is floats."""
    found: dict[str, list[Array]] = {}
    for made in walk.ending(names):
        for name, array in made.items():
            if array.dtype.kind == "f":
                flat = array.ravel()[:: -(-array.size * len(walk.counts) // HELD) or 1]
                found.setdefault(name, []).append(flat.astype(np.float64))
    return found


def _share(gap: float, power: float) -> float:
    """Numbers that are none, and outputs that explode, are all wrong."""
    return min(gap / power, 1.0) if power > 0 and np.isfinite(gap) else float(gap != 0)
