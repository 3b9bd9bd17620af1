"""What the layers of the original read on data: enough to know what each channel is worth to those that read it.

For every linear layer the covariance of its rows (see `linear_layers`) and the power of what it adds to, in one pass
over the data, in sums whose size does not depend on how much data there is. A convolution of several groups is as many
layers, and of a recurrent one it is what it makes of its input (see `recurrent_layers`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.execution.batches import Batch
from onnxprune.execution.walk import Walk, take_all
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.repair.least_squares import BLOCK
from onnxprune.repair.linear_layers import WIDEST, Layer, Rows, layers, matrices, rows_for, sum_behind
from onnxprune.repair.recurrent_layers import as_matrix, projected, recurrent_layers

Floats = NDArray[np.float64]
Progress = Callable[[float], None]


@dataclass(frozen=True, eq=False)
class Reading:
    """One layer and what it reads, or one group of a convolution."""

    layer: Layer
    group: int
    """Which one; 0 where there is only one."""
    weight: Floats
    """(outputs, features)."""
    covariance: Floats | None
    """(features, features); the second moment where the layer has no bias to take up the mean. None: not asked for."""
    mean: Floats
    """(features,)."""
    second: Floats
    """(features,): the mean of the squares."""
    active: Floats
    """(features,): how often it is not zero, 0 to 1."""
    count: int
    """Rows that this was made of."""
    power: float
    """Variance over all channels of what its outputs go into: the sum behind a residual, else they themselves."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """A layer to look at: first at what it reads, and when that is made, at what it adds to."""

    layer: Layer
    weights: Mapping[str, Tensor]
    """Its weight as rows see it, among others."""
    at: int
    """Before this node, what it reads is there."""
    target: str
    ready: int
    """Before this node, what it adds to is there."""
    recurrent: bool = False
    """No tensor holds what it makes: that is computed from what it reads."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weights[self.layer.weight].shape


def read(
    model: Model,
    data: Iterable[Batch],
    wanted: Iterable[str],
    *,
    products: bool = True,
    threads: int = 1,
    on_progress: Progress | None = None,
) -> dict[str, tuple[Reading, ...]]:
    """By the name of their weight: what the layers with these weights read, a reading for each convolution group.

    Without `products` there are no covariances, which take by far the most work, and layers may be of any width.
    """
    names = set(wanted)
    asked = [each for each in _asked(model) if each.layer.weight in names and _askable(each, products)]
    looks = [(each.at, each.layer.x, each) for each in asked] + [(each.ready, each.target, each) for each in asked]
    looks.sort(key=lambda look: look[0])
    sums: dict[str, list[_Sums]] = {}
    readings: dict[str, tuple[Reading, ...]] = {}
    with Walk(model, threads=threads) as walk:
        take_all(data, walk, to="look at")
        for number, (stop, _, each) in enumerate(looks):
            if on_progress is not None:
                on_progress(number / len(looks))
            walk.until(stop, {later for _, later, _ in looks[number:]})
            name = each.layer.weight
            if name not in sums:
                sums[name] = _sums(each, walk, products=products, seed=number)
            elif sums[name][0].count:
                power = _power(each, walk, seed=number)
                readings[name] = tuple(part.reading(each, g, power) for g, part in enumerate(sums[name]))
    return readings


def _asked(model: Model) -> list[_Asked]:
    made = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
    found = []
    for layer in layers(model):
        target = (sum_behind(layer, model) or (layer.y,))[0]
        found.append(_Asked(layer, model.weights, made[layer.node.output[0]], target, made[target] + 1))
    for at, layer in recurrent_layers(model):
        found.append(_Asked(layer, as_matrix(layer, model.weights), at, layer.x, at, recurrent=True))
    return found


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

    def reading(self, asked: _Asked, group: int, power: float) -> Reading:
        layer, n = asked.layer, self.count
        covariance = None if self.xx is None else self.xx / n
        if covariance is not None and layer.bias is not None:
            mean = self.x / n
            covariance -= mean[:, None] * mean
        weight = matrices(layer, asked.weights).weight[group]
        return Reading(layer, group, weight, covariance, self.x / n, self.squares / n, self.active / n, n, power)


def _askable(asked: _Asked, products: bool) -> bool:
    """A group that reads one channel says nothing of the others; many features cannot be held against each other."""
    layer, shape = asked.layer, asked.shape
    alone = layer.groups > 1 and layer.features(shape) == math.prod(shape[2:])
    return not alone and (layer.features(shape) <= WIDEST or not products)


def _sums(asked: _Asked, walk: Walk, *, products: bool, seed: int) -> list[_Sums]:
    layer, shape = asked.layer, asked.shape
    features = layer.features(shape)
    sums = [_Sums(features, products=products) for _ in range(layer.groups)]
    rng = np.random.default_rng(seed)
    most = -(-rows_for(features) // len(walk.counts))
    for x in walk.numbers(layer.x):
        made = layer.makes(x.shape, shape)
        if made is not None:
            for part, rows in zip(sums, Rows(layer, made, most, rng).read(x, shape), strict=True):
                part.add(rows)
    return sums


def _power(asked: _Asked, walk: Walk, seed: int) -> float:
    layer = asked.layer
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    rng = np.random.default_rng(seed)
    most = -(-rows_for(layer.features(asked.shape)) // len(walk.counts))
    for y in projected(layer, walk, {}) if asked.recurrent else walk.numbers(asked.target):
        rows = Rows(layer, y.shape, most, rng).made(y).astype(np.float64)
        count += rows.shape[1]
        total = total + rows.sum(axis=1)
        squares = squares + np.square(rows).sum(axis=1)
    return float(np.maximum(squares / count - (total / count) ** 2, 0.0).sum())
