"""Try several criteria on calibration data and take the one that leaves most."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from onnxprune.accuracy.evaluate import Reference, evaluate
from onnxprune.cutting.apply import apply
from onnxprune.data.sources import Request, reopened
from onnxprune.errors import UserError
from onnxprune.passes.compensate import make_up, off_by
from onnxprune.passes.score import Score
from onnxprune.passes.select import Select
from onnxprune.pipeline.manager import State, changed
from onnxprune.scoring.reconstruction import DATA_CRITERIA
from onnxprune.targets.costs import limited_by

CANDIDATES = ("l1", "l2", "fpgm", "bn_scale", "activation", "obs")
SAMPLES = 128
"""For a quick look."""


@dataclass(frozen=True)
class Choose:
    """The plan of the criterion whose model, compensated, stays closest to the original on a part of the data."""

    data: Request
    score: Score = field(default_factory=Score)
    """Its criterion is the one that is tried out."""
    select: Select = field(default_factory=Select)
    candidates: tuple[str, ...] = CANDIDATES
    threads: int = 1
    compensate: str = "sequential"
    """How each model is made up for what it lost: one of `onnxprune.passes.compensate.MAKE_UPS`."""

    needs: ClassVar[tuple[str, ...]] = ("model", "normalized", "coupling")
    gives: ClassVar[tuple[str, ...]] = ("scores", "plan")
    drops: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        for criterion in self.candidates:
            replace(self.score, criterion=criterion, data=self.data).check()
        self.select.check()

    def run(self, state: State) -> State:
        few = replace(self.data, limit=min(SAMPLES, self.data.limit or SAMPLES))
        data = reopened(few, state.model)
        original = Reference(state.model, data, threads=self.threads)
        found: list[tuple[float, State, str]] = []
        said, without, why = [], [], UserError("no criterion was tried")
        for criterion in self.candidates:
            try:
                made = replace(self.score, criterion=criterion, data=few).run(state)
                made = self._select(criterion).run(made)
            except UserError as error:  # bn_scale without BatchNormalization, for instance
                why = error
                without.append(criterion)
                continue
            assert made.plan is not None
            solved = State(apply(state.model, made.plan), original=state.model, plan=made.plan)
            for step in make_up(self.compensate, few, self.threads):
                solved = step.run(solved)
            figures = evaluate(solved.model, data, original=original, labels=False, threads=self.threads)
            off = off_by(figures)
            off = math.inf if off is None else off
            said.append(f"{criterion} {off:.3g}")
            found.append((off, made, criterion))
        if not found:
            raise why
        off, best, criterion = min(found, key=lambda each: each[0])
        told = f"criterion auto took {criterion}; outputs were off by {', '.join(said)} on {SAMPLES} samples at most"
        told += f"; nothing came of {', '.join(without)}" if without else ""
        return changed(best, notes=(told, *best.notes))

    def _select(self, criterion: str) -> Select:
        """Scores that ask data compare between groups; then what the targets limit decides how much each loses."""
        if criterion not in DATA_CRITERIA or self.select.per != "none" or self.select.scope != "local":
            return self.select
        return replace(self.select, per=limited_by(self.select.targets))
