"""What was cut is made up for by what is left: every layer's weights are solved anew, on data, without labels.

    sequential    both models run on the calibration data side by side, piece by piece (see `walk`). Wherever a layer
                  follows something that was cut, its weights are chosen such that its outputs come as close as they can
                  to those of the original at the channels that are left (see `layer_fit`), and from there on the pruned
                  model runs with the new ones:

                  original   x ────────► y            wanted: y
                  pruned     x' ── W' ─► y'           W' = argmin |y - W' x'|
                                      └─► + z' = t'   behind a residual: wanted t - z', so that what the shortcut lost
                                                      is made up for, too

    one-pass      the original alone runs, once: x' is what is left of x. Each layer makes up for its own inputs, as if
                  everything before it were as it was; quicker, and worse the more is cut

Only values of weights and biases change. He et al. 2017 and ThiNet solve a layer's weights this way, SparseGPT and OBS
solve what is left after single weights went, AIMET reconstructs convolutions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnxprune.cutting.plan import Plan
from onnxprune.errors import UserError
from onnxprune.execution.batches import Batch
from onnxprune.execution.walk import Walk, take_all
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.repair.behind import Task, tasks
from onnxprune.repair.layer_fit import Fit, Lost, Wanted, fit_layer, left
from onnxprune.repair.recurrent_layers import as_matrix, as_stored, projected
from onnxprune.text.names import suggest

MODES = ("sequential", "one-pass")

Array = NDArray[Any]
Progress = Callable[[float], None]


@dataclass(frozen=True, eq=False)
class Compensated:
    """The model, and how it went."""

    model: Model
    fits: tuple[Fit, ...]
    """Of every layer that could be solved, in graph order."""


def compensate(
    original: Model,
    pruned: Model,
    plan: Plan,
    data: Iterable[Batch],
    *,
    mode: str = "sequential",
    threads: int = 1,
    on_progress: Progress | None = None,
) -> Compensated:
    """Solve the weights of all layers behind a cut, in the order in which they run."""
    check_mode(mode)
    follows = _at_once if mode == "one-pass" else _one_by_one
    todo = [task for task in tasks(original, pruned, plan) if task.lacks or mode != "one-pass"]
    fits: list[Fit] = []
    changed: dict[str, Tensor] = {}
    for number, found in enumerate(follows(original, pruned, plan, data, todo, threads) if todo else ()):
        if found is not None:
            fits.append(found[0])
            changed |= found[1]
        if on_progress is not None:
            on_progress((number + 1) / len(todo))
    if not changed:
        return Compensated(pruned, tuple(fits))
    return Compensated(pruned.replace(weights={**pruned.weights, **changed}), tuple(fits))


def check_mode(mode: str) -> None:
    """Refuse what is none."""
    if mode not in MODES:
        raise UserError(f"unknown mode of compensation {mode!r}{suggest(mode, MODES)} (there are: {', '.join(MODES)})")


Found = tuple[Fit, dict[str, Tensor]] | None


def _one_by_one(
    original: Model, pruned: Model, plan: Plan, data: Iterable[Batch], todo: list[Task], threads: int
) -> Iterator[Found]:
    """Each layer on what the solved ones before it make."""
    lost = plan.removed()
    made = {name: index for index, node in enumerate(original.graph.node) for name in node.output}
    with Walk(original, threads=threads) as ours, Walk(pruned, threads=threads) as theirs:
        take_all(data, ours, theirs, to="compensate on")
        for number, task in enumerate(todo):
            theirs.until(task.at, {task.layer.x, *([task.sum[1]] if task.sum else [])})
            target, other = _target(task, theirs)
            # what later tasks look at may be made before
            ours.until(made.get(target, -1) + 1, set().union(*(later.targets for later in todo[number:])))
            wanted = _recurrent(task, ours, lost) if task.recurrent else _wanted(ours, theirs, target, other, lost)
            reads = theirs.numbers(task.layer.x)
            found = _fitted(task, theirs.model.weights, reads, wanted, theirs.counts, number, target)
            if found is not None:
                theirs.exchange(found[1])
            yield found


def _at_once(
    original: Model, pruned: Model, plan: Plan, data: Iterable[Batch], todo: list[Task], threads: int
) -> Iterator[Found]:
    """Each layer on what is left of what it read in the original."""
    lost = plan.removed()
    made = {name: index for index, node in enumerate(original.graph.node) for name in node.output}
    with Walk(original, threads=threads) as ours:
        take_all(data, ours, to="compensate on")
        todo = [task for task in todo if task.layer.x in made or ours.holds(task.layer.x)]
        order = sorted(enumerate(todo), key=lambda each: made.get(each[1].layer.y, -1))
        for place, (number, task) in enumerate(order):
            later = {name for _, other in order[place:] for name in (other.layer.x, other.layer.y)}
            ours.until(made.get(task.layer.y, -1) + 1, later)
            plain = ((y, None) for y in left(ours, task.layer.y, lost))
            wanted = _recurrent(task, ours, lost) if task.recurrent else plain
            reads = left(ours, task.layer.x, lost)
            yield _fitted(task, pruned.weights, reads, wanted, ours.counts, number, task.layer.y)


def _fitted(
    task: Task,
    weights: Mapping[str, Tensor],
    reads: Iterable[Array],
    wanted: Iterable[Wanted],
    counts: Sequence[int],
    seed: int,
    target: str,
) -> Found:
    layer = task.layer
    if not task.recurrent:
        return fit_layer(layer, weights, reads, wanted, counts, seed=seed, shown=task.shown.get(target))
    found = fit_layer(layer, as_matrix(layer, weights), reads, wanted, counts, seed=seed)
    return found and (found[0], as_stored(layer, found[1], weights))


def _recurrent(task: Task, ours: Walk, lost: Lost) -> Iterator[Wanted]:
    return ((y, None) for y in projected(task.layer, ours, lost))


def _target(task: Task, theirs: Walk) -> tuple[str, str | None]:
    """What to come close to: the sum, where that is no larger than the layer's output."""
    if task.sum is None or not theirs.holds(task.sum[1]):
        return task.layer.y, None
    target, other = task.sum
    x, z = next(theirs.arrays(task.layer.x)), next(theirs.arrays(other))
    made = task.layer.makes(x.shape, theirs.model.weights[task.layer.weight].shape) or ()
    fits = z.ndim <= len(made) and all(m in (1, n) for m, n in zip(z.shape[::-1], made[::-1], strict=False))
    return (target, other) if fits else (task.layer.y, None)


def _wanted(ours: Walk, theirs: Walk, target: str, other: str | None, lost: Lost) -> Iterator[Wanted]:
    """What should come out behind the layer, batch by batch, and what is added to what it makes."""
    yield from zip(left(ours, target, lost), theirs.numbers(other) if other else itertools.repeat(None), strict=False)
