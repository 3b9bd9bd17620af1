"""Make up for what was cut, on calibration data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from onnxprune.compensate import compensate
from onnxprune.data import Request, reopened
from onnxprune.evaluate import Evaluation, Reference, evaluate
from onnxprune.pipeline import State, changed
from onnxprune.runtime import check_threads


@dataclass(frozen=True)
class Compensate:
    """Solve the weights that are left so that every layer comes closest to what it was; see `onnxprune.compensate`."""

    data: Request
    threads: int = 1
    on_progress: Callable[[float], None] | None = None
    """Told which part is over, 0 to 1."""

    needs: ClassVar[tuple[str, ...]] = ("model", "original", "plan")
    gives: ClassVar[tuple[str, ...]] = ("model",)
    drops: ClassVar[tuple[str, ...]] = ("normalized", "coupling", "scores", "bench")

    def check(self) -> None:
        check_threads(self.threads)

    def run(self, state: State) -> State:
        assert state.original is not None
        assert state.plan is not None
        data = reopened(self.data, state.original)
        found = compensate(
            state.original, state.model, state.plan, data, threads=self.threads, on_progress=self.on_progress
        )
        reference = Reference(state.original, data, threads=self.threads)
        before = evaluate(state.model, data, original=reference, threads=self.threads)
        after = evaluate(found.model, data, original=reference, threads=self.threads)
        kept = State(
            found.model if _farther(before) >= _farther(after) else state.model,
            original=state.original,
            plan=state.plan,
            verification=state.verification,
        )
        return changed(kept, notes=(_told(before, after),))


def _farther(figures: Evaluation) -> float:
    return figures.deviation if figures.deviation is not None else 0.0


def _told(before: Evaluation, after: Evaluation) -> str:
    a, b = _farther(before), _farther(after)
    if b > a:
        return f"compensation would take the outputs farther from the original's ({a:.3g} to {b:.3g}); left undone"
    return f"compensated on {after.samples} samples: outputs are off by {b:.3g} instead of {a:.3g}"
