"""What was cut is made up for by what is left: every layer's weights are solved anew, on data, without labels.

Both models run on the calibration data side by side, piece by piece (see `walk`). Wherever a layer follows something
that was cut, its weights are chosen such that its outputs come as close as they can to those of the original at the
channels that are left (see `least_squares`), and from there on the pruned model runs with the new ones:

    original   x ────────► y                    wanted: y
    pruned     x' ── W' ─► y'                   W' = argmin |y - W' x'|
                        └─► + z' = t'           behind a residual: wanted t - z', so that what the shortcut lost is
                                                made up for, too

Only values of weights and biases change. He et al. 2017 and ThiNet solve a layer's weights this way, SparseGPT and OBS
solve what is left after single weights went, AIMET reconstructs convolutions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.batches import Batch
from onnxprune.coupling import Indices
from onnxprune.errors import UserError
from onnxprune.least_squares import Evidence, evidence, solved
from onnxprune.linear_layers import Layer, Matrices, Rows, layers, matrices, rows_for, stored, sum_behind
from onnxprune.model import Model
from onnxprune.plan import Plan
from onnxprune.tensors import Tensor
from onnxprune.walk import Walk, reads

Array = NDArray[Any]
Lost = Mapping[tuple[str, int], Indices]
"""For each tensor and axis the positions that went."""

APART = 4
"""One of so many rows is kept apart to choose the ridge."""
_OWN = frozenset(["out", "scale", "shift", "keep"])
"""Roles of weights in which each channel has entries of its own."""

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Fit:
    """What became of one layer."""

    layer: str
    before: float
    """Error of its outputs against the original's, relative to their power, on rows kept apart."""
    after: float


@dataclass(frozen=True, eq=False)
class Compensated:
    """The model, and how it went."""

    model: Model
    fits: tuple[Fit, ...]
    """Of every layer that could be solved, in graph order."""


@dataclass(frozen=True, eq=False)
class _Task:
    """A layer of the pruned model to solve."""

    layer: Layer
    at: int
    """The place of its node in the pruned model."""
    sum: tuple[str, str] | None
    """The residual sum that its output goes into, and the other summand: known before the layer runs."""

    @property
    def targets(self) -> set[str]:
        """Tensors of the original that may be looked at."""
        return {self.layer.y, *([self.sum[0]] if self.sum else [])}


def compensate(
    original: Model,
    pruned: Model,
    plan: Plan,
    data: Iterable[Batch],
    *,
    threads: int = 1,
    on_progress: Progress | None = None,
) -> Compensated:
    """Solve the weights of all layers behind a cut, in the order in which they run."""
    lost = plan.removed()
    tasks = _tasks(original, pruned, plan)
    fits: list[Fit] = []
    changed: dict[str, Tensor] = {}
    if not tasks:
        return Compensated(pruned, ())
    made = {name: index for index, node in enumerate(original.graph.node) for name in node.output}
    with Walk(original, threads=threads) as ours, Walk(pruned, threads=threads) as theirs:
        for batch in data:
            ours.take(batch)
            theirs.take(batch)
        if not theirs.counts:
            raise UserError("there is no data to compensate on")
        for number, task in enumerate(tasks):
            if on_progress is not None:
                on_progress(number / len(tasks))
            theirs.until(task.at, {task.layer.x, *([task.sum[1]] if task.sum else [])})
            target, other = _target(task, theirs)
            # what later tasks look at may be made before
            ours.until(made[target] + 1, set().union(*(later.targets for later in tasks[number:])))
            found = _solve(task.layer, ours, theirs, target, other, lost, number)
            if found is None:
                continue
            fit, weights = found
            fits.append(fit)
            changed |= weights
            theirs.exchange(weights)
    return Compensated(pruned.replace(weights={**pruned.weights, **changed}), tuple(fits))


def _tasks(original: Model, pruned: Model, plan: Plan) -> list[_Task]:
    """Layers that something cut comes into, or stands beside, and whose outputs the original makes too."""
    made = {name: index for index, node in enumerate(pruned.graph.node) for name in node.output}
    there = {name for node in original.graph.node for name in node.output}
    behind = _behind(pruned, plan)
    tasks = []
    for layer in layers(pruned):
        at, both = made[layer.node.output[0]], sum_behind(layer, pruned)
        if both is not None and (both[0] not in there or made.get(both[1], -1) >= at):
            both = None
        if layer.y in there and (layer.y in behind or (both is not None and both[1] in behind)):
            tasks.append(_Task(layer, at, both))
    return tasks


def _behind(model: Model, plan: Plan) -> set[str]:
    """Tensors that may differ from the original's at the channels that are left.

    What is cut from a tensor and from all that a node makes of it passes by: the rest is computed as before. A weight
    that has lost what it reads computes something else.
    """
    cuts: dict[str, set[int]] = {}
    lacking: set[str] = set()
    for number, each in enumerate(plan.cuts):
        for slot in each.slots:
            cuts.setdefault(slot.tensor, set()).add(number)
            if slot.role not in _OWN and slot.tensor in model.weights:
                lacking.add(slot.tensor)
    found: set[str] = set()
    for node in model.graph.node:
        read = reads(node)
        gone = set().union(*(cuts.get(name, ()) for name in read if name not in model.weights))
        passed = all(gone <= cuts.get(name, set()) for name in node.output if name)
        if not passed or not lacking.isdisjoint(read) or not found.isdisjoint(read):
            found.update(node.output)
    return found


def _target(task: _Task, theirs: Walk) -> tuple[str, str | None]:
    """What to come close to: the sum, where that is no larger than the layer's output."""
    if task.sum is None or not theirs.holds(task.sum[1]):
        return task.layer.y, None
    target, other = task.sum
    x, z = next(theirs.arrays(task.layer.x)), next(theirs.arrays(other))
    made = task.layer.makes(x.shape, theirs.model.weights[task.layer.weight].shape) or ()
    fits = z.ndim <= len(made) and all(m in (1, n) for m, n in zip(z.shape[::-1], made[::-1], strict=False))
    return (target, other) if fits else (task.layer.y, None)


def _solve(
    layer: Layer, ours: Walk, theirs: Walk, target: str, other: str | None, lost: Lost, seed: int
) -> tuple[Fit, dict[str, Tensor]] | None:
    """The layer's new weights and how they fit; None where its outputs are other ones than the original's."""
    weights = theirs.model.weights
    now = matrices(layer, weights)
    gathered = _gather(layer, ours, theirs, target, other, lost, seed)
    if gathered is None:
        return None
    found = solved(*gathered, now.weight, now.bias, biased=layer.bias is not None, free=now.free)
    fit = Fit(layer.node.name or layer.y, found.before, found.after)
    if not found.after < found.before:
        return fit, {}
    tensors = stored(layer, Matrices(found.weight, found.bias, now.factor), weights)
    if not all(np.isfinite(tensor.array()).all() for tensor in tensors.values()):
        return Fit(fit.layer, fit.before, fit.before), {}
    return fit, tensors


def _gather(
    layer: Layer, ours: Walk, theirs: Walk, target: str, other: str | None, lost: Lost, seed: int
) -> tuple[Evidence, Evidence] | None:
    """Rows to solve the layer from, and rows to check it with."""
    shape, counts = theirs.model.weights[layer.weight].shape, theirs.counts
    most = -(-rows_for(layer.features(shape)) // len(counts))
    rng = np.random.default_rng(seed)
    fit: Evidence | None = None
    batches = zip(theirs.numbers(layer.x), _wanted(ours, theirs, target, other, lost), strict=True)
    for (x, wanted), share in zip(batches, _shares(counts), strict=True):
        if layer.makes(x.shape, shape) != wanted.shape:
            return None
        rows = Rows(layer, wanted.shape, most, rng)
        read, made = rows.read(x, shape), rows.made(wanted)
        if fit is None:
            fit, check = (evidence(read, made, rows=read.shape[1] * len(counts)) for _ in range(2))
        apart = int(read.shape[1] * share)
        fit.add(read[:, apart:], made[:, apart:])
        check.add(read[:, :apart], made[:, :apart])
    assert fit is not None, "there is a batch"
    return fit, check


def _shares(counts: list[int]) -> list[float]:
    """Of each batch, the share of rows that is kept apart: a part of each, or some batches where these are small."""
    if max(counts) >= APART or len(counts) < APART:
        return [1 / APART] * len(counts)
    return [1.0 if index % APART == 0 else 0.0 for index in range(len(counts))]


def _wanted(ours: Walk, theirs: Walk, target: str, other: str | None, lost: Lost) -> Iterator[Array]:
    """What the layer should make, batch by batch."""
    others = theirs.numbers(other) if other else itertools.repeat(None)
    for y, z in zip(ours.numbers(target), others, strict=False):
        for axis in range(y.ndim):
            if (target, axis) in lost:
                y = np.delete(y, lost[target, axis], axis)
        yield y if z is None else y - z
