"""Give every unit of every group its worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxprune.pipeline import State, changed
from onnxprune.scores import check_options, score


@dataclass(frozen=True)
class Score:
    """Score the groups by a criterion."""

    criterion: str = "l1"
    seed: int = 0
    reduce: str = "mean"
    normalize: str = "mean"

    needs: ClassVar[tuple[str, ...]] = ("model", "coupling")
    gives: ClassVar[tuple[str, ...]] = ("scores",)
    drops: ClassVar[tuple[str, ...]] = ("plan",)

    def check(self) -> None:
        check_options(self.criterion, self.seed, self.reduce, self.normalize)

    def run(self, state: State) -> State:
        assert state.coupling is not None
        found = score(
            state.model, state.coupling, self.criterion, seed=self.seed, reduce=self.reduce, normalize=self.normalize
        )
        return changed(state, scores=found)
