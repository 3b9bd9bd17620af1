"""What a stage has made, in a folder, so that a later run takes it up as if it had just been made.

    prune/model.onnx      the model, if it is another than the one that the stage got; weights beside it as in any file
    prune/original.onnx   the normalised model that the plan was applied to, likewise
    prune/plan.json       if it made one
    prune/scores.json     likewise
    prune/bench.json      likewise; it is not taken up again, since nothing is derived from it
    prune/stage.json      written last: without it, or if a file is not what it says, nothing here counts

The coupling is not kept but analysed again, which is exact and takes a second or less.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.coupling import Reason
from onnxprune.checking.verify import Verification
from onnxprune.cutting import plan_json
from onnxprune.data.schema import Reader
from onnxprune.errors import UserError
from onnxprune.files import store
from onnxprune.files.model import Model
from onnxprune.files.replacing import write_text
from onnxprune.graph.normalize import normalize, restore
from onnxprune.pipeline.fingerprints import Fingerprints
from onnxprune.pipeline.manager import State
from onnxprune.scoring.scores import Scores

FORMAT = 1
"""Of the folder; another one is made anew."""
RECORD = "stage.json"
WORK = "work-"
"""Begins the name of the folder in which a pass keeps what a stopped run needs."""


@dataclass(frozen=True)
class Place:
    """Where a model is kept."""

    file: str
    """Relative to the run's folder; empty: what came in."""
    normal: bool
    """Whether it is to be normalised when it is read."""


@dataclass(frozen=True)
class Record:
    """`stage.json`."""

    format: int
    fingerprint: str
    """Of the pass, its options, and what it started from."""
    options: Mapping[str, Any]
    """For people."""
    seconds: float
    notes: tuple[str, ...]
    files: Mapping[str, str]
    """Every file, relative to the run's folder, or absolute where a pass wrote it elsewhere; and its digest."""
    model: Place
    original: Place | None = None
    plan: str | None = None
    scores: str | None = None
    verification: Verification | None = None
    normalized: bool = False
    coupling: str | None = None
    """The stage that analysed it."""

    def written(self) -> str:
        """As text."""
        return json.dumps(asdict(self), indent=2) + "\n"


def read_record(folder: Path, stage: str, prints: Fingerprints) -> Record | str:
    """The record of a stage, if all that it tells of is there and whole; else why it does not count."""
    file = folder / stage / RECORD
    try:
        record = Reader().read(Record, json.loads(file.read_bytes()))
    except FileNotFoundError:
        return "not done yet"
    except (OSError, ValueError, TypeError, RecursionError, UserError):
        return f"{RECORD} is damaged"
    if record.format != FORMAT:
        return "made by another version of onnxprune"
    for name, digest in record.files.items():
        try:
            if prints.path(folder / name) != digest:
                return f"{name} has been changed"
        except UserError:
            return f"{name} is gone"
    return record


def clear(folder: Path, stage: str) -> Path:
    """The stage's own folder, emptied; what a stopped run needs to go on stays. The record goes first."""
    own = folder / stage
    try:
        own.mkdir(parents=True, exist_ok=True)
        (own / RECORD).unlink(missing_ok=True)
        for item in own.iterdir():
            if not item.is_dir():
                item.unlink()
    except OSError as error:
        raise UserError(f"cannot use the folder {str(own)!r}: {error.strerror or error}") from None
    return own


@dataclass(frozen=True, eq=False)
class Kept:
    """A state, and where what is in it lies."""

    state: State
    model: Place
    original: Place | None = None
    plan: str | None = None
    scores: str | None = None
    coupling: str | None = None

    def of(self, model: Model) -> Place | None:
        """Where this very model lies, if it does."""
        for known, place in ((self.state.model, self.model), (self.state.original, self.original)):
            if known is model:
                return place
        return None


def keep(folder: Path, stage: str, state: State, before: Kept) -> Kept:
    """Write what is new in a state."""
    base = before.state
    normal = state.normalized or state.original is not None or state.plan is not None
    place = before.of(state.model) or _model(folder, f"{stage}/model.onnx", state.model, normal)
    original, plan, scores, coupling = None, None, None, None
    if state.original is not None:
        original = before.of(state.original) or _model(folder, f"{stage}/original.onnx", state.original, True)
    if state.plan is not None:
        plan = before.plan if state.plan is base.plan and before.plan else f"{stage}/plan.json"
        if plan != before.plan:
            plan_json.save(state.plan, folder / plan)
    if state.scores is not None:
        scores = before.scores if state.scores is base.scores and before.scores else f"{stage}/scores.json"
        if scores != before.scores:
            write_text(folder / scores, _scores_text(state.scores))
    if state.coupling is not None:
        coupling = before.coupling if state.coupling is base.coupling and before.coupling else stage
    if state.bench is not None and state.bench is not base.bench:
        write_text(folder / stage / "bench.json", json.dumps(state.bench.to_dict(), indent=2) + "\n")
    return Kept(state, place, original, plan, scores, coupling)


def restored(folder: Path, record: Record, source: Path) -> Kept:
    """The state of a record, but for the coupling; `source` is the file that came in."""
    state = State(
        _loaded(folder, record.model, source),
        normalized=record.normalized,
        original=_loaded(folder, record.original, source) if record.original else None,
        scores=_scores(folder / record.scores) if record.scores else None,
        plan=plan_json.load(folder / record.plan) if record.plan else None,
        verification=record.verification,
    )
    return Kept(state, record.model, record.original, record.plan, record.scores, record.coupling)


def _model(folder: Path, name: str, model: Model, normal: bool) -> Place:
    store.save(restore(model), folder / name)
    return Place(name, normal)


def _loaded(folder: Path, place: Place, source: Path) -> Model:
    model = store.load(folder / place.file if place.file else source)
    if not place.normal:
        return model
    normal = normalize(model)
    proto = onnx.ModelProto()
    proto.CopyFrom(normal.proto)
    # shapes go when a model is normalised, for they may not hold; but what was cut already has new ones
    proto.graph.value_info.extend(model.graph.value_info)
    return normal.replace(proto=proto)


def _scores_text(scores: Scores) -> str:
    document = {
        "criterion": scores.criterion,
        "seed": scores.seed,
        "reduce": scores.reduce,
        "normalize": scores.normalize,
        "skipped": {name: asdict(reason) for name, reason in scores.skipped.items()},
        "by_group": {name: units.tolist() for name, units in scores.by_group.items()},
    }
    return json.dumps(document, indent=1) + "\n"


@dataclass(frozen=True)
class _Stored:
    """`scores.json`."""

    criterion: str
    seed: int
    reduce: str
    normalize: str
    skipped: Mapping[str, Reason]
    by_group: Mapping[str, Sequence[float]]


def _scores(file: Path) -> Scores:
    found = Reader().read(_Stored, json.loads(file.read_bytes()), str(file))
    by_group = {name: np.array(units, np.float64) for name, units in found.by_group.items()}
    skipped = MappingProxyType(dict(found.skipped))
    return Scores(found.criterion, MappingProxyType(by_group), skipped, found.seed, found.reduce, found.normalize)
