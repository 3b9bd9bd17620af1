"""Decide what goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from onnxprune.analysis.coupling import Coupling
from onnxprune.counting.meter import Meter, Usage
from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Plan
from onnxprune.errors import Unreachable, UserError
from onnxprune.files.model import Model
from onnxprune.pipeline.manager import State, changed
from onnxprune.selection.alignment import Alignment, measured
from onnxprune.selection.select import check_options, field_of, select
from onnxprune.targets.budget import Order, order_of, select_within
from onnxprune.targets.clock import StopWatch
from onnxprune.targets.costs import COSTS, terms_of
from onnxprune.targets.grammar import Target, parse
from onnxprune.targets.latency import Latency, latency_of
from onnxprune.targets.terms import Terms, Widths
from onnxprune.text.names import suggest

_ITS_OWN = ("ratio", "targets", "per", "threads", "dims", "timed_dims", "round_to")
"""Fields that are not handed on to selection as they are."""


_ANY_WIDTH = "the targets cannot be reached with widths that this machine likes; they are held with any (--round-to 1)"


_CORRECTIONS = 4
"""How often a target of size is lowered by what the cut itself adds."""


@dataclass(frozen=True)
class Select:
    """Make a plan from the scores. The fields are those of `onnxprune.select`, and what has to be measured."""

    ratio: float = 0.3
    """Fraction of the prunable units of each group that goes; not used where there are targets."""
    targets: tuple[str, ...] = ()
    """What has to hold in the end, `macs=0.5` or `latency=12ms`; all of them hold at once."""
    per: str = "none"
    """What importance is divided by: `macs`, `activation`, `params`, `latency`; one ranking over all groups then."""
    threads: int = 1
    """For what is measured."""
    dims: Mapping[str, int] | None = None
    """Sizes of free dimensions, for targets and costs."""
    timed_dims: Mapping[str, int] | None = None
    """The same for what is timed; None: `dims`."""
    scope: str = "local"
    round_to: int | str = "auto"
    """Keep multiples of that many channels; `auto`: of what this machine was measured to like."""
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
        check_options(self.ratio, self.scope, 1 if self.round_to == "auto" else self.round_to, self.min_keep)
        if self.per not in ("none", *COSTS):
            known = ", ".join((*COSTS, "none"))
            raise UserError(f"importance can be divided by {known}, not {self.per!r}{suggest(self.per, COSTS)}")

    def run(self, state: State) -> State:
        assert state.coupling is not None
        assert state.scores is not None
        if not self.targets and self.per == "none":
            blocks = self.alignment(state)
            plan = select(state.coupling, state.scores, ratio=self.ratio, round_to=blocks, **self._options())
            return changed(state, plan=plan, notes=blocks.notes if isinstance(blocks, Alignment) else ())
        meter = Meter(state.model, state.coupling, self.dims)
        order, notes = self.order(state, meter)
        if not self.targets:
            noted = {"targets": [f"ratio={self.ratio}"], "bound_by": "ratio"}
            return changed(state, plan=order.plan(order.share(self.ratio), **noted), notes=notes)
        try:
            return changed(state, plan=self._within(state, order, meter), notes=notes)
        except Unreachable:
            if self.round_to != "auto":
                raise
            # a budget counts more than what the machine likes
            found = replace(self, round_to=1).run(state)
            return changed(found, notes=(*notes, _ANY_WIDTH, *found.notes))

    def _within(self, state: State, order: Order, meter: Meter) -> Plan:
        """A cut may add a few bytes of its own, split sizes or indices: where that is too much, a little more goes."""
        watched = self.watched(state, self.targets)
        targets = parse(self.targets)
        whole = meter.usage({})
        for _ in range(_CORRECTIONS):
            plan = select_within(order, targets, meter, **watched)
            missed = _missed(targets, whole, apply(state.model, plan), self.dims)
            if not missed:
                break
            targets = tuple(missed.get(target.kind, target) for target in targets)
        return replace(plan, meta={**plan.meta, "targets": list(self.targets)})

    def alignment(self, state: State) -> int | Alignment:
        """The widths to keep, measured if need be."""
        return measured(state.model, threads=self.threads) if isinstance(self.round_to, str) else self.round_to

    @property
    def timed(self) -> Mapping[str, int] | None:
        """Sizes of free dimensions for what is timed."""
        return self.timed_dims if self.timed_dims is not None else self.dims

    def _options(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in _ITS_OWN}

    def order(self, state: State, meter: Meter) -> tuple[Order, tuple[str, ...]]:
        """In which order units go, and what there is to say about what was measured for that."""
        assert state.coupling is not None
        assert state.scores is not None
        blocks, scores = self.alignment(state), state.scores
        notes = blocks.notes if isinstance(blocks, Alignment) else ()
        widths = Widths(state.coupling, meter.shapes)
        per: Terms | None = None
        if self.per == "latency":
            latency = self._latency(state, meter, blocks)
            per, notes = latency.terms, (*notes, *latency.notes)
        elif self.per != "none":
            per = terms_of(self.per, state.model, meter, widths)
        if per is not None and not scores.comparable:
            scores = scores.weighed(_work(state.model, meter, widths))
        order = order_of(state.coupling, scores, per=per, per_what=self.per, round_to=blocks, **self._options())
        return order, notes

    def _latency(self, state: State, meter: Meter, blocks: int | Alignment) -> Latency:
        assert state.coupling is not None
        assert state.scores is not None
        which = (self.include, self.exclude, self.include_ops, self.exclude_ops, self.ratios)
        found = field_of(state.coupling, state.scores, blocks, self.min_keep, *which)
        return latency_of(state.model, state.coupling, found, meter, threads=self.threads, dims=self.timed)

    def watched(self, state: State, targets: Sequence[str]) -> dict[str, Any]:
        """What a latency target needs."""
        watch = StopWatch(state.model, threads=self.threads, dims=self.timed)
        absolute = any(target.kind == "latency" and target.absolute for target in parse(targets))
        return {"clock": watch, "original_ms": watch.original_ms() if absolute else 0.0}


def _work(model: Model, meter: Meter, widths: Widths) -> dict[str, float]:
    """The multiply-accumulates of one unit of each group."""
    saved = terms_of("macs", model, meter, widths).saved(widths.array({}))
    return dict(zip(widths.groups, saved.tolist(), strict=True))


def _missed(
    targets: Sequence[Target], whole: Usage, pruned: Model, dims: Mapping[str, int] | None
) -> dict[str, Target]:
    """Targets that the pruned model itself, counted, does not hold, lower by as much as it misses them."""
    sized = [target for target in targets if target.kind in ("bytes", "peak-memory")]
    if not sized:
        return {}
    has = Meter(pruned, Coupling((), (), {}), dims).usage({})
    found = {}
    for target in sized:
        name = target.kind.replace("-", "_")
        limit = target.limit(getattr(whole, name))
        over = getattr(has, name) - limit
        if over > 0:
            amount = math.floor(limit - over)
            found[target.kind] = Target(target.kind, amount, True, f"{target.kind}={amount}B")
    return found
