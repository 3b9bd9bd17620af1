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

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from onnxprune.batches import Batch
from onnxprune.errors import UserError
from onnxprune.least_squares import Sums, solved
from onnxprune.linear_layers import Layer, Matrices, Rows, layers, matrices, stored
from onnxprune.model import Model
from onnxprune.plan import Plan
from onnxprune.tensors import Tensor
from onnxprune.walk import Walk

ROWS = 1 << 17
"""Rows that a layer is solved from, about, over all batches."""
APART = 4
"""One of so many samples is kept apart to choose the ridge."""

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Fit:
    """What became of one layer."""

    layer: str
    before: float
    """Error of its outputs against the original's, relative to their power, on samples kept apart."""
    after: float


@dataclass(frozen=True, eq=False)
class Compensated:
    """The model, and how it went."""

    model: Model
    fits: tuple[Fit, ...]


def compensate(
    original: Model,
    pruned: Model,
    plan: Plan,
    data: Iterable[Batch],
    *,
    threads: int = 1,
    rows: int = ROWS,
    on_progress: Progress | None = None,
) -> Compensated:
    """Solve the weights of all layers behind a cut, in the order in which they run."""
    lost = plan.removed()
    found = [layer for layer in layers(pruned) if layer.y in _behind(pruned, {name for name, _ in lost})]
    batches = list(data)
    fits = []
    changed: dict[str, Tensor] = {}
    with Walk(original, batches, threads=threads) as ours, Walk(pruned, batches, threads=threads) as theirs:
        if not theirs.counts:
            raise UserError("there is no data to compensate on")
        made = [{name: i for i, node in enumerate(m.graph.node) for name in node.output} for m in (original, pruned)]
        for number, layer in enumerate(found):
            if on_progress is not None:
                on_progress(number / len(found))
            if layer.y not in made[0]:
                continue
            at = made[1][layer.node.output[0]]
            target, other = _residual(layer, pruned, made[1], at)
            if target not in made[0]:
                target, other = layer.y, None
            ours.until(max(made[0][target] + 1, ours.position), {target})
            theirs.until(at, {layer.x, *([other] if other else [])})
            if not ours.holds(target) or not theirs.holds(layer.x):
                continue
            fit = _solve(layer, ours, theirs, target, other, lost, rows, number)
            if fit is not None:
                fits.append(Fit(layer.node.name or layer.y, fit[1], fit[2]))
                changed |= fit[0]
                theirs.exchange(fit[0])
    return Compensated(pruned.replace(weights={**pruned.weights, **changed}), tuple(fits))


def _solve(
    layer: Layer,
    ours: Walk,
    theirs: Walk,
    target: str,
    other: str | None,
    lost: dict[tuple[str, int], np.ndarray],
    rows: int,
    seed: int,
) -> tuple[dict[str, Tensor], float, float] | None:
    weights = theirs.model.weights
    now = matrices(layer, weights)
    shape = weights[layer.weight].shape
    fit, check = (Sums(now.weight.shape[0], now.weight.shape[2], now.weight.shape[1]) for _ in range(2))
    per_batch = max(1, rows // len(theirs.counts))
    rng = np.random.default_rng(seed)
    others = theirs.arrays(other) if other else None
    for x, y in zip(theirs.arrays(layer.x), ours.arrays(target), strict=True):
        axis = layer.channel % y.ndim
        cut = lost.get((target, axis))
        wanted = np.delete(y, cut, axis) if cut is not None else y
        if others is not None:
            z = next(others)
            if z.shape != wanted.shape:
                return None
            wanted = wanted - z
        if not (np.isfinite(x).all() and np.isfinite(wanted).all()):
            raise UserError(f"the calibration data makes NaN or Inf at {layer.node.name or layer.y!r}")
        chosen = Rows(layer, wanted.shape, per_batch, rng)
        read, made = chosen.read(x, shape), chosen.made(wanted)
        apart = max(1, read.shape[1] // APART) if read.shape[1] > 1 else 0
        fit.add(read[:, apart:], made[:, apart:])
        check.add(read[:, :apart], made[:, :apart])
    solution = solved(fit, check, now.weight, now.bias, biased=layer.bias is not None)
    if not (np.isfinite(solution.weight).all() and np.isfinite(solution.bias).all()):
        return None
    new = Matrices(solution.weight, solution.bias, now.factor)
    return stored(layer, new, weights), solution.before, solution.after


def _residual(layer: Layer, model: Model, made: dict[str, int], at: int) -> tuple[str, str | None]:
    """The sum that a layer's output goes into and its other summand, if that is known before the layer runs."""
    readers = [node for node in model.graph.node if layer.y in node.input]
    if len(readers) != 1 or readers[0].op_type != "Add":
        return layer.y, None
    others = [name for name in readers[0].input if name != layer.y]
    if len(others) != 1 or others[0] in model.weights or made.get(others[0], -1) >= at or others[0] not in made:
        return layer.y, None
    return readers[0].output[0], others[0]


def _behind(model: Model, cut: set[str]) -> set[str]:
    """Tensors that may differ from the original's at the channels that are left."""
    found: set[str] = set()
    for node in model.graph.node:
        if any(name in found or (name in cut and name not in model.weights) for name in node.input):
            found.update(node.output)
    return found
