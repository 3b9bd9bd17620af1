"""Runs the stages of a pipeline, in order, each from the artefact of the one that it starts from.

A stage whose artefact is there is not run again, unless its pass, its options or what it reads have changed, or what it
starts from is run again. Whether it is run at once or in many parts, with stops between, the results are the same.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from onnxprune.data.schema import options_of, written_by
from onnxprune.errors import OtherRun, UserError
from onnxprune.files import store
from onnxprune.files.replacing import check_writable, write_text
from onnxprune.graph.dims import parse_dims
from onnxprune.pipeline.artefacts import FORMAT, WORK, Kept, Place, Record, clear, keep, read_record, restored
from onnxprune.pipeline.fingerprints import Fingerprints
from onnxprune.pipeline.held import held
from onnxprune.pipeline.manager import Observer, Pass, State, changed, name_of, run_pass
from onnxprune.pipeline.stage_figures import Figured, Figures
from onnxprune.pipeline.stages import INPUT, Origin, Pipeline, Stage, named
from onnxprune.text.shown import Shown
from onnxprune.version import __version__

MARK = "pipeline.json"
"""Marks a folder as one in which pipelines run."""
SUMMARY = "summary.json"

Hooks = Mapping[str, Callable[..., Any]]
"""What passes tell of while they run, by the name of the field: `on_progress`, `on_try`, `watch`."""


@dataclass(frozen=True)
class Todo:
    """What is going to happen to a stage."""

    stage: Stage
    fingerprint: str
    record: Record | None
    """Of the artefact that is kept; None: it runs."""
    why: str = ""
    """Why it runs."""


@dataclass(frozen=True)
class Row:
    """What came of a stage; the first is the input."""

    name: str
    step: str
    start: str
    """What it started from."""
    kept: bool
    """Whether it was done before."""
    seconds: float
    figures: Figures | None
    """None: it made no model."""
    files: tuple[str, ...]
    notes: tuple[str, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Report(Shown):
    """What came of a run: also `summary.json`."""

    name: str
    model: str
    folder: str
    done: bool
    """False in the summary of a run that is not over, or was stopped."""
    seconds: float
    """All stages together, those that were done before included."""
    stages: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def preview(pipeline: Pipeline, *, start: str | None = None) -> list[Todo]:
    """What `run_pipeline` would do; nothing is written."""
    with _importable(pipeline.modules):
        prints = Fingerprints()
        if pipeline.origin is not None and not _is_made(pipeline, pipeline.origin, prints):
            return [Todo(stage, "", None, "the model is exported first") for stage in pipeline.stages]
        return _todo(pipeline, start, prints)


def run_pipeline(
    pipeline: Pipeline,
    *,
    start: str | None = None,
    observers: Sequence[Observer] = (),
    hooks: Hooks | None = None,
) -> Report:
    """Run what is not done yet; `start` names a stage that is run again, and with it all that is made from it."""
    with _importable(pipeline.modules):
        prints = Fingerprints()
        todo = [] if pipeline.origin is not None else _todo(pipeline, start, prints)
        _claim(Path(pipeline.folder), pipeline)
        with held(Path(pipeline.folder)):
            if pipeline.origin is not None:
                _make(pipeline, pipeline.origin, prints)
                todo = _todo(pipeline, start, prints)
            return _Run(pipeline, todo, prints, observers, hooks or {}).report()


def _make(pipeline: Pipeline, origin: Origin, prints: Fingerprints) -> None:
    """Write the model that the pipeline begins with, unless it is what it would be."""
    if not _is_made(pipeline, origin, prints):
        path = Path(pipeline.model)
        origin.made(path)
        write_text(path.with_suffix(".json"), _mark(path, origin, prints))


def _is_made(pipeline: Pipeline, origin: Origin, prints: Fingerprints) -> bool:
    path = Path(pipeline.model)
    try:
        return path.with_suffix(".json").read_text("utf-8", "replace") == _mark(path, origin, prints)
    except (OSError, UserError):  # one of the two is not there
        return False


def _mark(path: Path, origin: Origin, prints: Fingerprints) -> str:
    facts = {"options": prints.facts(origin), "source": prints.named(origin.factory), "version": __version__}
    return json.dumps({"made": prints.combined(**facts), "file": prints.read(path)}) + "\n"


def _todo(pipeline: Pipeline, start: str | None, prints: Fingerprints) -> list[Todo]:
    if start is not None:
        pipeline.stage(start)
    folder = Path(pipeline.folder)
    source = store.load(pipeline.model)
    for dims in (pipeline.dims, pipeline.measure.dims or {}):
        parse_dims([f"{name}={size}" for name, size in dims.items()], source)
    marks = {INPUT: prints.combined(model=prints.read(pipeline.model), version=__version__, format=FORMAT)}
    found: list[Todo] = []
    runs: set[str] = set()
    written = {Path(pipeline.model).resolve()}
    for stage in pipeline.stages:
        before = pipeline.before(stage)
        base = before.name if before else INPUT
        with named(stage):
            for name in written_by(type(stage.step)):
                _check_written(Path(getattr(stage.step, name)), written)
            kind = f"{type(stage.step).__module__}.{type(stage.step).__qualname__}"
            marks[stage.name] = prints.combined(start=marks[base], step=kind, options=prints.facts(stage.step))
        record = read_record(folder, stage.name, prints)
        why = ""
        if stage.name == start:
            why = "asked for"
        elif isinstance(record, str):
            why = record
        elif base in runs:
            why = f"{base} runs"
        elif record.fingerprint != marks[stage.name]:
            why = "its options or inputs have changed"
        if why:
            runs.add(stage.name)
        found.append(Todo(stage, marks[stage.name], None if isinstance(record, str) or why else record, why))
    return found


def _check_written(file: Path, taken: set[Path]) -> None:
    """Every file once, and never what comes in: a later run would begin with the result."""
    check_writable(file)
    if file.resolve() in taken:
        raise UserError(f"{str(file)!r} is what the pipeline begins with, or what another stage writes; name another")
    taken.add(file.resolve())


class _Run:
    """One run: what has been made so far, and what there is to report of it."""

    def __init__(
        self,
        pipeline: Pipeline,
        todo: Sequence[Todo],
        prints: Fingerprints,
        observers: Sequence[Observer],
        hooks: Hooks,
    ) -> None:
        self.pipeline, self.todo, self.prints = pipeline, todo, prints
        self.observers, self.hooks = observers, hooks
        self.folder = Path(pipeline.folder)
        self.records = {each.stage.name: each.record for each in todo if each.record is not None}
        self.figured = Figured(pipeline, self.folder, prints)
        self._latest: tuple[str, Kept] | None = None

    def report(self) -> Report:
        """Run it."""
        rows = [self._input()]
        self._summarise(rows, done=False)
        for each in self.todo:
            with named(each.stage):
                record = each.record or self._do(each)
                rows.append(self._row(each, record))
            self._summarise(rows, done=each is self.todo[-1])
        return self._summarise(rows, done=True)

    def _input(self) -> Row:
        source = Path(self.pipeline.model)
        figures = self.figured.of(INPUT, source, self.prints.read(source))
        return Row(INPUT, "", "", True, 0.0, figures, (str(source),), (), {})

    def _do(self, todo: Todo) -> Record:
        stage = todo.stage
        before = self._at(self.pipeline.before(stage))
        own = clear(self.folder, stage.name)
        step = _equipped(stage.step, own / f"{WORK}{todo.fingerprint[:8]}", self.hooks)
        state, seconds = run_pass(step, changed(before.state, notes=()), self.observers)
        kept = keep(self.folder, stage.name, state, before)
        record = Record(
            format=FORMAT,
            fingerprint=todo.fingerprint,
            options=_shown(stage.step),
            seconds=seconds,
            notes=state.notes,
            files=self._files(own, stage.step),
            model=kept.model,
            original=kept.original,
            plan=kept.plan,
            scores=kept.scores,
            verification=state.verification,
            normalized=state.normalized,
            coupling=kept.coupling,
        )
        write_text(own / "stage.json", record.written())
        self.records[stage.name] = record
        self._latest = stage.name, kept
        return record

    def _at(self, stage: Stage | None) -> Kept:
        """What a stage has made: still in memory, or read."""
        if stage is None:
            return Kept(State(store.load(self.pipeline.model)), Place("", False))
        if self._latest is not None and self._latest[0] == stage.name:
            return self._latest[1]
        kept = restored(self.folder, self.records[stage.name], Path(self.pipeline.model))
        if kept.coupling is None:
            return kept
        giver = self.pipeline.stage(kept.coupling)
        again = giver.step.run(self._at(self.pipeline.before(giver)).state)
        return replace(kept, state=changed(kept.state, coupling=again.coupling))

    def _row(self, todo: Todo, record: Record) -> Row:
        stage = todo.stage
        figures = None
        if record.model.file.startswith(f"{stage.name}/"):
            file = self.folder / record.model.file
            figures = self.figured.of(stage.name, file, todo.fingerprint)
        before = self.pipeline.before(stage)
        start = before.name if before else INPUT
        notes = (*record.notes, *([figures.note] if figures and figures.note else []))
        files = tuple(record.files)
        kept = todo.record is not None
        return Row(stage.name, name_of(stage.step), start, kept, record.seconds, figures, files, notes, record.options)

    def _files(self, own: Path, step: Pass) -> dict[str, str]:
        """All that is there now, and what the pass wrote elsewhere."""
        files = [file for file in sorted(own.iterdir()) if file.is_file()]
        inside = {f"{own.name}/{file.name}": self.prints.path(file) for file in files}
        outside = [Path(getattr(step, name)).resolve() for name in written_by(type(step))]
        return inside | {str(file): self.prints.path(file) for file in outside}

    def _summarise(self, rows: Sequence[Row], *, done: bool) -> Report:
        report = Report(
            name=self.pipeline.name,
            model=str(self.pipeline.model),
            folder=str(self.folder),
            done=done,
            seconds=sum(row.seconds for row in rows),
            stages=tuple(rows),
        )
        write_text(self.folder / SUMMARY, json.dumps(report.to_dict(), indent=2, default=str) + "\n")
        return report


def _equipped(step: Any, folder: Path, hooks: Hooks) -> Pass:
    """The pass with a folder for what a stopped run needs, and somebody to tell, where it has fields for these."""
    given: dict[str, Any] = {"folder": folder, **hooks}
    empty = {item.name for item in fields(step) if getattr(step, item.name) is None}
    made: Pass = replace(step, **{name: value for name, value in given.items() if name in empty})
    return made


def _shown(step: Pass) -> dict[str, Any]:
    """All options, for people."""
    given = {name: getattr(step, name) for name in options_of(type(step))}
    shown: dict[str, Any] = json.loads(json.dumps(given, default=_plain))
    return shown


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def _claim(folder: Path, pipeline: Pipeline) -> None:
    """Stages are emptied before they run, so that nobody's own files may lie there."""
    mark = folder / MARK
    try:
        if folder.is_dir() and not mark.exists() and any(folder.iterdir()):
            raise OtherRun(f"{str(folder)!r} is not empty, and no pipeline ran there: name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use the folder {str(folder)!r}: {error.strerror or error}") from None
    text = json.dumps({"pipeline": pipeline.name, "onnxprune": __version__}) + "\n"
    if not mark.exists() or mark.read_text("utf-8", "replace") != text:
        write_text(mark, text)


@contextmanager
def _importable(folder: Path | None) -> Iterator[None]:
    """Behind all others, so that a file there cannot take the place of a library."""
    added = [str(each) for each in (folder, Path.cwd()) if each is not None]
    sys.path.extend(added)
    try:
        yield
    finally:
        for each in added:
            sys.path.remove(each)
