"""Pruning in several steps: scores are taken again on what is left after each of them.

What should be left after step i of n, if k is to be left in the end:

    linear        1 - (1 - k) i/n                  the same amount each time
    exponential   k^(i/n)                          the same share of what is left
    cubic         1 - (1 - k) (1 - (1 - i/n)^3)    much at first, little at the end (Zhu and Gupta, 2017; NNI's AGP)

Every plan of the way is one of the original model: what went stays gone, whatever the new scores say, and nothing has
to be put together in the end. So any of them can be applied on its own, and the way can be taken up again from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from onnxprune.analysis.coupling import Coupling, Group, Indices, Slot
from onnxprune.cutting.plan import Cut, Plan
from onnxprune.errors import UserError
from onnxprune.scoring.scores import Scores

SCHEDULES: Mapping[str, Callable[[float, float], float]] = MappingProxyType(
    {
        "linear": lambda left, part: 1 - (1 - left) * part,
        "exponential": lambda left, part: left**part,
        "cubic": lambda left, part: 1 - (1 - left) * (1 - (1 - part) ** 3),
    }
)
"""(what is left in the end, part of the way) -> what is left now"""

MOST_STEPS = 1000


def check_options(steps: int, schedule: str) -> None:
    """Refuse what cannot be, before any work is done."""
    if not 1 <= steps <= MOST_STEPS:
        raise UserError(f"steps must be a whole number from 1 to {MOST_STEPS}, not {steps!r}")
    if schedule not in SCHEDULES:
        raise UserError(f"schedule must be one of {', '.join(SCHEDULES)}, not {schedule!r}")


def left_after(schedule: str, left: float, step: int, steps: int) -> float:
    """What is left after a step, as a part of the original, if `left` is to be left in the end."""
    return left if step == steps else SCHEDULES[schedule](left, step / steps)


def gone(coupling: Coupling, plan: Plan) -> dict[str, Indices]:
    """The units of each group that a plan removes."""
    cut: dict[str, Cut] = {}
    for item in plan.cuts:
        cut.setdefault(item.group, item)
    found: dict[str, Indices] = {}
    for group in coupling.groups:
        if group.name in cut:
            first = cut[group.name]
            places = {(slot.tensor, slot.axis) for slot in first.slots}
            slot = next(slot for slot in group.slots if (slot.tensor, slot.axis) in places)
            found[group.name] = np.unique(slot.units[np.isin(slot.positions, first.index)])
    return found


def remaining(coupling: Coupling, plan: Plan) -> Coupling:
    """The groups of the pruned model as far as scores need them: their weights, at the positions they have now."""
    lost, cut = plan.removed(), gone(coupling, plan)
    groups = []
    for group in coupling.groups:
        kept = np.ones(group.size, dtype=bool)
        kept[cut.get(group.name, np.zeros(0, np.int64))] = False
        slots = tuple(_moved(slot, kept, lost.get((slot.tensor, slot.axis))) for slot in group.weights)
        groups.append(Group(group.name, group.nodes, group.ops, int(kept.sum()), slots, group.inexact))
    return Coupling(tuple(groups), coupling.frozen, coupling.unknown_ops)


def continued(coupling: Coupling, plan: Plan, scores: Scores) -> Scores:
    """Scores of what is left as scores of all units: those that are gone go first."""
    cut = gone(coupling, plan)
    by_group = {}
    for group in coupling.groups:
        if group.name in scores.by_group:
            whole = np.full(group.size, -np.inf)
            kept = np.ones(group.size, dtype=bool)
            kept[cut.get(group.name, np.zeros(0, np.int64))] = False
            whole[kept] = scores.by_group[group.name]
            by_group[group.name] = whole
    skipped = {name: reason for name, reason in scores.skipped.items() if name not in cut}
    return Scores(scores.criterion, by_group, skipped, scores.seed, scores.reduce, scores.normalize)


def _moved(slot: Slot, kept: np.ndarray, lost: Indices | None) -> Slot:
    stays = kept[slot.units]
    positions, size = slot.positions[stays], slot.size
    if lost is not None:
        positions, size = positions - np.searchsorted(lost, positions), size - len(lost)
    number = np.cumsum(kept) - 1
    return Slot(slot.tensor, slot.axis, size, True, slot.role, positions, number[slot.units[stays]], slot.op)
