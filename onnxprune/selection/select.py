"""Selection turns scores into a plan: the lowest units of a group go, and with a unit all its positions in all slots.

For a group of `size` units and a ratio r:

    wanted    r * size units go, rounded to the nearest: r is a fraction of prunable units, not of parameters or MACs
    floor     at least max(1, min_keep * size) units stay, else a global ranking deletes whole layers
    block     the number kept is a multiple of the block, the nearest one at or above the floor (ties keep more);
              a group narrower than its block stays whole, and so does one of which nothing was wanted. A measured
              `Alignment` gives narrow groups a smaller block where that pays, and leaves them whole where none does

`scope="global"` ranks the units of all groups together, leaving out those that a floor keeps, and cuts as many of the
lowest as make r of all units; the block then rounds each group's share. Ties go by the order of groups, then units.
`scope="isomorphic"` does so within each set of groups whose weights play the same parts (after isomorphic pruning, Fang
et al. 2024).

Which groups: include and include_ops narrow, exclude and exclude_ops take away, `ratios` gives groups a ratio of their
own (0 leaves one whole; an exact name beats a pattern, a later pattern an earlier one), outside the global ranking.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.analysis.coupling import Coupling, Frozen, Group, Indices
from onnxprune.analysis.match import choose, ratios_by_group
from onnxprune.cutting.plan import Cut, GroupSummary, Plan, SlotRef
from onnxprune.errors import NothingPrunable, NothingToCut, UserError
from onnxprune.scoring.scores import Scores
from onnxprune.selection.alignment import Alignment
from onnxprune.text.kinds import is_number, is_whole
from onnxprune.version import __version__

SCOPES = ("local", "global", "isomorphic")


@dataclass(frozen=True, eq=False)
class Field:
    """The groups that compete, and what may become of them."""

    groups: tuple[Group, ...]
    own: Mapping[str, float]
    """Groups with a ratio of their own; they stay out of every ranking."""
    blocks: Mapping[str, int]
    """Units that go together, so that widths stay multiples."""
    floors: Mapping[str, int]
    """The least number of units that stays."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What was asked for, as plans note it."""

    def counts(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """How many units of each group go: what is wanted, in whole blocks and above the floor."""
        return {
            group.name: aligned(group.size, wanted[group.name], self.floors[group.name], self.blocks[group.name])
            for group in self.groups
        }


def select(
    coupling: Coupling,
    scores: Scores,
    *,
    ratio: float = 0.3,
    scope: str = "local",
    round_to: int | Alignment = 1,
    min_keep: float = 0.1,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    include_ops: Sequence[str] = (),
    exclude_ops: Sequence[str] = (),
    ratios: Mapping[str, float] | None = None,
) -> Plan:
    """Decide which units go."""
    check_options(ratio, scope, round_to, min_keep)
    found = field_of(coupling, scores, round_to, min_keep, include, exclude, include_ops, exclude_ops, ratios)
    wanted = {group.name: share(found.own.get(group.name, ratio), group.size) for group in found.groups}
    for members in competitors(found, scope) if scope != "local" else ():
        wanted |= _global(members, scores, ratio, found.floors)
    counts = found.counts(wanted)
    if not any(counts.values()):
        widest = max(group.size for group in found.groups)
        raise NothingToCut(
            f"nothing would be cut: ratio {ratio}, min_keep {min_keep} and round_to {round_to} leave every group whole "
            f"(the widest has {widest} units); ask for a higher ratio or a smaller round_to"
        )
    meta = {
        "ratio": ratio,
        "ratio_means": "fraction of prunable units removed",
        "scope": scope,
        **found.options,
    }
    return plan_of(found, scores, counts, meta)


def field_of(
    coupling: Coupling,
    scores: Scores,
    round_to: int | Alignment,
    min_keep: float,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    include_ops: Sequence[str] = (),
    exclude_ops: Sequence[str] = (),
    ratios: Mapping[str, float] | None = None,
) -> Field:
    """The groups that are left after all filters."""
    open_groups = [group for group in coupling.groups if group.size > 1]
    if not open_groups:
        raise NothingPrunable(f"nothing in this model is prunable{_top_reasons(coupling)}")
    own = ratios_by_group(coupling.groups, ratios or {})
    chosen = choose(coupling.groups, include, exclude, include_ops, exclude_ops)
    groups = tuple(group for group in open_groups if group.name in chosen and group.name in scores.by_group)
    for name in ratios or {}:
        if name in scores.skipped and own[name] > 0:
            raise UserError(f"group {name!r} cannot have a ratio: {scores.skipped[name].sentence}")
    if not groups:
        skipped = [scores.skipped[name].sentence for name in scores.skipped if name in chosen]
        why = skipped[0] if skipped else "include and exclude leave none of the prunable groups"
        raise NothingPrunable(f"nothing is left to prune: {why}")
    blocks = {group.name: block(group, round_to) for group in groups}
    floors = {group.name: least_kept(group.size, min_keep, blocks[group.name]) for group in groups}
    options = {
        **said(round_to),
        "min_keep": min_keep,
        "include": list(include),
        "exclude": list(exclude),
        "include_ops": list(include_ops),
        "exclude_ops": list(exclude_ops),
        "ratios": dict(ratios or {}),
    }
    return Field(groups, own, blocks, floors, options)


def competitors(found: Field, scope: str) -> list[tuple[Group, ...]]:
    """Groups that share one ranking: all of them, or (`isomorphic`) those whose weights play the same parts."""
    pool = [group for group in found.groups if group.name not in found.own]
    if scope == "global":
        return [tuple(pool)]
    alike: dict[tuple[tuple[str, str], ...], list[Group]] = {}
    for group in pool:
        parts = sorted((slot.op, slot.role) for slot in group.weights)
        alike.setdefault(tuple(parts), []).append(group)
    return [tuple(members) for members in alike.values()]


def plan_of(found: Field, scores: Scores, counts: Mapping[str, int], options: Mapping[str, Any]) -> Plan:
    """The plan that removes so many of each group's lowest units; `options` are noted in it."""
    meta = {
        "tool": f"onnxprune {__version__}",
        "criterion": scores.criterion,
        "seed": scores.seed,
        "reduce": scores.reduce,
        "normalize": scores.normalize,
        **options,
    }
    made: list[Cut] = []
    for group in found.groups:
        ranking = np.argsort(scores.by_group[group.name], kind="stable")
        made += cuts(group, ranking[: counts[group.name]])
    return Plan(tuple(made), tuple(_summary(group, counts[group.name]) for group in found.groups), meta)


def enlarged(plan: Plan, before: Plan, coupling: Coupling, scores: Scores) -> Plan:
    """The plan, with all units gone that an earlier one removes: where it would cut fewer of a group, as many."""
    earlier = {group.name: group.removed for group in before.groups}
    if all(group.removed >= earlier.get(group.name, 0) for group in plan.groups):
        return plan
    groups = tuple(coupling.group(group.name) for group in plan.groups)
    counts = {group.name: max(group.removed, earlier.get(group.name, 0)) for group in plan.groups}
    return plan_of(Field(groups, {}, {}, {}), scores, counts, plan.meta)


def cuts(group: Group, units: Indices) -> list[Cut]:
    """What removing these units of a group removes everywhere; slots that lose the same positions share a cut."""
    if not len(units):
        return []
    gone = np.zeros(group.size, dtype=bool)
    gone[units] = True
    by_index: dict[bytes, tuple[Indices, list[SlotRef]]] = {}
    for slot in group.slots:
        index = np.asarray(slot.positions[gone[slot.units]], dtype=np.int64)
        by_index.setdefault(index.tobytes(), (index, []))[1].append(
            SlotRef(slot.tensor, slot.axis, slot.size, slot.role)
        )
    return [Cut(group.name, tuple(index.tolist()), tuple(slots)) for index, slots in by_index.values()]


def block_of(group: Group, round_to: int) -> int:
    """How many units fill whole multiples of `round_to` on every axis the group makes: 1 where each unit does so alone.

    The group's own positions are counted; what other groups or frozen positions add to the same axis is not.
    """
    makers = [slot for slot in group.weights if slot.role == "out"]
    counts = [np.bincount(slot.units, minlength=group.size) for slot in makers]
    per_unit = [int(count[0]) for count in counts if count.min() == count.max()]
    return round_to // math.gcd(round_to, *(per_unit or [1]))


def block(group: Group, round_to: int | Alignment) -> int:
    """Of how many units a multiple should stay; all of them where the group should stay whole."""
    if not isinstance(round_to, Alignment):
        return block_of(group, round_to)
    width = round_to.block(group)
    return block_of(group, width) if width else group.size


def said(round_to: int | Alignment) -> dict[str, Any]:
    """The alignment as a plan notes it."""
    if not isinstance(round_to, Alignment):
        return {"round_to": round_to}
    return {"round_to": "auto", "blocks": {"conv": round_to.conv, "matmul": round_to.matmul}}


def least_kept(size: int, min_keep: float, block: int) -> int:
    """The least number of units that stays; all of them where the group is narrower than a block."""
    least = max(1, math.ceil(min_keep * size - 1e-9))  # 1e-9: 0.07 * 100 is 7.000000000000001
    return min(size, -(-least // block) * block)


def aligned(size: int, wanted: int, floor: int, block: int) -> int:
    """How many units go: near `wanted`, such that whole blocks stay."""
    if not wanted:
        return 0
    nearest = (2 * (size - wanted) + block) // (2 * block) * block
    return max(0, size - max(nearest, floor))


def share(ratio: float, size: int) -> int:
    """So much of so many units, to the nearest."""
    return math.floor(ratio * size + 0.5 + 1e-9)  # 1e-9: 0.15 * 10 + 0.5 must not fall below 2


def _global(pool: Sequence[Group], scores: Scores, ratio: float, floors: Mapping[str, int]) -> dict[str, int]:
    """How many units of each group are among the lowest of all."""
    if not pool:
        return {}
    spare = [np.sort(scores.by_group[group.name])[: group.size - floors[group.name]] for group in pool]
    owner = np.repeat(np.arange(len(pool)), [len(part) for part in spare])
    lowest = np.argsort(np.concatenate(spare), kind="stable")[: share(ratio, sum(group.size for group in pool))]
    counts = np.bincount(owner[lowest], minlength=len(pool)).tolist()
    return {group.name: count for group, count in zip(pool, counts, strict=True)}


def _summary(group: Group, removed: int) -> GroupSummary:
    return GroupSummary(group.name, group.size, removed, tuple(dict.fromkeys(reason.code for reason in group.inexact)))


def check_options(ratio: float, scope: str, round_to: object, min_keep: float) -> None:
    """Refuse what cannot be, before any work is done."""
    # not (a and b) where `or` would read better: comparisons with NaN are false
    if not (is_number(ratio) and 0 < ratio < 1):
        raise UserError(f"ratio must lie between 0 and 1, both excluded, not {ratio!r}: it is the fraction removed")
    if scope not in SCOPES:
        raise UserError(f"scope must be one of {', '.join(SCOPES)}, not {scope!r}")
    if not (isinstance(round_to, Alignment) or (is_whole(round_to) and round_to >= 1)):
        raise UserError(f"round_to must be a whole number, 1 or more, not {round_to!r}")
    if not (is_number(min_keep) and 0 <= min_keep < 1):
        raise UserError(
            f"min_keep must be 0 or more and less than 1, not {min_keep!r}: it is the fraction kept at least"
        )


def _top_reasons(coupling: Coupling, limit: int = 5) -> str:
    """The reasons that freeze most positions, each once with an example."""
    frozen = coupling.frozen
    totals: dict[str, int] = {}
    examples: dict[str, Frozen] = {}
    for item in frozen:
        totals[item.reason.code] = totals.get(item.reason.code, 0) + item.size
        examples.setdefault(item.reason.code, item)
    top = sorted(totals, key=lambda code: -totals[code])[:limit]
    lines = [f"{examples[code].reason}: {totals[code]} positions, as of {examples[code].tensor!r}" for code in top]
    if not lines:
        lines.append("it has no weight that is known to make channels")
    if coupling.unknown_ops and "no-rule" not in totals:  # it stands in front of weights, or makes channels itself
        lines.append(f"what enters {', '.join(list(coupling.unknown_ops)[:limit])} enters an operator without a rule")
    return ": " + "; ".join(lines)
