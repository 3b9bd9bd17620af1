"""As much as can go while what the model does on data stays within a bound: a search by halving along one order.

    0 ────────────── length ──────────────► all units that may go
    holds      holds  holds | fails      fails

Every length tried is a model: pruned, run on the data, compared. A longer prefix mostly does more damage, but not
always, so what is kept is the longest of those that were measured and held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnxprune.errors import UserError
from onnxprune.evaluate import Evaluation

TRIES = 12
"""Models measured at most."""
FINE = 0.01
"""Of all units: a bracket this narrow is narrow enough."""


@dataclass(frozen=True)
class Try:
    """One model that was measured."""

    length: int
    """Of the prefix."""
    drop: float
    measure: str
    """What dropped: top1, metric, agreement or deviation."""


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


def deepest(
    size: int,
    bound: float,
    measure: Callable[[int], tuple[float, str]],
    *,
    least: int = 0,
    known: Mapping[int, tuple[float, str]] | None = None,
    on_try: Callable[[Try], None] | None = None,
) -> int:
    """The longest prefix found that holds the bound; `least` units go in any case."""
    seen = dict(known or {})

    def drop(length: int) -> float:
        if length not in seen:
            seen[length] = measure(length)
            if on_try is not None:
                on_try(Try(length, *seen[length]))
        return seen[length][0]

    if least and drop(least) > bound:
        lost, name = seen[least]
        raise UserError(
            f"the targets need more than --max-drop {bound:g} allows: with them alone, {name} is off by {lost:.4f}; "
            "raise the one or the other"
        )
    low, high = least, size + 1
    for _ in range(TRIES):
        if high - low <= max(1, round(FINE * size)):
            break
        middle = (low + high) // 2
        if drop(middle) <= bound:
            low = middle
        else:
            high = middle
    return low
