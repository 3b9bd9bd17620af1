"""What the layers of the original read on data: enough to know what each channel is worth to those that read it.

For every linear layer the covariance of its rows (see `linear_layers`) and the power of what it adds to, in one pass
over the data, in sums whose size does not depend on how much data there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.batches import Batch
from onnxprune.errors import UserError
from onnxprune.linear_layers import Layer, Rows, layers, matrices
from onnxprune.model import Model
from onnxprune.walk import Walk

Floats = NDArray[np.float64]

ROWS = 1 << 16
"""Rows of each layer that are looked at, about."""
GROUPED = 1
"""Layers of more groups than this read each channel on its own; they say nothing about what is redundant."""

Progress = Callable[[float], None]


@dataclass(frozen=True, eq=False)
class Reading:
    """One layer and what it reads."""

    layer: Layer
    weight: Floats
    """(outputs, features)."""
    covariance: Floats
    """(features, features); the second moment where the layer has no bias to take up the mean."""
    second: Floats
    """(features,): the mean of the squares."""
    active: Floats
    """(features,): how often it is not zero, 0 to 1."""
    power: float
    """Variance over all channels of what its outputs go into: the sum behind a residual, else they themselves."""


def read(
    model: Model,
    data: Iterable[Batch],
    wanted: Iterable[str],
    *,
    threads: int = 1,
    rows: int = ROWS,
    on_progress: Progress | None = None,
) -> dict[str, Reading]:
    """By the name of their weight: what the layers with these weights read."""
    names = set(wanted)
    found = [layer for layer in layers(model) if layer.weight in names and layer.groups <= GROUPED]
    made = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
    targets = {layer.weight: _sum_behind(layer, model) for layer in found}
    looks = [(made[layer.node.output[0]], 0, layer) for layer in found]
    looks += [(made[targets[layer.weight]] + 1, 1, layer) for layer in found]
    looks.sort(key=lambda look: look[:2])
    parts: dict[str, tuple[Floats, Floats, Floats]] = {}
    readings: dict[str, Reading] = {}
    with Walk(model, data, threads=threads) as walk:
        if not walk.counts:
            raise UserError("there is no data to look at")
        # what is looked at later must still be there then
        kept = {layer.x for layer in found} | set(targets.values())
        for number, (stop, kind, layer) in enumerate(looks):
            if on_progress is not None:
                on_progress(number / len(looks))
            later = {look[2].x if look[1] == 0 else targets[look[2].weight] for look in looks[number:]}
            walk.until(stop, kept & later)
            if kind == 0:
                parts[layer.weight] = _moments(layer, model, walk, rows, number)
            else:
                weight = matrices(layer, model.weights).weight[0]
                power = _power(layer, walk, targets[layer.weight])
                readings[layer.weight] = Reading(layer, weight, *parts[layer.weight], power)
    return readings


def _moments(layer: Layer, model: Model, walk: Walk, rows: int, seed: int) -> tuple[Floats, Floats, Floats]:
    shape = model.weights[layer.weight].shape
    rng = np.random.default_rng(seed)
    per_batch = max(1, rows // len(walk.counts))
    count, total, products, active = 0, 0.0, 0.0, 0.0
    for x in walk.arrays(layer.x):
        if not np.isfinite(x).all():
            raise UserError(f"the calibration data makes NaN or Inf at {layer.x!r}")
        (chunk,) = Rows(layer, layer.places(x, shape), per_batch, rng).read(x, shape)
        count += len(chunk)
        total = total + chunk.sum(axis=0, dtype=np.float64)
        products = products + (chunk.T @ chunk).astype(np.float64)
        active = active + np.count_nonzero(chunk, axis=0)
    mean = np.asarray(total) / count
    second = np.asarray(products) / count
    covariance = second - np.outer(mean, mean) if layer.bias is not None else second
    return covariance, second.diagonal().copy(), np.asarray(active) / count


def _power(layer: Layer, walk: Walk, target: str) -> float:
    count, total, squares = 0, 0.0, 0.0
    for y in walk.arrays(target):
        flat = np.moveaxis(y, layer.channel, -1).reshape(-1, y.shape[layer.channel]).astype(np.float64)
        count += len(flat)
        total = total + flat.sum(axis=0)
        squares = squares + np.square(flat).sum(axis=0)
    return float((np.asarray(squares) / count - (np.asarray(total) / count) ** 2).sum())


def _sum_behind(layer: Layer, model: Model) -> str:
    readers = [node for node in model.graph.node if layer.y in node.input]
    if len(readers) != 1 or readers[0].op_type != "Add":
        return layer.y
    others = [name for name in readers[0].input if name != layer.y]
    return readers[0].output[0] if others and others[0] not in model.weights else layer.y
