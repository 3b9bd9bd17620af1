"""The score of a unit is that of all its rows: normalise(reduce(normalise(member) for each member of the group)).

A member is one weight slot whose role the criterion reads; the out and in sides of a channel are two members. Its rows:

    weight (4, 2, 3, 3), slot :0, units 0 1 2 3             rows (4, 18)
    weight (2, 8),       slot :1, units 0 0 1 1 2 2 3 3     rows (4, 4): a unit's positions side by side

Normalising within each member first keeps a wide layer from drowning a narrow one that shares the group; normalising
the result makes groups comparable, which global selection needs. One tensor is open at a time, only blocks are copied.
Of quantised weights a criterion sees the numbers that they stand for.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.analysis.coupling import Coupling, Group, Indices, Reason, Slot
from onnxprune.errors import NoScores, NotFinite, UserError
from onnxprune.files.model import Model, expect_model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.dequantize import Quantisation, quantisations
from onnxprune.scoring.criteria import Criterion, UnitScores, find
from onnxprune.text.kinds import is_whole
from onnxprune.text.names import suggest
from onnxprune.text.shown import Shown

Array = npt.NDArray[Any]

BLOCK = 1 << 22
"""Elements converted and copied at once, about."""

REDUCERS: Mapping[str, Callable[[Array], UnitScores]] = MappingProxyType(
    {
        "mean": lambda members: members.mean(axis=0),
        "sum": lambda members: members.sum(axis=0),
        # max is network slimming's union of keeps: a channel stays if any member wants it.
        "max": lambda members: members.max(axis=0),
        "min": lambda members: members.min(axis=0),
    }
)
"""(members, units) -> (units,)"""


def _over(scale: Callable[[UnitScores], Any]) -> Callable[[UnitScores], UnitScores]:
    """Divide by a scale; a member that is zero throughout stays zero."""
    return lambda scores: scores / (float(scale(scores)) or 1.0)


NORMALIZERS: Mapping[str, Callable[[UnitScores], UnitScores]] = MappingProxyType(
    {
        "none": lambda scores: scores,
        # |scores|: a criterion may give negative ones, and dividing by a negative mean would turn the ranking round.
        "mean": _over(lambda scores: np.abs(scores).mean()),
        "sum": _over(lambda scores: np.abs(scores).sum()),
        "max": _over(lambda scores: np.abs(scores).max()),
        "gaussian": lambda scores: _over(np.std)(scores - scores.mean()),
    }
)
"""(units,) -> (units,)"""


@dataclass(frozen=True, eq=False)
class Scores(Shown):
    """How much each unit of each group matters; the lowest are cut first."""

    criterion: str
    by_group: Mapping[str, UnitScores]
    """Group name -> one score per unit."""
    skipped: Mapping[str, Reason]
    """Groups that the criterion says nothing about; they are left whole."""
    seed: int = 0
    reduce: str = "mean"
    normalize: str = "mean"

    @property
    def comparable(self) -> bool:
        """Whether scores of different groups mean the same. Normalised ones only compare within their group."""
        return self.normalize == "none"

    def weighed(self, weights: Mapping[str, float]) -> Scores:
        """Each group's scores times its weight."""
        by_group = {name: scores * max(weights[name], 1e-12) for name, scores in self.by_group.items()}
        return replace(self, by_group=MappingProxyType(by_group))


def score(
    model: Model,
    coupling: Coupling,
    criterion: str = "l1",
    *,
    seed: int = 0,
    reduce: str = "mean",
    normalize: str = "mean",
) -> Scores:
    """Score every group by the named criterion."""
    check_options(criterion, seed, reduce, normalize)
    expect_model(model, "score")
    rule, reducer, normalizer = find(criterion), REDUCERS[reduce], NORMALIZERS[normalize]
    by_group: dict[str, UnitScores] = {}
    skipped: dict[str, Reason] = {}
    checked: set[str] = set()
    stored = quantisations(model)
    for group in coupling.groups:
        members = [slot for slot in group.weights if _reads(rule, slot)]
        if not members and rule.roles:
            skipped[group.name] = _nothing_to_read(rule, group)
            continue
        for slot in group.weights:
            if slot.tensor not in model.weights:
                raise UserError(f"the groups are not those of this model: it has no weight {slot.tensor!r}")
            if slot.tensor not in checked:
                checked.add(slot.tensor)
                _require_finite(model.weights[slot.tensor])
        # seeded by the group's name, not by its turn: other groups may come and go
        generator = np.random.default_rng([zlib.crc32(group.name.encode()), seed])
        if rule.roles:
            found = [_member(rule, _real(model, slot, stored), slot, group.size, generator) for slot in members]
        else:
            found = [_call(rule, np.empty((group.size, 0), np.float32), generator)]
        result = normalizer(reducer(np.stack([normalizer(member) for member in found])))
        result.flags.writeable = False
        by_group[group.name] = result
    if coupling.groups and not by_group:
        reason = next(iter(skipped.values()))
        raise NoScores(f"{reason.sentence}, and no other group has either" + (f": {rule.hint}" if rule.hint else ""))
    return Scores(criterion, MappingProxyType(by_group), MappingProxyType(skipped), seed, reduce, normalize)


def check_options(criterion: str, seed: int, reduce: str, normalize: str) -> None:
    """Refuse what cannot be, before any work is done."""
    find(criterion)
    for option, name, known in (("reduce", reduce, REDUCERS), ("normalize", normalize, NORMALIZERS)):
        if name not in known:
            raise UserError(f"unknown {option} {name!r}{suggest(str(name), known)} (there are: {', '.join(known)})")
    if not (is_whole(seed) and seed >= 0):
        raise UserError(f"seed must be a whole number, 0 or more, not {seed!r}")


def _reads(rule: Criterion, slot: Slot) -> bool:
    return slot.role in rule.roles and (rule.ops is None or slot.op in rule.ops)


def _nothing_to_read(rule: Criterion, group: Group) -> Reason:
    what = " or ".join(rule.roles) + " weights" + (f" of {' or '.join(rule.ops)}" if rule.ops else "")
    sentence = f"criterion {rule.name!r} reads {what}, and group {group.name!r} has none"
    return Reason("no-scores", sentence, group.nodes[0] if group.nodes else "")


def _real(model: Model, slot: Slot, stored: Mapping[str, Quantisation]) -> Array:
    """The numbers that a weight stands for."""
    tensor = model.weights[slot.tensor]
    return stored[slot.tensor].real(tensor) if slot.tensor in stored else tensor.array()


def _member(rule: Criterion, array: Array, slot: Slot, size: int, generator: np.random.Generator) -> UnitScores:
    """Scores of one slot's units."""
    moved = np.moveaxis(array, slot.axis, 0)
    order = np.argsort(slot.units, kind="stable")
    positions, counts = slot.positions[order], np.bincount(slot.units, minlength=size)
    even = counts.min() == counts.max()
    # Rows of a matrix are equally long; where units hold different numbers of positions, these are scored and summed.
    table = positions.reshape(size if even else -1, -1 if even else 1)
    scores = np.concatenate([_call(rule, rows, generator) for rows in _rows(moved, table, rule.rowwise)])
    if not np.isfinite(scores).all():
        raise NotFinite(f"criterion {rule.name!r} gives no finite score for {str(slot)!r}: weights are out of range")
    if even:
        return scores
    totals = np.zeros(size)
    np.add.at(totals, slot.units[order], scores)
    return totals


def _rows(moved: Array, table: Indices, blockwise: bool) -> Iterator[Array]:
    """Rows of the units in `table` (units, positions per unit), in blocks where the criterion allows."""
    features = table.shape[1] * math.prod(moved.shape[1:])
    step = max(1, BLOCK // max(1, features)) if blockwise else len(table)
    for start in range(0, len(table), step):
        index = table[start : start + step].ravel()
        first, last = int(index[0]), int(index[-1])
        # A run of positions is a slice, hence a view: nothing of a mapped weight is copied before the criterion does.
        run = last - first + 1 == len(index) and bool((np.diff(index) == 1).all())
        rows = (moved[first : last + 1] if run else moved[index]).reshape(-1, features)
        yield rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float32)


def _call(rule: Criterion, rows: Array, generator: np.random.Generator) -> UnitScores:
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused by name, not warned about
        found = rule.function(rows, generator) if rule.seeded else rule.function(rows)
    scores = np.asarray(found, dtype=np.float64)
    if scores.shape != (len(rows),):
        raise ValueError(f"criterion {rule.name!r} returned shape {scores.shape} for {len(rows)} units")
    return scores


def _require_finite(tensor: Tensor) -> None:
    """Criteria that never look at the weights must refuse a broken model as well."""
    array = tensor.array()
    if array.dtype.kind in "iub":
        return
    flat = array.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        if block.dtype not in (np.float32, np.float64):
            block = block.astype(np.float32)
        # min and max hand NaN and Inf on, and unlike isfinite need no array of their own
        if not (np.isfinite(block.min()) and np.isfinite(block.max())):
            raise NotFinite(f"weight {tensor.name!r} holds NaN or Inf: repair or re-export the model")
