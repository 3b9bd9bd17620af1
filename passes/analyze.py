"""Find the coupled channel groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxprune.analysis.analyze import analyze, check_options
from onnxprune.pipeline.manager import State, changed


@dataclass(frozen=True)
class Analyze:
    """Run the graph on ids and read the groups off."""

    allow_inexact: bool = False
    """Also offer cuts after which the kept channels compute something else (layer norm, softmax, mean)."""

    attention: str = "heads"
    """What is cut in attention: whole `heads`, `dims` within all heads alike, or nothing (`off`)."""

    needs: ClassVar[tuple[str, ...]] = ("model", "normalized")
    gives: ClassVar[tuple[str, ...]] = ("coupling",)
    drops: ClassVar[tuple[str, ...]] = ("scores", "plan")

    def check(self) -> None:
        check_options(self.attention)

    def run(self, state: State) -> State:
        return changed(state, coupling=analyze(state.model, allow_inexact=self.allow_inexact, attention=self.attention))
