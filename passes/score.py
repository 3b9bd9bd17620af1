"""Give every unit of every group its worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from onnxprune.accuracy.curves_json import load
from onnxprune.accuracy.damage import rescored
from onnxprune.data.sources import Dataset, Request, reopened
from onnxprune.errors import NoData
from onnxprune.pipeline.manager import State, changed
from onnxprune.scoring.gradient_criteria import ASKING, GRADIENT_CRITERIA, gradient_scores
from onnxprune.scoring.reconstruction import data_scores
from onnxprune.scoring.scores import Scores, check_options, score


@dataclass(frozen=True)
class Score:
    """Score the groups by a criterion, and compare them by a measured sensitivity where there is one."""

    criterion: str = "l1"
    seed: int = 0
    reduce: str = "mean"
    normalize: str = "mean"
    data: Request | None = None
    """For criteria that ask data."""
    sensitivity: str | Path | None = None
    """What `onnxprune sensitivity` wrote."""
    threads: int = 1
    on_progress: Callable[[float], None] | None = field(default=None, repr=False, compare=False)
    """Called with the part that is over, while data is asked."""

    needs: ClassVar[tuple[str, ...]] = ("model", "coupling")
    gives: ClassVar[tuple[str, ...]] = ("scores",)
    drops: ClassVar[tuple[str, ...]] = ("plan",)

    def check(self) -> None:
        asks = self.criterion in ASKING
        check_options("l1" if asks else self.criterion, self.seed, self.reduce, self.normalize)
        if asks and self.data is None:
            raise NoData(
                f"criterion {self.criterion!r} asks data what a channel is worth: name some, --calib photos/, x.npz, "
                "module:function or random:256"
            )

    def run(self, state: State) -> State:
        data = reopened(self.data, state.model) if self.data is not None and self.criterion in ASKING else None
        found = self._scores(state, data)
        if self.sensitivity is not None:
            found = rescored(found, load(self.sensitivity))
        return changed(state, scores=found, notes=data.troubles if data is not None else ())

    def _scores(self, state: State, data: Dataset | None) -> Scores:
        assert state.coupling is not None
        if data is not None:
            if self.criterion in GRADIENT_CRITERIA:
                return gradient_scores(state.model, state.coupling, self.criterion, data, seed=self.seed)
            told = {"threads": self.threads, "on_progress": self.on_progress}
            return data_scores(state.model, state.coupling, self.criterion, data, **told)  # type: ignore[arg-type]
        options = {"seed": self.seed, "reduce": self.reduce, "normalize": self.normalize}
        return score(state.model, state.coupling, self.criterion, **options)  # type: ignore[arg-type]  # as they are
