"""A plan is a list of cuts: removed positions and every (tensor, axis) that they leave. It is closed under coupling.

So applying a plan needs no analysis, and no weight value is in it: the plan of a model fits its finetuned sibling.

    index [1, 3]  slots  conv1.weight:0 (4)   bn1.weight:0 (4)   conv2.weight:1 (4)      kept: 0 2, thrice

`removed()` is what a rewriter needs: for each (tensor, axis) the union over the cuts. `plan_json` is the file format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from onnxprune.analysis.coupling import Indices
from onnxprune.errors import WrongPlan
from onnxprune.text.names import suggest
from onnxprune.text.shown import Shown

VERSION = 1
PERIOD = "period"
"""The role of a slot whose axis is a product with a length only known at run time; its positions are one factor's."""


@dataclass(frozen=True, order=True)
class SlotRef:
    """One axis of one named value, weight or activation."""

    tensor: str
    axis: int
    size: int
    """Length of the axis before the cut."""
    role: str = ""
    """What the weight does with the channel; verification masks every weight but those with the role `keep`."""

    def __str__(self) -> str:
        return f"{self.tensor}:{self.axis}"


@dataclass(frozen=True)
class Cut:
    """Positions that go, and the axes that lose them."""

    group: str
    index: tuple[int, ...]
    """Removed positions, rising."""
    slots: tuple[SlotRef, ...]

    def __post_init__(self) -> None:
        where = f"cut of group {self.group!r}"
        if not self.index:
            raise WrongPlan(f"{where}: its index is empty; a cut that removes nothing has no place in a plan")
        if not self.slots:
            raise WrongPlan(f"{where}: it names no slots")
        if self.index[0] < 0:
            raise WrongPlan(f"{where}: index {self.index[0]} is negative")
        for before, after in pairwise(self.index):
            if before == after:
                raise WrongPlan(f"{where}: index {after} occurs twice")
            if before > after:
                raise WrongPlan(f"{where}: the index is not sorted ({after} follows {before})")
        seen: set[tuple[str, int]] = set()
        for slot in self.slots:
            if slot.axis < 0 or slot.size < 1:
                raise WrongPlan(f"{where}: slot {str(slot)!r} of length {slot.size} cannot be")
            if self.index[-1] >= slot.size:
                raise WrongPlan(f"{where}: index {self.index[-1]} lies outside {str(slot)!r} (length {slot.size})")
            if (slot.tensor, slot.axis) in seen:
                raise WrongPlan(f"{where}: slot {str(slot)!r} occurs twice")
            seen.add((slot.tensor, slot.axis))


@dataclass(frozen=True)
class GroupSummary:
    """For people and reports; what is removed is in the cuts."""

    name: str
    units: int
    removed: int
    """How many units go."""
    inexact: tuple[str, ...] = ()
    """Codes of the reasons for which the result is not comparable with the masked original."""


@dataclass(frozen=True)
class Plan(Shown):
    """What `select` decides, `apply` does and `verify` checks."""

    cuts: tuple[Cut, ...]
    groups: tuple[GroupSummary, ...] = ()
    """Every group that was open to selection, also those left whole."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """How the plan came about: tool, criterion, ratio, scope and so on. Nothing reads it to apply the plan."""
    version: int = VERSION

    def __post_init__(self) -> None:
        found: dict[tuple[str, int], tuple[SlotRef, list[Cut]]] = {}
        for cut in self.cuts:
            for slot in cut.slots:
                first, cuts = found.setdefault((slot.tensor, slot.axis), (slot, []))
                if slot.size != first.size:
                    raise WrongPlan(f"{str(slot)!r} has length {first.size} in one cut and {slot.size} in another")
                cuts.append(cut)
        for slot, cuts in found.values():
            # the lengths first: a union is only worth building where it could be the whole axis
            if sum(len(cut.index) for cut in cuts) >= slot.size == len(set().union(*(cut.index for cut in cuts))):
                raise WrongPlan(f"nothing would be left of {str(slot)!r}, whose length is {slot.size}")

    @property
    def inexact(self) -> tuple[str, ...]:
        """Codes of all inexact cuts in the plan, each once."""
        return tuple(dict.fromkeys(code for group in self.groups if group.removed for code in group.inexact))

    def periods(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Axes that shrink although their length is only known at run time: (kept, of) of the factor that shrinks."""
        found: dict[tuple[str, int], tuple[int, int]] = {}
        for cut in self.cuts:
            for slot in cut.slots:
                if slot.role == PERIOD:
                    kept, size = found.get((slot.tensor, slot.axis), (slot.size, slot.size))
                    found[slot.tensor, slot.axis] = (kept - len(cut.index), size)
        return found

    def removed(self) -> dict[tuple[str, int], Indices]:
        """For each (tensor, axis) the sorted positions that go, over all cuts."""
        parts: dict[tuple[str, int], list[Indices]] = {}
        for cut in self.cuts:
            index = np.array(cut.index, dtype=np.int64)
            for slot in cut.slots:
                if slot.role == PERIOD:
                    continue
                parts.setdefault((slot.tensor, slot.axis), []).append(index)
        return {key: found[0] if len(found) == 1 else np.unique(np.concatenate(found)) for key, found in parts.items()}


def check(plan: Plan, sizes: Mapping[str, Sequence[int | str | None] | None]) -> None:
    """Refuse a plan that does not fit a model, naming the first mismatch.

    `sizes` maps every value of the model, weights and activations, to its shape. A shape or dim that is not known (None
    or a symbol) cannot disagree.
    """
    for cut in plan.cuts:
        for slot in cut.slots:
            where = f"the plan does not fit this model: {str(slot)!r} (group {cut.group!r})"
            if slot.tensor not in sizes:
                raise WrongPlan(f"{where}: no tensor has that name{suggest(slot.tensor, sizes)}")
            shape = sizes[slot.tensor]
            if shape is None:
                continue
            if slot.axis >= len(shape):
                raise WrongPlan(f"{where}: the tensor has rank {len(shape)} and no axis {slot.axis}")
            size = shape[slot.axis]
            if isinstance(size, int) and slot.role != PERIOD and size != slot.size:
                raise WrongPlan(f"{where}: the axis has length {size} here and {slot.size} in the plan")
