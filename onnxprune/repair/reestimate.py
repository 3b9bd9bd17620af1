"""What was cut is made up for as far as shifts and scales of single channels can: their mean and variance come back.

Both models run on the calibration data side by side, piece by piece (see `walk`). Wherever a channel x' of the pruned
model no longer has the moments that x has in the original, it is brought back to them, and from there on the pruned
model runs with the correction:

    r (x' - mean x') + mean x        with r = sqrt(var x / var x')

A BatchNormalization takes it up in its statistics, a layer without one in its weights and bias:

    sigma' = sigma / r        mean' = mean x' - (mean x - mean) / r        W' = r W        b' = r (b - mean y') + mean y

Where the stored statistics are those of the data, this is what forgetting them and running the data through gives. But
a model that lost nothing is left as it is, whatever the data. The moments of few images are known well, so dozens will
do where least squares (see `compensate`) wants hundreds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.cutting.plan import Plan
from onnxprune.execution.batches import Batch
from onnxprune.execution.walk import Walk, take_all
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.batchnorm import BatchNorm, batch_norm
from onnxprune.repair.compensate import Compensated, Progress
from onnxprune.repair.consumers import Consumers
from onnxprune.repair.layer_fit import Fit, Lost, left
from onnxprune.repair.linear_layers import Layer, Matrices, layers, matrices, stored
from onnxprune.repair.moments import Moments

Floats = NDArray[np.float64]

LIMIT = 10.0
"""No channel is scaled by more, or by less than its reciprocal: what has lost nearly all it read holds mostly noise."""
SAME = 1e-9
"""An error below this share of the power is float noise."""


@dataclass(frozen=True, eq=False)
class _Site:
    """A node that can take up a correction."""

    of: BatchNorm | Layer
    at: int
    """The place of its node in the pruned model."""
    ready: int
    """Before this node the tensor has been made."""

    @property
    def tensor(self) -> str:
        """What is corrected: the input of a normalisation, the output of a layer."""
        return self.of.x if isinstance(self.of, BatchNorm) else self.of.y

    @property
    def axis(self) -> int:
        return 1 if isinstance(self.of, BatchNorm) else self.of.channel


@dataclass(frozen=True, eq=False)
class _Line:
    """What each channel x becomes: factor (x - off) + to."""

    factor: Floats
    off: Floats
    to: Floats


def reestimate(
    original: Model,
    pruned: Model,
    plan: Plan,
    data: Iterable[Batch],
    *,
    threads: int = 1,
    on_progress: Progress | None = None,
) -> Compensated:
    """Bring mean and variance of all channels back to the original's, in the order in which they are computed."""
    lost = plan.removed()
    sites = _sites(original, pruned)
    fits: list[Fit] = []
    changed: dict[str, Tensor] = {}
    made = {name: index for index, node in enumerate(original.graph.node) for name in node.output}
    with Walk(original, threads=threads) as ours, Walk(pruned, threads=threads) as theirs:
        take_all(data, ours, theirs, to="re-estimate on")
        for number, site in enumerate(sites):
            if on_progress is not None:
                on_progress(number / len(sites))
            later = {other.tensor for other in sites[number:]}
            theirs.until(site.at, later)
            ours.until(made.get(site.tensor, -1) + 1, later)
            found = _corrected(site, ours, theirs, lost)
            if found is None:
                continue
            fit, weights = found
            fits.append(fit)
            changed |= weights
            theirs.exchange(weights)
    return Compensated(pruned.replace(weights={**pruned.weights, **changed}), tuple(fits))


def _sites(original: Model, pruned: Model) -> list[_Site]:
    """Every normalisation, and every layer that has none behind it, of which the original makes the same tensor."""
    uses = Consumers(pruned)
    there = {name for node in original.graph.node for name in node.output}
    place = {name: index for index, node in enumerate(pruned.graph.node) for name in node.output}
    norms = [(index, batch_norm(node, pruned.weights)) for index, node in enumerate(pruned.graph.node)]
    found = [
        _Site(norm, index, index)
        for index, norm in norms
        if norm is not None and norm.x in there and uses.own(norm.mean) and uses.own(norm.variance)
    ]
    plain = (layer for layer in layers(pruned) if layer.norm is None and layer.y in there)
    found += [_Site(layer, place[layer.node.output[0]], place[layer.y] + 1) for layer in plain]
    return sorted(found, key=lambda site: site.at)


def _corrected(site: _Site, ours: Walk, theirs: Walk, lost: Lost) -> tuple[Fit, dict[str, Tensor]] | None:
    """The new weights and what they change; None where there is nothing to change, or nothing to compare with."""
    moments = _moments(site, ours, theirs, lost)
    if moments is None or not moments.count:
        return None
    weights = theirs.model.weights
    line = _line(moments, shifts=isinstance(site.of, BatchNorm) or site.of.bias is not None)
    weight = site.of.line(weights)[0] ** 2 if isinstance(site.of, BatchNorm) else np.ones(len(line.factor))
    power = float(weight @ moments.covariance[0, 0]) or 1.0
    still = np.zeros(len(weight))
    before = float(weight @ _error(moments, _Line(still + 1, still, still))) / power
    if not before > SAME:
        return None
    after = float(weight @ _error(moments, line)) / power
    tensors = _put_norm(site.of, line, weights) if isinstance(site.of, BatchNorm) else _put(site.of, line, weights)
    return Fit(site.of.node.name or site.tensor, before, after), tensors


def _moments(site: _Site, ours: Walk, theirs: Walk, lost: Lost) -> Moments | None:
    """Of the original's channels that are left, and of the pruned model's."""
    pair = Moments(site.axis)
    there = theirs.numbers(site.tensor) if site.ready <= site.at else theirs.ahead(site.ready, site.tensor)
    for x, y in zip(left(ours, site.tensor, lost), there, strict=True):
        if x.shape != y.shape or y.ndim < 2:
            return None
        pair.add(x, y)
    return pair


def _line(moments: Moments, *, shifts: bool) -> _Line:
    """What gives the second tensor the moments of the first; with no shift, the same power."""
    (to, off), ((want, _), (_, have)) = moments.mean, moments.covariance
    if not shifts:
        want, have, to, off = want + to**2, have + off**2, np.zeros_like(to), np.zeros_like(off)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.sqrt(want / have)
    # what is always the same has no scale to speak of
    factor = np.where((have > 0) & (want > 0), np.clip(factor, 1 / LIMIT, LIMIT), 1.0)
    return _Line(factor, off, to)


def _error(moments: Moments, line: _Line) -> Floats:
    """mean |x - line(y)|^2 of each channel."""
    (x, y), ((xx, xy), (_, yy)) = moments.mean, moments.covariance
    gap = x - (line.factor * (y - line.off) + line.to)
    spread = xx - 2 * line.factor * xy + line.factor**2 * yy
    return np.asarray(gap**2 + np.maximum(spread, 0.0))


def _put(layer: Layer, line: _Line, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    now = matrices(layer, weights)
    factor, off, to = (part.reshape(now.bias.shape) for part in (line.factor, line.off, line.to))
    return stored(layer, Matrices(factor[..., None] * now.weight, factor * (now.bias - off) + to, now.factor), weights)


def _put_norm(norm: BatchNorm, line: _Line, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    mean, variance = (weights[name].array().astype(np.float64) for name in (norm.mean, norm.variance))
    wide = np.maximum((variance + norm.epsilon) / line.factor**2 - norm.epsilon, 0.0)
    # epsilon keeps a variance from getting any smaller: the mean goes with the factor that there is
    factor = np.sqrt((variance + norm.epsilon) / (wide + norm.epsilon))
    found = {norm.mean: line.off - (line.to - mean) / factor, norm.variance: wide}
    return {name: Tensor.of(name, array.astype(np.float32)) for name, array in found.items()}
