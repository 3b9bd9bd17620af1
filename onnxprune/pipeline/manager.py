"""Passes are checked before they run: what one needs, an earlier one must have given.

    PassManager([Normalize(), Analyze(), Score("fpgm"), Select(ratio=0.3), Apply(), Verify()]).run("model.onnx")

A pass maps a State to a State and does nothing else; its fields are its options. Timing, progress and dumps hang off
the manager's observers. A new model drops whatever was derived from the old one, so nothing stale survives.
"""

from __future__ import annotations

import os
import reprlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from onnxprune.analysis.coupling import Coupling
from onnxprune.checking.verify import Verification
from onnxprune.cutting import plan_json
from onnxprune.cutting.plan import Plan
from onnxprune.errors import UserError
from onnxprune.files import store
from onnxprune.files.model import Model
from onnxprune.scoring.scores import Scores
from onnxprune.timing.bench import BenchReport


@dataclass(frozen=True, eq=False)
class State:
    """What flows from pass to pass. None: nobody has made it yet."""

    model: Model
    normalized: bool = False
    """Whether `model` is in the form that analysis expects."""
    original: Model | None = None
    """The normalised model that `plan` was applied to."""
    coupling: Coupling | None = None
    scores: Scores | None = None
    plan: Plan | None = None
    verification: Verification | None = None
    bench: BenchReport | None = None
    notes: tuple[str, ...] = ()
    """What the last pass wants the user to know."""

    def with_model(self, model: Model) -> State:
        """A new model; what was found out about the old one goes."""
        return State(model)


class Pass(Protocol):
    """A frozen dataclass whose fields are its options."""

    needs: ClassVar[tuple[str, ...]]
    """Fields of the State that must be there."""
    gives: ClassVar[tuple[str, ...]]
    """Fields it fills in."""
    drops: ClassVar[tuple[str, ...]]
    """Fields that are stale afterwards."""

    def run(self, state: State) -> State:
        """Do it."""
        ...


@runtime_checkable
class Checked(Protocol):
    """A pass whose options can be wrong in themselves."""

    def check(self) -> None:
        """Raise a `UserError` where they are; called when the manager is built."""
        ...


class Observer:
    """Told before and after each pass; the base does nothing."""

    def before(self, step: Pass, state: State) -> None:
        """The pass is about to run."""

    def after(self, step: Pass, state: State, seconds: float) -> None:
        """The pass has run and made this state."""


class Timings(Observer):
    """How long each pass took."""

    def __init__(self) -> None:
        self.seconds: list[tuple[str, float]] = []

    def after(self, step: Pass, state: State, seconds: float) -> None:
        self.seconds.append((name_of(step), seconds))


class Dump(Observer):
    """Writes what each pass made into a folder: plans as JSON, models as ONNX, numbered in order."""

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.count = Path(folder), 0
        self.folder.mkdir(parents=True, exist_ok=True)

    def after(self, step: Pass, state: State, seconds: float) -> None:
        self.count += 1
        stem = self.folder / f"{self.count:02d}-{name_of(step).lower()}"
        if "plan" in step.gives and state.plan is not None:
            plan_json.save(state.plan, f"{stem}.json")
        if "model" in step.gives:
            store.save(state.model, f"{stem}.onnx")


@dataclass(frozen=True)
class PassManager:
    """An ordered list of passes, checked as a whole when it is built."""

    passes: Sequence[Pass]
    observers: Sequence[Observer] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.passes, list | tuple) or not self.passes:
            raise UserError(_no_passes(self.passes))
        there = {"model"}
        for step in self.passes:
            if isinstance(step, type) or not all(hasattr(step, name) for name in _PARTS):
                raise UserError(_no_passes(step))
            if isinstance(step, Checked):
                step.check()
            for need in step.needs:
                if need not in there:
                    raise UserError(_missing(step, need, self.passes))
            there = (there - set(step.drops)) | set(step.gives)

    def run(self, model: str | os.PathLike[str] | Model) -> State:
        """Run all passes on a model or the file that holds it."""
        state = State(model if isinstance(model, Model) else store.load(model))
        for step in self.passes:
            state, _ = run_pass(step, state, self.observers)
        return state


def run_pass(step: Pass, state: State, observers: Iterable[Observer] = ()) -> tuple[State, float]:
    """What one pass makes of the state, and the seconds it took; observers are told."""
    for observer in observers:
        observer.before(step, state)
    start = time.perf_counter()
    state = step.run(state)
    seconds = time.perf_counter() - start
    for observer in observers:
        observer.after(step, state, seconds)
    return state, seconds


def name_of(step: Pass) -> str:
    """The pass's class, which is also what pipelines call it."""
    return type(step).__name__


_PARTS = ("run", "needs", "gives", "drops")


def _no_passes(found: object) -> str:
    said = f"the class {found.__name__}: write {found.__name__}()" if isinstance(found, type) else reprlib.repr(found)
    return f"PassManager takes a list of passes, as in [Normalize(), Analyze()], not {said}"


_GIVERS = {
    "normalized": "Normalize",
    "coupling": "Analyze",
    "scores": "Score",
    "plan": "Select (or LoadPlan)",
    "original": "Apply",
    "verification": "Verify",
}


def _missing(step: Pass, need: str, passes: Iterable[Pass]) -> str:
    giver = _GIVERS.get(need, f"a pass that gives {need}")
    late = (
        " earlier: it comes too late, or the model has changed since"
        if any(need in p.gives for p in passes if p is not step)
        else " before it"
    )
    what = "normalised model" if need == "normalized" else need
    return f"{name_of(step)} needs {_article(what)} {what}; add {giver}{late}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def changed(state: State, **fields: object) -> State:
    """The state with these fields filled in."""
    return replace(state, **fields)  # type: ignore[arg-type]  # dataclasses.replace checks the names at run time
