"""A pressure towards zero after every step, so that pruning finds channels that nobody misses.

    bn-l1         sum |gamma|                        over all BatchNormalization scales (network slimming)
    group-lasso   sum sqrt(n_u) |w_u|                over all units u of all groups; w_u is all that goes with u,
                                                     n_u numbers from all of its weight slots

Not the subgradient but the proximal step: what it asks for, no further than to zero, so that zeros are zeros.

    gamma <- sign(gamma) * max(0, |gamma| - s)       w_u <- w_u * max(0, 1 - s * sqrt(n_u) / |w_u|)
    s = weight * rate / (1 - momentum)               as far as the same number in the loss would pull it with SGD

Liu et al., Learning Efficient Convolutional Networks through Network Slimming, 2017; Yuan and Lin, Model selection and
estimation in regression with grouped variables, 2006.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from onnxprune.analysis.coupling import Coupling
from onnxprune.errors import UserError
from onnxprune.training.recipe import Recipe


class Pressure(Protocol):
    """What is done to weights after a step."""

    def press(self, amount: float) -> None:
        """Towards zero, by weight times rate."""


@dataclass(frozen=True, eq=False)
class ScaleLasso:
    """On BatchNormalization scales."""

    scales: Sequence[Tensor]

    @torch.no_grad()
    def press(self, amount: float) -> None:
        for scale in self.scales:
            scale.copy_(scale.sign() * (scale.abs() - amount).clamp_min(0))


@dataclass(frozen=True, eq=False)
class _Slice:
    """One slot of a group: an axis of a parameter, and the unit that each of its positions belongs to."""

    weight: Tensor
    axis: int
    positions: Tensor
    units: Tensor


@dataclass(frozen=True, eq=False)
class GroupLasso:
    """On all weights of each unit."""

    groups: Sequence[tuple[int, Tensor, Sequence[_Slice]]]
    """Units, square roots of how many numbers each has, slots."""

    @torch.no_grad()
    def press(self, amount: float) -> None:
        for size, roots, slices in self.groups:
            squares = torch.zeros(size, dtype=torch.float32, device=roots.device)
            for part in slices:
                rows = part.weight.index_select(part.axis, part.positions).transpose(0, part.axis)
                squares.index_add_(0, part.units, rows.float().square().reshape(len(rows), -1).sum(1))
            kept = (1 - amount * roots / squares.sqrt().clamp_min(1e-30)).clamp_min(0)
            for part in slices:
                factors = part.weight.new_ones(part.weight.shape[part.axis])
                factors[part.positions] = kept[part.units].to(factors.dtype)
                shape = [1] * part.weight.dim()
                shape[part.axis] = -1
                part.weight.mul_(factors.view(shape))


def scale_lasso(parameters: Mapping[str, Tensor], scales: Sequence[str]) -> ScaleLasso:
    """On the parameters that are BatchNormalization scales."""
    found = [parameters[name] for name in dict.fromkeys(scales) if name in parameters]
    if not found:
        raise UserError(
            "sparsity bn-l1 presses on the scales of BatchNormalization, and the model has none that train: export it "
            "with BatchNormalization kept, or use group-lasso"
        )
    return ScaleLasso(found)


def group_lasso(parameters: Mapping[str, Tensor], coupling: Coupling) -> GroupLasso:
    """On the parameters that are slots of the groups."""
    groups = []
    for group in coupling.groups:
        slots = [slot for slot in group.weights if slot.role and slot.role != "keep" and slot.tensor in parameters]
        if not slots:
            continue
        numbers = np.zeros(group.size)
        slices = []
        for slot in slots:
            weight = parameters[slot.tensor]
            np.add.at(numbers, slot.units, weight.numel() / weight.shape[slot.axis])
            places = [torch.from_numpy(np.array(part)).to(weight.device) for part in (slot.positions, slot.units)]
            slices.append(_Slice(weight, slot.axis, places[0], places[1]))
        roots = torch.from_numpy(np.sqrt(numbers)).float().to(slices[0].weight.device)
        groups.append((group.size, roots, slices))
    if not groups:
        raise UserError("sparsity group-lasso presses on coupled channels, and the model has none whose weights train")
    return GroupLasso(groups)


def scales_of(module: nn.Module) -> list[str]:
    """Names of the BatchNormalization scales of a plain torch module."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return [f"{name}.weight".lstrip(".") for name, part in module.named_modules() if isinstance(part, kinds)]


def amount_at(recipe: Recipe, rate: float) -> float:
    """How far one step presses."""
    reach = 1 - recipe.momentum if recipe.optimizer == "sgd" else 1.0
    return recipe.sparsity_weight * rate / reach
