"""What the criterion said of each group's units, and which of them went.

Where all that went was worth less than all that stayed, the threshold lies halfway between the two; a plan made in
several steps, or by hand, need not have one. Where there is no plan, it is that of an example: the lowest 30 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.analysis.coupling import Coupling, Group, Indices
from onnxprune.cutting.plan import Plan
from onnxprune.scoring.scores import Scores

Values = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

MOST_BINS = 24
EXAMPLE = 0.3
"""The share of a group's units that lie below the threshold while nothing was decided."""


@dataclass(frozen=True)
class Histogram:
    """Of one group."""

    group: str
    units: int
    removed: int
    earlier: int
    """Of these, in an earlier step: the scores are of what was left by then."""
    low: float
    high: float
    kept: tuple[int, ...]
    """Units that stay, in bins of equal width from `low` to `high`."""
    cut: tuple[int, ...]
    threshold: float | None
    """None: nothing of this group went, or not the lowest."""


def histograms(coupling: Coupling, scores: Scores, plan: Plan | None) -> list[Histogram]:
    """One for each group with scores, those that lost the largest share first."""
    gone = removed_units(coupling, plan) if plan is not None else {}
    found = []
    for group in coupling.groups:
        values = scores.by_group.get(group.name)
        if values is not None and group.size > 1 and len(values) == group.size:
            worth = np.asarray(values, np.float64)
            out = np.isin(np.arange(group.size), gone.get(group.name, ()))
            rated = np.isfinite(worth)
            if rated.any():
                line = _threshold(worth[rated], out[rated] if plan is not None else _lowest(worth[rated]))
                found.append(_histogram(group, worth[rated], out[rated], int((out & ~rated).sum()), line))
    return sorted(found, key=lambda each: -each.removed / each.units)


def removed_units(coupling: Coupling, plan: Plan) -> Mapping[str, Indices]:
    """Group -> the units that a plan removes."""
    removed = plan.removed()
    found: dict[str, Indices] = {}
    for group in coupling.groups:
        for slot in group.weights:
            gone = removed.get((slot.tensor, slot.axis))
            if gone is not None:
                units = np.unique(slot.units[np.isin(slot.positions, gone)])
                if len(units):
                    found[group.name] = units
                break
    return found


def _histogram(group: Group, values: Values, out: Flags, earlier: int, threshold: float | None) -> Histogram:
    bins = int(np.clip(group.size // 2, 6, MOST_BINS))
    low, high = float(values.min()), float(values.max())
    if high <= low:
        high = low + (abs(low) or 1.0)
    edges = np.linspace(low, high, bins + 1)
    return Histogram(
        group=group.name,
        units=group.size,
        removed=int(out.sum()) + earlier,
        earlier=earlier,
        low=low,
        high=high,
        kept=tuple(np.histogram(values[~out], edges)[0].tolist()),
        cut=tuple(np.histogram(values[out], edges)[0].tolist()),
        threshold=threshold,
    )


def _lowest(values: Values) -> Flags:
    out = np.zeros(len(values), bool)
    out[np.argsort(values, kind="stable")[: min(len(values) - 1, max(1, round(EXAMPLE * len(values))))]] = True
    return out


def _threshold(values: Values, out: Flags) -> float | None:
    if not out.any() or out.all():
        return None
    last, first = float(values[out].max()), float(values[~out].min())
    return (last + first) / 2 if last <= first else None
