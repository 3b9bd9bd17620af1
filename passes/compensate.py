"""Make up for what was cut, on calibration data: by least squares, or by the moments of single channels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from onnxprune.accuracy.drop import drop_of, holds
from onnxprune.accuracy.evaluate import Evaluation, Reference, evaluate
from onnxprune.cutting.plan import Plan
from onnxprune.data.sources import Dataset, Request, reopened
from onnxprune.execution.runtime import check_threads
from onnxprune.files.model import Model
from onnxprune.pipeline.manager import State, changed
from onnxprune.repair.behind import left_alone
from onnxprune.repair.compensate import MODES, Compensated, check_mode, compensate
from onnxprune.repair.reestimate import reestimate
from onnxprune.text.figures import plural, some


@dataclass(frozen=True)
class MakeUp(ABC):
    """Something is done about what was cut, and kept unless it takes the outputs farther from the original's."""

    data: Request
    threads: int = 1
    on_progress: Callable[[float], None] | None = None
    """Told which part is over, 0 to 1."""
    judge: Request | None = None
    """Data with labels, say, on which the model must not get worse either."""
    metric: str | None = None
    """What is measured there, `module:function`; None: accuracy, else agreement, else the distance of the outputs."""

    needs: ClassVar[tuple[str, ...]] = ("model", "original", "plan")
    gives: ClassVar[tuple[str, ...]] = ("model",)
    drops: ClassVar[tuple[str, ...]] = ("normalized", "coupling", "scores", "bench")
    done: ClassVar[str]
    doing: ClassVar[str]
    nothing: ClassVar[str]

    def check(self) -> None:
        check_threads(self.threads)

    def run(self, state: State) -> State:
        assert state.original is not None
        assert state.plan is not None
        data = reopened(self.data, state.original)
        found = self._found(state.original, state.model, state.plan, data)
        kept = State(state.model, original=state.original, plan=state.plan, verification=state.verification)
        beside = (*self._beside(state.model, state.plan), *data.troubles)
        if not found.fits:
            return changed(kept, notes=(self.nothing, *beside))
        reference = Reference(state.original, data, threads=self.threads)
        before, after = (
            evaluate(model, data, original=reference, labels=False, threads=self.threads)
            for model in (state.model, found.model)
        )
        worse = _farther(before, after)
        loss = None if worse else self._loss(state.original, state.model, found.model)
        notes = (loss or self._told(before, after), *beside)
        if worse or loss:
            return changed(kept, notes=notes)
        record = {"by": self.name, "before": before.figures(), "after": after.figures()}
        plan = replace(state.plan, meta={**state.plan.meta, "compensated": record})
        return changed(kept, model=found.model, plan=plan, notes=notes)

    @property
    @abstractmethod
    def name(self) -> str:
        """One of `MAKE_UPS`."""

    @abstractmethod
    def _found(self, original: Model, pruned: Model, plan: Plan, data: Dataset) -> Compensated: ...

    def _loss(self, original: Model, pruned: Model, made_up: Model) -> str | None:
        """What to say where it costs something of what was asked to be measured."""
        if self.judge is None:
            return None
        data = reopened(self.judge, original)
        reference = Reference(original, data, threads=self.threads)
        options: dict[str, Any] = {"original": reference, "metric": self.metric, "threads": self.threads}
        whole, before, after = (evaluate(model, data, **options) for model in (original, pruned, made_up))
        if after.metric is None and after.agreement is None and after.deviation is None:
            return None
        (had, what), (has, _) = drop_of(whole, before), drop_of(whole, after)
        if holds(has, had):
            return None
        return f"{self.doing} would cost more {what} on {self.judge.spec!r} ({had:.4f} to {has:.4f}); left undone"

    def _beside(self, pruned: Model, plan: Plan) -> tuple[str, ...]:
        """What else there is to say."""
        return ()

    def _told(self, before: Evaluation, after: Evaluation) -> str:
        b, a = off_by(before), off_by(after)
        if b is None or a is None:
            return f"{self.done} on {plural(after.samples, 'sample')}; no output could be compared with the original's"
        if _farther(before, after):
            return f"{self.doing} would take the outputs farther from the original's ({b:.3g} to {a:.3g}); left undone"
        return f"{self.done} on {plural(after.samples, 'sample')}: outputs are off by {a:.3g} instead of {b:.3g}"


@dataclass(frozen=True)
class Compensate(MakeUp):
    """Solve the weights that are left so that every layer comes closest to what it was; see `onnxprune.compensate`."""

    mode: str = "sequential"
    """Or `one-pass`, which asks the original alone."""

    done: ClassVar[str] = "compensated"
    doing: ClassVar[str] = "compensation"
    nothing: ClassVar[str] = (
        "nothing to compensate: no layer with plain float32 weights of its own follows what was cut"
    )

    def check(self) -> None:
        check_mode(self.mode)
        super().check()

    @property
    def name(self) -> str:
        return self.mode

    def _found(self, original: Model, pruned: Model, plan: Plan, data: Dataset) -> Compensated:
        return compensate(
            original, pruned, plan, data, mode=self.mode, threads=self.threads, on_progress=self.on_progress
        )

    def _beside(self, pruned: Model, plan: Plan) -> tuple[str, ...]:
        alone = left_alone(pruned, plan)
        said = [f"{why} ({some([*map(repr, names)])})" for why, names in alone.items()]
        return (f"lost inputs, and cannot be solved: {'; '.join(said)}",) if said else ()


@dataclass(frozen=True)
class Reestimate(MakeUp):
    """Bring mean and variance of every channel back to what they were; see `onnxprune.reestimate`."""

    done: ClassVar[str] = "re-estimated"
    doing: ClassVar[str] = "re-estimation"
    nothing: ClassVar[str] = "nothing to re-estimate: no channel that could be corrected has another mean or variance"

    @property
    def name(self) -> str:
        return "bn"

    def _found(self, original: Model, pruned: Model, plan: Plan, data: Dataset) -> Compensated:
        return reestimate(original, pruned, plan, data, threads=self.threads, on_progress=self.on_progress)


def off_by(found: Evaluation) -> float | None:
    """How far the outputs are from the original's: their distance, else how many samples are judged otherwise."""
    if found.deviation is None and found.agreement is not None:
        return 1 - found.agreement
    return found.deviation


def _farther(before: Evaluation, after: Evaluation) -> bool:
    """Whether compensation has led away from the original."""
    b, a = off_by(before), off_by(after)
    return b is not None and a is not None and not (a <= b and a < math.inf)


MAKE_UPS = (*MODES, "bn", "none")
"""By what can be made up for what was cut: the two modes of `Compensate`, `Reestimate`, or nothing."""


def make_up(how: str, data: Request, threads: int, on_progress: Callable[[float], None] | None = None) -> list[MakeUp]:
    """The pass that makes up for a cut in one of `MAKE_UPS`, if it is not none."""
    if how == "none":
        return []
    if how == "bn":
        return [Reestimate(data, threads, on_progress)]
    return [Compensate(data, threads, on_progress, mode=how)]
