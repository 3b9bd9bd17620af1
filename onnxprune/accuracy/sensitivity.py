"""How much each group matters, measured: cut one group alone, at several ratios, and see what it does on data.

    for each ratio, for each group:    plan of that group alone -> apply -> evaluate against the original

What was measured is saved as it comes, and what the file holds already is not measured again: the file says which
model, which ranking and which data it is about, and is refused for any other. A trial needs a plan and nothing else of
the analysis, so that is what goes to other processes; each of them opens the model and the data once.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import onnx

from onnxprune.accuracy import curves_json
from onnxprune.accuracy.curves import Curve, Point, Sensitivity
from onnxprune.accuracy.evaluate import Evaluation, Reference, evaluate
from onnxprune.analysis.coupling import Coupling, Group
from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Plan
from onnxprune.data.sources import Dataset, Request, reopened
from onnxprune.errors import OtherRun, UserError
from onnxprune.files import store
from onnxprune.files.model import Model, expect_model
from onnxprune.files.replacing import check_writable
from onnxprune.graph.normalize import normalize
from onnxprune.machine.parallel import check_parallel, in_parallel
from onnxprune.scoring.scores import Scores
from onnxprune.selection.select import Field, field_of, plan_of
from onnxprune.text.kinds import is_number

RATIOS = (0.25, 0.5, 0.75)
EVERY = 1.0
"""Seconds between two writings of the file: that much is lost at most."""
HELD = 512 << 20
"""Bytes of data that a process keeps for the next trial; a larger set is read anew for each."""


@dataclass(frozen=True)
class Trial:
    """One measurement to be made."""

    group: str
    removed: int
    plan: Plan


@dataclass(frozen=True)
class Place:
    """What another process needs to make measurements."""

    path: Path | None
    model: str
    """The fingerprint that the file's model must have."""
    request: Request


def sensitivity(
    model: Model,
    coupling: Coupling,
    scores: Scores,
    data: Dataset,
    *,
    ratios: Sequence[float] = RATIOS,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    include_ops: Sequence[str] = (),
    exclude_ops: Sequence[str] = (),
    path: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    backend: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Cut each group alone at each ratio, and evaluate. With a `path`, save it there, and go on from what is there."""
    expect_model(model, "sensitivity")
    check_ratios(ratios)
    check_parallel(jobs, backend)
    found = field_of(coupling, scores, 1, 0.0, include, exclude, include_ops, exclude_ops)
    alone = jobs == 1 and backend is None
    file = None if path is None else Path(path)
    place = Place(None if alone else _path(model), fingerprint(model), _absolute(data.request))
    old = None if file is None else _begun(file, place.model, scores)
    home = Reference(model, reopened(data.request, model, hold=HELD if alone else 0))
    baseline = evaluate(model, home.dataset)
    digest, how = home.dataset.digest, (scores.criterion, scores.seed, scores.reduce, scores.normalize)
    if old is not None and old.data != digest:
        raise _other(path, f"on other data ({old.spec!r})")
    empty = Sensitivity(place.model, *how, digest, data.request.spec, baseline, ())
    sheet = _Sheet(file, empty, coupling, old.curves if old is not None else ())
    trials = sheet.missing(found, scores, ratios)
    try:
        measured = _here(trials, home) if alone else _there(trials, place, digest, jobs, backend)
        for done, (trial, figures) in enumerate(measured, 1):
            sheet.add(trial, figures)
            if on_progress is not None:
                on_progress(done, len(trials))
    finally:
        sheet.save()
    return sheet.found()


def check_ratios(ratios: Sequence[float]) -> None:
    """Refuse what cannot be, before any work is done."""
    if not ratios:
        raise UserError("name one ratio at least")
    for ratio in ratios:
        if not (is_number(ratio) and 0 < ratio < 1):
            raise UserError(f"ratios must lie between 0 and 1, both excluded, not {ratio!r}")


def fingerprint(model: Model) -> str:
    """What tells these weights from others."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(model.weights):
        weight = model.weights[name]
        digest.update(repr((name, weight.dtype, weight.shape)).encode("utf-8", "backslashreplace"))
        if weight.dtype == onnx.TensorProto.STRING:
            digest.update(weight.to_proto().SerializeToString())
            continue
        for chunk in weight.chunks():
            digest.update(chunk)
    return digest.hexdigest()


class _Sheet:
    """The measurements so far, and the file that they are written to."""

    def __init__(self, path: Path | None, empty: Sensitivity, coupling: Coupling, curves: Sequence[Curve]) -> None:
        self.path, self.empty, self.saved = path, empty, time.monotonic()
        self.units = {group.name: group.size for group in coupling.groups}
        self.asked: dict[str, dict[float, int]] = {name: {} for name in self.units}
        self.figures: dict[tuple[str, int], Evaluation] = {}
        for curve in curves:
            if self.units.setdefault(curve.group, curve.units) != curve.units:
                units = self.units[curve.group]
                raise _other(path, f"with other options of analysis (group {curve.group!r} has {units} units here)")
            self.asked[curve.group] = {point.ratio: point.removed for point in curve.points}
            self.figures |= {(curve.group, point.removed): point.figures for point in curve.points}

    def missing(self, found: Field, scores: Scores, ratios: Sequence[float]) -> list[Trial]:
        """What is still to be measured, the low ratios of all groups first: every group soon has a point."""
        trials: dict[tuple[str, int], Trial] = {}
        for ratio in sorted(set(ratios)):
            for group in found.groups:
                removed = _removed(ratio, group)
                if not removed:
                    continue
                self.asked[group.name][ratio] = removed
                if (group.name, removed) not in self.figures:
                    plan = plan_of(replace(found, groups=(group,)), scores, {group.name: removed}, {"ratio": ratio})
                    trials.setdefault((group.name, removed), Trial(group.name, removed, plan))
        return list(trials.values())

    def add(self, trial: Trial, figures: Evaluation) -> None:
        self.figures[trial.group, trial.removed] = replace(figures, notes=())
        if time.monotonic() - self.saved > EVERY:
            self.save()

    def save(self) -> None:
        if self.path is not None:
            curves_json.save(self.found(), self.path)
            self.saved = time.monotonic()

    def found(self) -> Sensitivity:
        curves = []
        for group, asked in self.asked.items():
            known = [(ratio, removed) for ratio, removed in sorted(asked.items()) if (group, removed) in self.figures]
            points = tuple(Point(ratio, removed, self.figures[group, removed]) for ratio, removed in known)
            if points:
                curves.append(Curve(group, self.units[group], points))
        return replace(self.empty, curves=tuple(curves))


def _begun(path: Path, model: str, scores: Scores) -> Sensitivity | None:
    """What the file holds, if it is about the same model and ranking."""
    check_writable(path)
    if not path.exists():
        return None
    old = curves_json.load(path)
    if old.model != model:
        raise _other(path, "on another model")
    for name in ("criterion", "seed", "reduce", "normalize"):
        if getattr(old, name) != getattr(scores, name):
            raise _other(path, f"with {name} {getattr(old, name)!r}, not {getattr(scores, name)!r}")
    return old


def _other(path: str | os.PathLike[str] | None, how: str) -> UserError:
    return OtherRun(f"{str(path)!r} was measured {how}: name another file, or remove this one")


def _removed(ratio: float, group: Group) -> int:
    return min(group.size - 1, math.floor(ratio * group.size + 0.5 + 1e-9))  # as `select` rounds


def _here(trials: Sequence[Trial], home: Reference) -> Iterator[tuple[Trial, Evaluation]]:
    for trial in trials:
        yield trial, _measure(home, trial)


def _there(
    trials: Sequence[Trial], place: Place, digest: str, jobs: int, backend: str | None
) -> Iterator[tuple[Trial, Evaluation]]:
    tasks = [(place, digest, trial) for trial in trials]
    for index, figures in in_parallel(_measure_there, tasks, jobs, backend):
        yield trials[index], figures


def _measure(home: Reference, trial: Trial) -> Evaluation:
    try:
        found = evaluate(apply(home.model, trial.plan), home.dataset, original=home)
        if (found.top1, found.agreement, found.deviation) == (None, None, None):
            raise UserError("the model has no output of floats that could be compared with the original's")
        return found
    except UserError as error:
        error.args = (f"group {trial.group!r} without {trial.removed} of its units: {error}",)
        raise


def _measure_there(place: Place, digest: str, trial: Trial) -> Evaluation:
    """In another process."""
    home = _home(place)
    figures = _measure(home, trial)
    if home.dataset.digest != digest:
        raise UserError(f"{place.request.spec!r} is other data in another process")
    return figures


@lru_cache(maxsize=1)
def _home(place: Place) -> Reference:
    """Opened once in a process."""
    assert place.path is not None
    model = normalize(store.load(place.path))
    if fingerprint(model) != place.model:
        raise UserError(f"{str(place.path)!r} does not hold the model to be measured: save it, or use one job")
    return Reference(model, reopened(place.request, model, hold=HELD))


def _path(model: Model) -> Path:
    if model.path is None:
        raise UserError("other processes read the model from its file, and this one has none: save it, or use one job")
    return model.path.resolve()


def _absolute(request: Request) -> Request:
    """Other processes may run in other folders."""
    path = Path(request.spec)
    return replace(request, spec=str(path.resolve())) if os.path.lexists(path) else request
