"""Learn from the original what the labels do not say.

    outputs (N, classes)    alpha * T^2 * KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) * labels' loss
    other outputs of floats |student - teacher|^2 / |teacher|^2
    tensors on the way      of the same shape: likewise; of which one axis was cut: the energy along that axis,
                            as a unit vector for each sample (attention maps), |a - b|^2

Without labels the teacher is everything. Hinton et al., Distilling the Knowledge in a Neural Network, 2015; Zagoruyko
and Komodakis, Paying More Attention to Attention, 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxprune.bridge.classes import as_logits
from onnxprune.errors import UserError
from onnxprune.training.feed import Batch
from onnxprune.training.losses import Loss, Outputs, named

Shape = Sequence[int | str | None]

MOST = 4
"""Tensors compared where nobody says which."""
_TINY = 1e-12


@dataclass(frozen=True)
class Common:
    """A tensor that two models have."""

    name: str
    student: Shape
    teacher: Shape
    shortcut: bool
    """It is the sum of two activations."""


@dataclass(frozen=True, eq=False)
class Distilled:
    """The loss of a student."""

    teacher: nn.Module
    """Frozen, in eval mode."""
    outputs: tuple[str, ...]
    """Names of what it returns: the model's outputs, then the tensors on the way."""
    features: tuple[str, ...] = ()
    """Those on the way."""
    loss: Loss | None = None
    """What labels or a task say; None: nothing."""
    temperature: float = 4.0
    alpha: float = 0.9
    weight: float = 0.0
    """Of the tensors on the way."""

    def __call__(self, outputs: Outputs, batch: Batch) -> Tensor:
        with torch.no_grad():
            taught = named(self.teacher(*batch.inputs.values()), self.outputs)
        count = batch.count
        pairs = [(outputs[name][:count], taught[name][:count]) for name in taught if name in outputs]
        ends = [pair for name, pair in zip(taught, pairs, strict=True) if name not in self.features]
        total = torch.stack([self._output(a, b) for a, b in ends if b.is_floating_point()]).mean()
        if self.loss is not None and self.alpha < 1:
            total = self.alpha * total + (1 - self.alpha) * self.loss(outputs, batch)
        if self.features:
            ways = [unlikeness(outputs[name][:count], taught[name][:count]) for name in self.features]
            total = total + self.weight * torch.stack(ways).mean()
        return total

    def _output(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape != teacher.shape:
            raise UserError(f"the teacher's output is {list(teacher.shape)}, the model's {list(student.shape)}")
        wide = [size for size in teacher.shape[1:] if size != 1]
        if teacher.dim() < 2 or len(wide) != 1:
            return unlikeness(student, teacher)
        flat = (as_logits(x.reshape(len(x), -1)) for x in (student, teacher))
        a, b = (functional.log_softmax(x / self.temperature, dim=1) for x in flat)
        return functional.kl_div(a, b, reduction="batchmean", log_target=True) * self.temperature**2


def unlikeness(student: Tensor, teacher: Tensor) -> Tensor:
    """How far apart two tensors are, between which at most one axis differs in length."""
    axis = cut_axis(student.shape, teacher.shape)
    if axis is None:
        return (student - teacher).square().sum() / teacher.square().sum().clamp_min(_TINY)
    maps = [functional.normalize(x.square().mean(axis).flatten(1), dim=1) for x in (student, teacher)]
    return (maps[0] - maps[1]).square().sum(1).mean()


def cut_axis(student: Shape, teacher: Shape) -> int | None:
    """The axis in which the two differ; None: none."""
    differing = [axis for axis, (a, b) in enumerate(zip(student, teacher, strict=True)) if a != b]
    return differing[0] if differing else None


def comparable(student: Shape, teacher: Shape) -> bool:
    """Whether two shapes of one name can be compared: more than vectors, and at most one axis was cut.

    Where one was, the others must hold more than one number: the direction of one says nothing.
    """
    if len(student) != len(teacher) or len(teacher) < 3:
        return False
    differing = [axis for axis, (a, b) in enumerate(zip(student, teacher, strict=True)) if a != b]
    if not differing:
        return True
    others = [d for axis, d in enumerate(teacher) if axis not in (0, *differing)]
    return len(differing) == 1 and differing[0] > 0 and any(d != 1 for d in others)


def chosen(shapes: Sequence[Common], patterns: Sequence[str]) -> tuple[str, ...]:
    """Which of the tensors that two models have in common, in graph order, are compared.

    With patterns those that match. Else sums of a shortcut, where there are any, and of these the last one before the
    resolution changes, for there a stage ends; where it never does, as in transformers, some at even distances.
    """
    fitting = [item for item in shapes if comparable(item.student, item.teacher)]
    if patterns:
        for pattern in patterns:
            if not any(fnmatchcase(item.name, pattern) for item in fitting):
                raise UserError(
                    f"features_at: {pattern!r} names no tensor that both models have and that can be compared"
                )
        return tuple(item.name for item in fitting if any(fnmatchcase(item.name, each) for each in patterns))
    if not fitting:
        raise UserError("the two models have no tensor in common that could be compared; leave features at 0")
    sums = [item for item in fitting if item.shortcut]
    fitting = sums if len(sums) > 1 else fitting
    grids = [_grid(item.teacher) for item in fitting]
    ends = [i for i in range(len(grids)) if i + 1 == len(grids) or grids[i] != grids[i + 1]]
    if len(ends) == 1:
        ends = [(i + 1) * len(fitting) // MOST - 1 for i in range(MOST)]
    return tuple(dict.fromkeys(fitting[i].name for i in ends[-MOST:] if i >= 0))


def _grid(shape: Shape) -> Shape:
    """Rank and positions: (N, C, H, W) has H x W of them, (N, T, D) has T."""
    return (len(shape), *(shape[2:] if len(shape) > 3 else shape[1:2]))
