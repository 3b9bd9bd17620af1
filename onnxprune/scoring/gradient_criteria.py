"""Criteria that ask how the loss would change; they need torch and data.

With d the gradient of one sample's loss by the gate of a channel, all layers that read it taken together (see
`bridge.gradients`), g that of a batch by a weight w, and means over samples:

    taylor         mean |d|           what removal does to first order (Molchanov et al. 2017, 2019)
    group_fisher   mean d^2 / 2       the same to second order, through the Fisher information (Liu et al. 2021)
    hessian        sum h w^2 / 2      optimal brain damage (LeCun et al. 1990); h = mean g^2, the Fisher diagonal
    grad_norm      |mean g|           how much the loss hangs on the channel's weights

Coupled channels are one channel: gradients of all layers that share it are added before they are squared. Of the first
two a group needs readers whose input channels are plain (Conv, ConvTranspose, Gemm, MatMul); the last two add up over
all weights that go with the channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.analysis.coupling import Coupling, Group, Reason, Slot
from onnxprune.bridge import need_torch
from onnxprune.errors import NoScores
from onnxprune.execution.batches import Batch
from onnxprune.files.model import Model
from onnxprune.scoring.reconstruction import DATA_CRITERIA
from onnxprune.scoring.scores import Scores

if TYPE_CHECKING:
    from onnxprune.bridge.gradients import Gradients

Floats = NDArray[np.float64]
_READERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class GradientCriterion:
    """What is taken of each batch, and what becomes of it in the end."""

    gates: bool
    """Of channels, else of weights."""
    power: int
    """What a batch adds: gradients (1: their magnitudes, where they are those of gates) or their squares (2)."""


GRADIENT_CRITERIA: Mapping[str, GradientCriterion] = MappingProxyType(
    {
        "taylor": GradientCriterion(gates=True, power=1),
        "group_fisher": GradientCriterion(gates=True, power=2),
        "hessian": GradientCriterion(gates=False, power=2),
        "grad_norm": GradientCriterion(gates=False, power=1),
    }
)

ASKING = (*DATA_CRITERIA, *GRADIENT_CRITERIA)
"""All criteria that ask data."""


def gradient_scores(
    model: Model, coupling: Coupling, criterion: str, data: Iterable[Batch], *, seed: int = 0
) -> Scores:
    """Scores by one of `GRADIENT_CRITERIA`; `seed` is for the classes that are drawn where there are no labels."""
    need_torch(f"criterion {criterion!r}")
    from onnxprune.bridge.gradients import gradients

    rule = GRADIENT_CRITERIA[criterion]
    slots = {group.name: _slots(group, rule) for group in coupling.groups}
    asked = {slot.tensor: slot.op for each in slots.values() for slot in each}
    found = gradients(
        model, data, gates=asked if rule.gates else {}, parameters=() if rule.gates else asked, seed=seed
    ) if asked else iter(())  # fmt: skip
    sums = _of_gates(coupling, slots, rule, found) if rule.gates else _of_weights(coupling, slots, rule, found, model)
    skipped = {group.name: _nothing(criterion, group) for group in coupling.groups if group.name not in sums}
    if coupling.groups and not sums:
        raise NoScores(f"{next(iter(skipped.values())).sentence}, and no other group has either")
    return Scores(criterion, MappingProxyType(sums), MappingProxyType(skipped), seed, "sum", "none")


def _slots(group: Group, rule: GradientCriterion) -> list[Slot]:
    if rule.gates:
        return [slot for slot in group.weights if slot.role == "in" and slot.op in _READERS]
    return [slot for slot in group.weights if slot.role in ("out", "in", "scale", "shift")]


def _nothing(criterion: str, group: Group) -> Reason:
    sentence = f"criterion {criterion!r} asks layers that torch can train, and group {group.name!r} has none"
    return Reason("no-scores", sentence, group.nodes[0] if group.nodes else "")


def _of_gates(
    coupling: Coupling, slots: Mapping[str, list[Slot]], rule: GradientCriterion, batches: Iterable[Gradients]
) -> dict[str, Floats]:
    sums: dict[str, Floats] = {}
    count = 0
    for batch in batches:
        count += batch.count
        for group in coupling.groups:
            there = [slot for slot in slots[group.name] if _fits(slot, batch.gates)]
            if not there:
                continue
            rows = [_by_unit(batch.gates[slot.tensor][:, slot.positions], slot, group.size) for slot in there]
            if len({len(each) for each in rows}) > 1:  # where one cannot tell samples apart, none may
                rows = [each.sum(axis=0, keepdims=True) for each in rows]
            whole = np.sum(rows, axis=0)
            part = np.abs(whole) if rule.power == 1 else np.square(whole) / 2
            sums[group.name] = sums.get(group.name, np.zeros(group.size)) + part.sum(axis=0)
    return {name: each / max(count, 1) for name, each in sums.items()}


def _fits(slot: Slot, gates: Mapping[str, NDArray[Any]]) -> bool:
    """Whether positions on the weight's axis are channels of what the layer reads; in grouped layers they are not."""
    return slot.tensor in gates and gates[slot.tensor].shape[1] == slot.size


def _of_weights(
    coupling: Coupling,
    slots: Mapping[str, list[Slot]],
    rule: GradientCriterion,
    batches: Iterable[Gradients],
    model: Model,
) -> dict[str, Floats]:
    totals: dict[str, Floats] = {}
    count = 0
    for batch in batches:
        count += batch.count
        for name, gradient in batch.weights.items():
            part = gradient.astype(np.float64)
            totals[name] = totals.get(name, np.zeros(part.shape)) + (part if rule.power == 1 else part**2)
    sums: dict[str, Floats] = {}
    for group in coupling.groups:
        there = [slot for slot in slots[group.name] if slot.tensor in totals]
        if not there:
            continue
        parts = [_of_slot(slot, totals[slot.tensor] / count, model, group.size, rule) for slot in there]
        whole = np.asarray(np.sum(parts, axis=0))
        sums[group.name] = np.sqrt(whole) if rule.power == 1 else whole
    return sums


def _of_slot(slot: Slot, mean: Floats, model: Model, size: int, rule: GradientCriterion) -> Floats:
    weight = model.weights[slot.tensor].array().astype(np.float64)
    each = mean**2 if rule.power == 1 else mean * weight**2 / 2
    along = each.sum(axis=tuple(axis for axis in range(each.ndim) if axis != slot.axis))
    return np.asarray(_by_unit(along[None, slot.positions], slot, size)[0])


def _by_unit(rows: Floats, slot: Slot, size: int) -> Floats:
    """(rows, positions) added up to (rows, units)."""
    found = np.zeros((len(rows), size))
    np.add.at(found.T, slot.units, rows.T)
    return found
