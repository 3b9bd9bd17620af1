"""Selection under targets: the shortest prefix of one ranking after which every target holds.

All units that may go are put in one order: by rank within their group (`local`), by score over all groups (`global`) or
within each set of alike groups (`isomorphic`); or, where a cost is given, by score per cost saved (see `knapsack`).
Cutting a longer prefix never costs more, so the shortest one that holds the targets is found by halving. What can be
counted is counted (`meter`); time is measured on the model that a prefix gives (`clock`), and of the prefixes tried the
slowest that is fast enough is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.analysis.coupling import Coupling, Group, Indices
from onnxprune.counting.meter import Meter, Usage
from onnxprune.cutting.plan import Plan
from onnxprune.errors import NothingToCut, OutOfReach, Unreachable, UserError
from onnxprune.scoring.scores import Scores
from onnxprune.selection.alignment import Alignment
from onnxprune.selection.select import Field, check_options, competitors, field_of, plan_of, share
from onnxprune.targets.grammar import Target, parse
from onnxprune.targets.knapsack import by_gain
from onnxprune.targets.terms import Terms

Clock = Callable[[Plan], float]
"""Milliseconds of the pruned model as a fraction of the original's, measured side by side."""

CLOSE = 0.03
"""A measured time this far below its limit is good enough to stop halving."""
Keys = npt.NDArray[np.float64]

CHANCES = 3
"""How often a model that seemed fast enough may turn out not to be."""
TRIES = 9
"""Models measured at most, besides the two ends."""


@dataclass(frozen=True, eq=False)
class Order:
    """All units that may go, the first to go first."""

    found: Field
    scores: Scores
    owner: Indices
    """Of each unit, the index of its group."""
    given: Mapping[str, int]
    """Units that go in any case: of groups with a ratio of their own."""
    options: Mapping[str, Any]
    """As the plan notes them."""

    @property
    def size(self) -> int:
        return int(self.owner.size)

    def share(self, ratio: float) -> int:
        """The length that holds about this part of the units of all groups that are ranked, as far as floors allow."""
        units = sum(group.size for group in self.found.groups if group.name not in self.found.own)
        return min(self.size, share(ratio, units))

    def edge(self, length: int, other: int) -> int:
        """The length nearest to another one at which the same goes: blocks leave many lengths without a difference."""
        same, counts = length, self.counts(length)
        while abs(other - same) > 1:
            middle = (same + other) // 2
            same, other = (middle, other) if self.counts(middle) == counts else (same, middle)
        return same

    def counts(self, length: int) -> dict[str, int]:
        """Units of each group that go with the first so many, in whole blocks and above the floors."""
        tally = np.bincount(self.owner[:length], minlength=len(self.found.groups)).tolist()
        wanted = {group.name: count for group, count in zip(self.found.groups, tally, strict=True)}
        return self.found.counts(wanted | dict(self.given))

    def plan(self, length: int, **noted: Any) -> Plan:
        """The plan that cuts the first so many."""
        counts = self.counts(length)
        if not any(counts.values()):
            blocks = f"min_keep {self.options['min_keep']} and round_to {self.options['round_to']}"
            holds = "the model holds all targets as it is, or they ask for less than one block"
            why = holds if self.size else f"{blocks} leave every group whole"
            raise NothingToCut(f"nothing would be cut: {why}")
        return plan_of(self.found, self.scores, counts, {**self.options, **noted})


def order_of(
    coupling: Coupling,
    scores: Scores,
    *,
    per: Terms | None = None,
    per_what: str = "none",
    scope: str = "local",
    round_to: int | Alignment = 1,
    min_keep: float = 0.1,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    include_ops: Sequence[str] = (),
    exclude_ops: Sequence[str] = (),
    ratios: Mapping[str, float] | None = None,
) -> Order:
    """In which order units go.

    With a cost in `per`, what saves most of it for the importance that it loses goes first, whatever the `scope`.
    """
    check_options(0.5, scope, round_to, min_keep)
    found = field_of(coupling, scores, round_to, min_keep, include, exclude, include_ops, exclude_ops, ratios)
    given = {g.name: share(found.own[g.name], g.size) for g in found.groups if g.name in found.own}
    options = {"scope": scope if per is None else "global", "per": per_what, **found.options}
    owner = _ranking(found, scores, scope) if per is None else by_gain(found, scores, per, given)
    return Order(found, scores, owner, given, options)


def select_within(
    order: Order,
    targets: Sequence[str | Target],
    meter: Meter,
    *,
    clock: Clock | None = None,
    original_ms: float = 0.0,
) -> Plan:
    """The plan that cuts least and holds all targets. A latency target needs a `clock`."""
    length, bound = length_within(order, targets, meter, clock=clock, original_ms=original_ms)
    texts = [t.text if isinstance(t, Target) else t for t in targets]
    return order.plan(length, targets=texts, bound_by=bound)


def length_within(
    order: Order,
    targets: Sequence[str | Target],
    meter: Meter,
    *,
    clock: Clock | None = None,
    original_ms: float = 0.0,
) -> tuple[int, str]:
    """The shortest prefix after which all targets hold, and the target that made it so long."""
    wanted = {t.kind: t for t in parse([t.text if isinstance(t, Target) else t for t in targets])}
    before = meter.usage({})
    ratio = wanted.pop("ratio", None)
    latency = wanted.pop("latency", None)
    length = _long_enough(order, ratio) if ratio is not None else 0
    bound = "ratio" if ratio is not None else ""
    for target in wanted.values():
        least = _shortest(order, meter, target, _amount(before, target))
        if least > length:
            length, bound = least, target.kind
    if latency is not None:
        if clock is None:
            raise UserError(f"target {latency.text!r} needs measurements; use the command line or the Select pass")
        limit = latency.value / original_ms if latency.absolute else latency.value

        def measure(length: int) -> float:
            return clock(order.plan(length)) if any(order.counts(length).values()) else 1.0

        fast = _fast_enough(order, length, measure, limit, latency, meter, original_ms)
        if fast > length:
            length, bound = fast, "latency"
    return length, bound


def _long_enough(order: Order, ratio: Target) -> int:
    """The shortest prefix after which that part of the units is gone, floors and blocks considered."""
    ranked = [group for group in order.found.groups if group.name not in order.found.own]
    units = sum(group.size for group in ranked)
    wanted = share(ratio.value, units)

    def gone(length: int) -> int:
        counts = order.counts(length)
        return sum(counts[group.name] for group in ranked)

    low, high = 0, order.size
    if gone(high) < wanted:
        raise Unreachable(
            f"target {ratio.text!r} cannot be reached: at most {gone(high) / max(units, 1):.3f} of the units can go; "
            "lower min_keep or round_to, or take the target back"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if gone(middle) >= wanted else (middle, high)
    return high


def _ranking(found: Field, scores: Scores, scope: str) -> Indices:
    """Owners of each group's units by score, without those that its floor keeps; merged by the scope's key."""
    places = {group.name: i for i, group in enumerate(found.groups)}
    keys: list[Keys] = []
    owners: list[Indices] = []
    pool = (
        [(group,) for group in found.groups if group.name not in found.own]
        if scope == "local"
        else competitors(found, scope)
    )
    for members in pool:
        ranked, who = _ranked(members, scores, found.floors, places)
        # one key for all sets: how far down its own set's ranking a unit stands
        keys.append(ranked if scope == "global" else (np.arange(who.size) + 0.5) / max(1, sum(g.size for g in members)))
        owners.append(who)
    key, owner = np.concatenate([*keys, np.zeros(0)]), np.concatenate([*owners, np.zeros(0, np.int64)])
    return np.asarray(owner[np.argsort(key, kind="stable")])


def _ranked(
    members: Sequence[Group], scores: Scores, floors: Mapping[str, int], places: Mapping[str, int]
) -> tuple[Keys, Indices]:
    values = [np.sort(scores.by_group[group.name])[: group.size - floors[group.name]] for group in members]
    owner = np.repeat([places[group.name] for group in members], [part.size for part in values])
    merged = np.concatenate(values)
    rising = np.argsort(merged, kind="stable")
    return merged[rising], owner[rising]


def _amount(usage: Usage, target: Target) -> float:
    return float(getattr(usage, target.kind.replace("-", "_")))


def _shortest(order: Order, meter: Meter, target: Target, original: float) -> int:
    """The shortest prefix after which a countable target holds."""
    limit = target.limit(original)

    def holds(length: int) -> bool:
        return _amount(meter.usage(order.counts(length)), target) <= limit

    low, high = 0, order.size
    if holds(low):
        return 0
    if not holds(high):
        least = _amount(meter.usage(order.counts(high)), target)
        raise Unreachable(
            f"target {target.text!r} cannot be reached: the lowest {target.kind} is {least / original:.3f} of the "
            f"original{target.also(least)}{_holders(order, meter, target, least)}; lower min_keep or round_to, or take "
            "the target back"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _holders(order: Order, meter: Meter, target: Target, least: float) -> str:
    """Who holds most of what is left when everything that may go is gone."""
    names = {group.name for group in order.found.groups}
    left = meter.without_each(order.counts(order.size))
    gains = [(least - _amount(usage, target), name) for name, usage in left if name in names]
    top = [name for gain, name in sorted(gains, reverse=True)[:3] if gain > 0]
    return f" (held most by {', '.join(top)})" if top else ""


def _fast_enough(
    order: Order,
    start: int,
    measure: Callable[[int], float],
    limit: float,
    target: Target,
    meter: Meter,
    original_ms: float,
) -> int:
    """The shortest prefix found whose model is fast enough. Time is noisy, not monotone: what is kept was measured.

    Between a prefix that is too slow and one that is fast enough, the next one tried is where a straight line between
    them meets the limit. Where that falls on the same side twice, the curve is bent, and the other end counts half
    (the Illinois algorithm), else a few steps would not get away from it.
    """
    slow = measure(start) if start else 1.0
    if slow <= limit:
        return start
    fast = measure(order.size)
    if fast > limit:
        work = parse(["macs=0.5"])[0]
        least = _amount(meter.usage(order.counts(order.size)), work)
        raise OutOfReach(
            f"target {target.text!r} cannot be reached: cut as far as min_keep allows, the model takes {fast:.2f} of "
            f"the original's time{target.also(fast * original_ms)}{_holders(order, meter, work, least)}; lower "
            "min_keep, or take the target back"
        )
    low, held = order.edge(start, order.size), [(order.edge(order.size, start), fast)]
    for _ in range(CHANCES):
        low, held = _between(order, low, slow, held, limit, measure)
        length, fast = held[-1]
        # of several that were measured, the one that seemed just fast enough was probably lucky: it is measured again
        sure = measure(length) if len(held) > 1 else fast
        if sure <= limit:
            return length
        held.pop()
        low, slow = order.edge(length, order.size), sure
    return held[-1][0]


def _between(
    order: Order,
    low: int,
    slow: float,
    held: list[tuple[int, float]],
    limit: float,
    measure: Callable[[int], float],
) -> tuple[int, list[tuple[int, float]]]:
    """Ever shorter prefixes that were fast enough, with their times, and one that was not."""
    high, fast = held[-1]
    aim = limit * (1 - CLOSE / 2)
    above, below, side = slow - aim, aim - fast, 0
    for _ in range(TRIES):
        if high - low <= 1 or fast > limit * (1 - CLOSE):
            break
        part = min(max(above / (above + below), 0.1), 0.9)
        middle = min(max(low + round(part * (high - low)), low + 1), high - 1)
        seen = measure(middle)
        if seen <= limit:
            high, fast, below = order.edge(middle, low), seen, aim - seen
            held = [*held, (high, fast)]
            above /= 2 if side > 0 else 1
            side = 1
        else:
            low, above = order.edge(middle, high), seen - aim
            below /= 2 if side < 0 else 1
            side = -1
    return low, held
