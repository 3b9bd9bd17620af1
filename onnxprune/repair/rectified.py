"""What an activation hides need not be right: behind a Relu, an output that is negative may be any negative number.

    minimise  mean |f(t) - f(p)|^2        p = W x + b + z, t: wanted, z: what is added; f cuts off at `low` and `high`

by least squares again and again, each time towards what the weights so far leave to be wanted (X. Zhang et al. 2015
do likewise with a relaxed target):

    t                       where it shows
    p, held beyond low      where t is hidden there; likewise at high
    p                       where t shows a little and p is hidden far beyond: to pull that up would cost others more

All of these share one matrix, so a step costs two products; steps are taken with momentum, and on rows kept apart the
best one is chosen, which may be none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.files.tensors import Tensor
from onnxprune.graph.attributes import attribute
from onnxprune.repair.consumers import Consumers

Array = NDArray[Any]
Floats = NDArray[np.float64]

STEPS = 8
FAR = 0.5
"""What is hidden further than this share of what should show is given up."""
RIDGE = 1e-3
"""Of the mean variance."""
ROOM = 1 << 27
"""Numbers that are held at most: rows are thinned out to fit."""
FEWEST = 16
"""Rows for each feature; of fewer nothing is learned."""
_HARD_SWISH = -3.0


@dataclass(frozen=True)
class Shown:
    """Between these values a tensor shows, beyond them it may be anything beyond."""

    low: float
    high: float


def shown(name: str, uses: Consumers) -> Shown | None:
    """What those that read a tensor see of it; None: all of it, as far as is known."""
    readers = uses.readers.get(name, [])
    if not readers or uses.count[name] != len(readers):
        return None
    ranges = [_range(node, uses.weights) for node in readers]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    return Shown(low, high) if math.isfinite(low) or math.isfinite(high) else None


def _range(node: onnx.NodeProto, weights: Mapping[str, Tensor]) -> tuple[float, float]:
    everything = -math.inf, math.inf
    if node.domain not in ("", "ai.onnx"):
        return everything
    if node.op_type == "Relu":
        return 0.0, math.inf
    if node.op_type == "HardSwish":
        return _HARD_SWISH, math.inf
    if node.op_type == "HardSigmoid":
        alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
        return (-beta / alpha, (1 - beta) / alpha) if alpha > 0 else everything
    if node.op_type != "Clip":
        return everything
    ends = [attribute(node, "min", -math.inf), attribute(node, "max", math.inf)]
    for index, given in enumerate(list(node.input)[1:]):
        if given and given not in weights:
            return everything
        if given:
            ends[index] = float(weights[given].array().ravel()[0])
    return ends[0], ends[1]


@dataclass(eq=False)
class Hidden:
    """Rows of a layer behind which something is hidden, as they are."""

    shown: Shown
    _x: list[Array] = field(default_factory=list)
    _t: list[Array] = field(default_factory=list)
    _z: list[Array] = field(default_factory=list)
    _apart: list[int] = field(default_factory=list)

    def add(self, x: Array, t: Array, z: Array | None, *, apart: int, parts: int) -> None:
        """Rows of one of so many batches: read (groups, rows, features), wanted and added (groups, rows, outputs)."""
        step = -(-(x.size + 2 * t.size) * parts // ROOM)
        self._x.append(x[:, ::step])
        self._t.append(t[:, ::step])
        self._z.append(np.zeros_like(self._t[-1]) if z is None else z[:, ::step])
        self._apart.append(-(-apart // step))

    def refined(self, weight: Floats, bias: Floats, *, biased: bool) -> tuple[Floats, Floats]:
        """Weights (groups, outputs, features) and biases that come closer to what shows; or the same."""
        with np.errstate(over="ignore", invalid="ignore"):  # where numbers are too large, no step is the best one
            return self._refined(weight, bias, biased=biased)

    def _refined(self, weight: Floats, bias: Floats, *, biased: bool) -> tuple[Floats, Floats]:
        fit, check = self._split()
        count, features = fit[0].shape[1:]
        if count < FEWEST * features or not check[0].shape[1]:
            return weight, bias
        mean, inverse = _inverse(fit[0], centred=biased)
        best, least, worse = (weight, bias), self._error(check, weight, bias), 0
        last = ahead = weight, bias
        pace = 1.0
        for _ in range(STEPS):
            step = self._step(fit, *ahead, mean, inverse, biased=biased)
            now = ahead[0] + step[0], ahead[1] + step[1]
            longer = (1 + math.sqrt(1 + 4 * pace**2)) / 2
            more = (pace - 1) / longer
            ahead = now[0] + more * (now[0] - last[0]), now[1] + more * (now[1] - last[1])
            last, pace = now, longer
            error = self._error(check, *now)
            if error < least:
                best, least, worse = now, error, 0
            else:
                worse += 1
                if worse > 1:
                    break
        return best

    def _split(self) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
        """To learn from, and kept apart."""
        rest, apart = [], []
        for each in (self._x, self._t, self._z):
            pairs = list(zip(each, self._apart, strict=True))
            rest.append(np.concatenate([array[:, n:] for array, n in pairs], axis=1, dtype=np.float32))
            apart.append(np.concatenate([array[:, :n] for array, n in pairs], axis=1, dtype=np.float32))
            each.clear()
        return (rest[0], rest[1], rest[2]), (apart[0], apart[1], apart[2])

    def _step(
        self,
        rows: tuple[Array, Array, Array],
        weight: Floats,
        bias: Floats,
        mean: Floats,
        inverse: Floats,
        *,
        biased: bool,
    ) -> tuple[Floats, Floats]:
        """From these weights to those that come closest to what they leave to be wanted."""
        x, t, z = rows
        count = x.shape[1]
        gap = self._gap(t, _made(x, weight, bias, z))
        products = (gap.transpose(0, 2, 1) @ x).astype(np.float64) / count
        if not biased:
            return products @ inverse, np.zeros_like(bias)
        level = gap.mean(axis=1, dtype=np.float64)
        turned = (products - level[:, :, None] * mean[:, None, :]) @ inverse
        return turned, level - np.einsum("gof,gf->go", turned, mean)

    def _gap(self, t: Array, p: Array) -> Array:
        """What is still wanted."""
        low, high = np.float32(self.shown.low), np.float32(self.shown.high)
        gap = t - p
        if math.isfinite(low):
            gap = np.where(t <= low, np.minimum(low - p, 0), np.where(p - low < -FAR * (t - low), 0, gap))
        if math.isfinite(high):
            gap = np.where(t >= high, np.maximum(high - p, 0), np.where(p - high > FAR * (high - t), 0, gap))
        return gap

    def _error(self, rows: tuple[Array, Array, Array], weight: Floats, bias: Floats) -> float:
        x, t, z = rows
        p = _made(x, weight, bias, z)
        ends = self.shown.low, self.shown.high
        return float(np.square(np.clip(t, *ends) - np.clip(p, *ends)).sum(dtype=np.float64))


def _made(x: Array, weight: Floats, bias: Floats, z: Array) -> Array:
    made: Array = x @ weight.transpose(0, 2, 1).astype(np.float32)
    made += bias[:, None, :].astype(np.float32)
    made += z
    return made


def _inverse(x: Array, *, centred: bool) -> tuple[Floats, Floats]:
    """The mean of rows, and the inverse of their covariance, or of their second moments, with a ridge."""
    mean = x.mean(axis=1, dtype=np.float64) * centred
    system = (x.transpose(0, 2, 1) @ x).astype(np.float64) / x.shape[1]
    system -= mean[:, :, None] * mean[:, None, :]
    diagonal = np.einsum("gff->gf", system)
    scale = diagonal.mean(axis=1)
    diagonal += (RIDGE * np.where(scale > 0, scale, 1.0))[:, None]
    return mean, np.linalg.inv(system)
