"""Take a plan from a file instead of making one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from onnxprune.cutting import plan_json
from onnxprune.pipeline.manager import State, changed


@dataclass(frozen=True)
class LoadPlan:
    """Read a plan that was saved earlier, for this model or its finetuned sibling."""

    path: str | Path
    allow_inexact: bool = False
    """Take a plan with cuts that verification cannot compare."""

    needs: ClassVar[tuple[str, ...]] = ("model",)
    gives: ClassVar[tuple[str, ...]] = ("plan",)
    drops: ClassVar[tuple[str, ...]] = ()

    def run(self, state: State) -> State:
        return changed(state, plan=plan_json.load_cuts(self.path, allow_inexact=self.allow_inexact))
