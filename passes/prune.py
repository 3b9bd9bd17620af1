"""Everything from a model to a smaller one that was verified, in one pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from onnxprune.passes.analyze import Analyze
from onnxprune.passes.apply import Apply
from onnxprune.passes.normalize import Normalize
from onnxprune.passes.score import Score
from onnxprune.passes.select import Select
from onnxprune.passes.verify import Verify
from onnxprune.pipeline.manager import PassManager, State, changed


@dataclass(frozen=True)
class Prune:
    """`Normalize`, `Analyze`, `Score`, `Select`, `Apply` and `Verify`, with the options of each."""

    analyze: Analyze = field(default_factory=Analyze)
    score: Score = field(default_factory=Score)
    select: Select = field(default_factory=Select)
    verify: Verify = field(default_factory=Verify)

    needs: ClassVar[tuple[str, ...]] = ("model",)
    gives: ClassVar[tuple[str, ...]] = ("model", "original", "plan", "verification")
    drops: ClassVar[tuple[str, ...]] = ("normalized", "coupling", "scores", "bench")

    def check(self) -> None:
        self._passes()

    def run(self, state: State) -> State:
        passes = self._passes()
        notes: list[str] = []
        for step in passes.passes:
            state = step.run(changed(state, notes=()))
            notes += state.notes
        return changed(state, notes=tuple(dict.fromkeys(notes)))

    def _passes(self) -> PassManager:
        return PassManager([Normalize(), self.analyze, self.score, self.select, Apply(), self.verify])
