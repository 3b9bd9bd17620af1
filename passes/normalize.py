"""Bring a model into the form that analysis expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxprune.graph.normalize import normalize
from onnxprune.pipeline.manager import State, changed


@dataclass(frozen=True)
class Normalize:
    """Inline functions, turn constants into weights, take merged constants apart."""

    needs: ClassVar[tuple[str, ...]] = ("model",)
    gives: ClassVar[tuple[str, ...]] = ("model", "normalized")
    drops: ClassVar[tuple[str, ...]] = ("coupling", "scores", "plan", "original", "verification", "bench")

    def run(self, state: State) -> State:
        return changed(state.with_model(normalize(state.model)), normalized=True)
