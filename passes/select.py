"""Decide what goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from onnxprune.pipeline import State, changed
from onnxprune.select import select


@dataclass(frozen=True)
class Select:
    """Make a plan from the scores. The fields are those of `onnxprune.select`."""

    ratio: float = 0.3
    """Fraction of the prunable units of each group that goes."""
    scope: str = "local"
    round_to: int = 1
    min_keep: float = 0.1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    include_ops: tuple[str, ...] = ()
    exclude_ops: tuple[str, ...] = ()
    ratios: Mapping[str, float] | None = None

    needs: ClassVar[tuple[str, ...]] = ("coupling", "scores")
    gives: ClassVar[tuple[str, ...]] = ("plan",)
    drops: ClassVar[tuple[str, ...]] = ()

    def run(self, state: State) -> State:
        assert state.coupling is not None
        assert state.scores is not None
        options = {item.name: getattr(self, item.name) for item in fields(self)}
        return changed(state, plan=select(state.coupling, state.scores, **options))
