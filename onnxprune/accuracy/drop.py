"""As much as can go while what the model does on data stays within a bound: a search by halving along one order.

    0 ────────────── length ──────────────► all units that may go
    holds      holds  holds | fails      fails

Every length tried is a model: pruned, run on the data, compared. A longer prefix mostly does more damage, but not
always, so what is kept is the longest of those that were measured and held.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxprune.accuracy.evaluate import Evaluation
from onnxprune.errors import OutOfReach, UserError

TRIES = 12
"""Models measured at most."""
FINE = 0.01
"""Of all units: a bracket this narrow is narrow enough."""


def drop_of(before: Evaluation, after: Evaluation) -> tuple[float, str]:
    """What was lost: of the user's metric, else of accuracy, else of agreement, else the distance of the outputs."""
    for name in ("metric", "top1"):
        had, has = getattr(before, name), getattr(after, name)
        if had is not None and has is not None:
            return float(had - has), name
    if after.agreement is not None:
        return 1.0 - after.agreement, "agreement"
    if after.deviation is not None:
        return after.deviation, "deviation"
    raise UserError("the data says nothing of what this model does: none of its outputs holds floats")


def holds(lost: float, bound: float) -> bool:
    """Whether so much may be lost: 0.992 - 0.942 is 0.05000000000000004."""
    return lost <= bound + 1e-9


def deepest(size: int, bound: float, measure: Callable[[int], tuple[float, str]], *, least: int = 0) -> int:
    """The longest prefix found that holds the bound; `least` units go in any case."""
    lost, name = measure(least)
    if not holds(lost, bound):
        raise OutOfReach(
            f"--max-drop {bound:g} cannot be held: {name} is off by {lost:.4f} with what goes in any case, by "
            "a target, a ratio or ratios of single groups; raise the bound or take these back"
        )
    low, high = least, size + 1
    for _ in range(TRIES):
        if high - low <= max(1, round(FINE * size)):
            break
        middle = (low + high) // 2
        if holds(measure(middle)[0], bound):
            low = middle
        else:
            high = middle
    return low
