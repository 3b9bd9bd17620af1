"""A pipeline: named stages, each of which runs one pass on what an earlier one has made.

    input ─► sparse ─► prune ─┬─► tuned
                              └─► scratch         start="prune"

    Pipeline([Stage("prune", Prune()), Stage("tuned", ...), Stage("scratch", ..., start="prune")], model="m.onnx")

It is checked as a whole when it is built, along every branch, as a `PassManager` checks its passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from onnxprune.data.sources import Request
from onnxprune.errors import UserError
from onnxprune.pipeline.manager import Pass, PassManager
from onnxprune.text.kinds import is_number
from onnxprune.text.names import suggest
from onnxprune.timing.bench import check_options

INPUT = "input"
"""What a stage may also start from."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""A stage's name is also that of its folder."""


@dataclass(frozen=True)
class Stage:
    """A pass, and where it begins."""

    name: str
    step: Pass
    start: str | None = None
    """The stage whose result it takes, or `input`; None: the one before it."""


@dataclass(frozen=True)
class Measure:
    """What is measured of the input and of every model that a stage makes."""

    data: Request | None = None
    """For accuracy, agreement with the input and the distance from its outputs; None: these are not measured."""
    metric: str | None = None
    """`module:function`, measured as well."""
    threads: int = 1
    dims: Mapping[str, int] | None = None
    """Sizes of free dimensions for what is timed."""
    seconds: float = 1.0
    """For the timing of each model against the input; 0: latency is not measured."""

    def check(self) -> None:
        """Refuse what cannot be."""
        if not is_number(self.seconds):
            raise UserError(f"seconds must be a number, not {self.seconds!r}")
        check_options(self.threads, 0, self.seconds, None)
        if self.metric is not None and self.data is None:
            raise UserError("a metric is measured on data: name some")


class Origin(Protocol):
    """A frozen dataclass whose fields say how a file is made, `onnxprune.passes.export.Export` for instance."""

    @property
    def factory(self) -> str:
        """The function, `module:function`, whose source the file depends on."""

    def check(self) -> None:
        """Raise a `UserError` where the options are wrong."""

    def made(self, path: Path) -> None:
        """Write the file."""


@dataclass(frozen=True)
class Pipeline:
    """Stages in the order in which they run, and where everything is."""

    stages: Sequence[Stage]
    model: str | Path
    """The file that it begins with."""
    folder: str | Path
    """Where every stage's result is kept."""
    name: str = "pipeline"
    measure: Measure = field(default_factory=Measure)
    dims: Mapping[str, int] = field(default_factory=dict)
    """Sizes of free dimensions, for what is counted."""
    modules: Path | None = None
    """A folder in which `module:function` is looked for as well."""
    origin: Origin | None = None
    """Writes `model` before the first stage runs; None: it is there."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError("a pipeline has at least one stage")
        self.measure.check()
        if self.origin is not None:
            self.origin.check()
        seen = [INPUT]
        for stage in self.stages:
            _check_name(stage.name, seen)
            if stage.start is not None and stage.start not in seen:
                raise UserError(
                    f"stage {stage.name!r} starts from {stage.start!r}, which is no earlier stage"
                    f"{suggest(stage.start, seen)} (there are: {', '.join(seen)})"
                )
            seen.append(stage.name)
            with named(stage):
                PassManager([each.step for each in self.way_to(stage)])

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = [stage.name for stage in self.stages]
        raise UserError(f"there is no stage {name!r}{suggest(name, names)} (there are: {', '.join(names)})")

    def before(self, stage: Stage) -> Stage | None:
        """The stage whose result this one takes; None: it takes the input."""
        if stage.start is not None:
            return None if stage.start == INPUT else self.stage(stage.start)
        index = self.stages.index(stage)
        return self.stages[index - 1] if index else None

    def way_to(self, stage: Stage) -> list[Stage]:
        """From the input to this stage, this one included."""
        way: list[Stage] = []
        at: Stage | None = stage
        while at is not None:
            way.append(at)
            at = self.before(at)
        return way[::-1]


@contextmanager
def named(stage: Stage) -> Iterator[None]:
    """Around what a stage does: mistakes say which stage they are of, and stay what they are."""
    try:
        yield
    except UserError as error:
        error.args = (f"stage {stage.name!r}: {error}",)
        raise


def _check_name(name: str, seen: Sequence[str]) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(f"a stage's name is made of letters, digits, _ and -, 64 at most, unlike {name!r}")
    if name.casefold() in (other.casefold() for other in seen):  # folders, on some systems
        what = "the name of what comes in" if name.casefold() == INPUT else "given to two stages"
        raise UserError(f"{name!r} is {what}: give the stage another name")
