"""Decide what goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from onnxprune.budget import select_within
from onnxprune.clock import StopWatch
from onnxprune.meter import Meter
from onnxprune.pipeline import State, changed
from onnxprune.select import check_options, select
from onnxprune.targets import parse


@dataclass(frozen=True)
class Select:
    """Make a plan from the scores. The fields are those of `onnxprune.select`."""

    ratio: float = 0.3
    """Fraction of the prunable units of each group that goes; not used where there are targets."""
    targets: tuple[str, ...] = ()
    """What has to hold in the end, `macs=0.5` or `latency=12ms`; all of them hold at once."""
    threads: int = 1
    """For a latency target, which is measured."""
    dims: Mapping[str, int] | None = None
    """Sizes of free dimensions, for targets."""
    scope: str = "local"
    round_to: int = 1
    min_keep: float = 0.1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    include_ops: tuple[str, ...] = ()
    exclude_ops: tuple[str, ...] = ()
    ratios: Mapping[str, float] | None = None

    needs: ClassVar[tuple[str, ...]] = ("model", "coupling", "scores")
    gives: ClassVar[tuple[str, ...]] = ("plan",)
    drops: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        parse(self.targets)
        check_options(self.ratio, self.scope, self.round_to, self.min_keep)

    def run(self, state: State) -> State:
        assert state.coupling is not None
        assert state.scores is not None
        own = ("ratio", "targets", "threads", "dims")
        options = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in own}
        if not self.targets:
            return changed(state, plan=select(state.coupling, state.scores, ratio=self.ratio, **options))
        watch = StopWatch(state.model, threads=self.threads, dims=self.dims)
        absolute = any(target.kind == "latency" and target.absolute for target in parse(self.targets))
        plan = select_within(
            state.coupling,
            state.scores,
            self.targets,
            Meter(state.model, state.coupling, self.dims),
            clock=watch,
            original_ms=watch.original_ms() if absolute else 0.0,
            **options,
        )
        return changed(state, plan=plan)
