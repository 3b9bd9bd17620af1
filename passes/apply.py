"""Cut the model by the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxprune.cutting.apply import apply
from onnxprune.pipeline.manager import State


@dataclass(frozen=True)
class Apply:
    """Slice the weights and mend the operators that store a size."""

    needs: ClassVar[tuple[str, ...]] = ("model", "normalized", "plan")
    gives: ClassVar[tuple[str, ...]] = ("model", "original", "plan")
    drops: ClassVar[tuple[str, ...]] = ("normalized", "coupling", "scores", "verification", "bench")

    def run(self, state: State) -> State:
        assert state.plan is not None
        return State(apply(state.model, state.plan), original=state.model, plan=state.plan)
