"""What the layers of the original read on data: enough to know what each channel is worth to those that read it.

For every linear layer the covariance of its rows (see `linear_layers`) and the power of what it adds to, in one pass
over the data, in sums whose size does not depend on how much data there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.batches import Batch
from onnxprune.least_squares import BLOCK
from onnxprune.linear_layers import WIDEST, Layer, Rows, layers, matrices, rows_for, sum_behind
from onnxprune.model import Model
from onnxprune.walk import Walk, take_all

Floats = NDArray[np.float64]
Progress = Callable[[float], None]


@dataclass(frozen=True, eq=False)
class Reading:
    """One layer and what it reads."""

    layer: Layer
    weight: Floats
    """(outputs, features)."""
    covariance: Floats | None
    """(features, features); the second moment where the layer has no bias to take up the mean. None: not asked for."""
    second: Floats
    """(features,): the mean of the squares."""
    active: Floats
    """(features,): how often it is not zero, 0 to 1."""
    count: int
    """Rows that this was made of."""
    power: float
    """Variance over all channels of what its outputs go into: the sum behind a residual, else they themselves."""


def read(
    model: Model,
    data: Iterable[Batch],
    wanted: Iterable[str],
    *,
    products: bool = True,
    threads: int = 1,
    on_progress: Progress | None = None,
) -> dict[str, Reading]:
    """By the name of their weight: what the layers with these weights read, of those that read all channels alike.

    Without `products` there are no covariances, which take by far the most work, and layers may be of any width.
    """
    names = set(wanted)
    found = [layer for layer in layers(model) if layer.weight in names and _askable(layer, model, products)]
    made = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
    targets = {layer.weight: (sum_behind(layer, model) or (layer.y,))[0] for layer in found}
    # two looks at each layer: at what it reads, and when that is made, at what it adds to
    looks = [(made[layer.node.output[0]], layer.x, layer) for layer in found]
    looks += [(made[targets[layer.weight]] + 1, targets[layer.weight], layer) for layer in found]
    looks.sort(key=lambda look: look[0])
    sums: dict[str, _Sums] = {}
    readings: dict[str, Reading] = {}
    with Walk(model, threads=threads) as walk:
        take_all(data, walk, to="look at")
        for number, (stop, tensor, layer) in enumerate(looks):
            if on_progress is not None:
                on_progress(number / len(looks))
            walk.until(stop, {later for _, later, _ in looks[number:]})
            if layer.weight not in sums:
                sums[layer.weight] = _sums(layer, model, walk, products=products, seed=number)
            elif sums[layer.weight].count:
                power = _power(layer, model, walk, tensor, seed=number)
                readings[layer.weight] = sums[layer.weight].reading(layer, model, power)
    return readings


class _Sums:
    """Over rows."""

    def __init__(self, features: int, *, products: bool) -> None:
        self.count = 0
        self.x, self.squares, self.active = np.zeros((3, features))
        self.xx = np.zeros((features, features)) if products else None

    def add(self, rows: NDArray[Any]) -> None:
        step = max(1, BLOCK // rows.shape[1])
        for start in range(0, len(rows), step):
            block = rows[start : start + step].astype(np.float64)
            self.count += len(block)
            self.x += block.sum(axis=0)
            self.squares += np.square(block).sum(axis=0)
            self.active += np.count_nonzero(block, axis=0)
            if self.xx is not None:
                self.xx += block.T @ block

    def reading(self, layer: Layer, model: Model, power: float) -> Reading:
        covariance = None if self.xx is None else self.xx / self.count
        if covariance is not None and layer.bias is not None:
            mean = self.x / self.count
            covariance -= mean[:, None] * mean
        weight = matrices(layer, model.weights).weight[0]
        n = self.count
        return Reading(layer, weight, covariance, self.squares / n, self.active / n, n, power)


def _askable(layer: Layer, model: Model, products: bool) -> bool:
    """Layers of several groups read each channel on its own, or a part of them: they say nothing of the rest."""
    features = layer.features(model.weights[layer.weight].shape)
    return layer.groups == 1 and (features <= WIDEST or not products)


def _sums(layer: Layer, model: Model, walk: Walk, *, products: bool, seed: int) -> _Sums:
    shape = model.weights[layer.weight].shape
    features = layer.features(shape)
    sums, rng = _Sums(features, products=products), np.random.default_rng(seed)
    most = -(-rows_for(features) // len(walk.counts))
    for x in walk.numbers(layer.x):
        made = layer.makes(x.shape, shape)
        if made is not None:
            sums.add(Rows(layer, made, most, rng).read(x, shape)[0])
    return sums


def _power(layer: Layer, model: Model, walk: Walk, target: str, seed: int) -> float:
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    rng = np.random.default_rng(seed)
    most = -(-rows_for(layer.features(model.weights[layer.weight].shape)) // len(walk.counts))
    for y in walk.numbers(target):
        rows = Rows(layer, y.shape, most, rng).made(y)[0].astype(np.float64)
        count += len(rows)
        total = total + rows.sum(axis=0)
        squares = squares + np.square(rows).sum(axis=0)
    return float(np.maximum(squares / count - (total / count) ** 2, 0.0).sum())
