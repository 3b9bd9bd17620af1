"""Normalisations. Those that behave differently in training are modules without parameters, which know their mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn

from onnxprune.bridge.registry import Step, op


class BatchNorm(nn.Module):
    """In training mode it normalises by the batch and moves the running statistics, else by these.

    A node whose own `training_mode` is 1 normalises by the batch in either mode, as onnxruntime does.
    """

    def __init__(self, momentum: float, epsilon: float, always: bool) -> None:
        super().__init__()
        self.momentum = 1 - momentum
        """As torch counts: how much of the new comes in."""
        self.epsilon = epsilon
        self.always = always
        self.synchronise = False
        """Whether the batch is that of all processes together."""

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        if mean.requires_grad or var.requires_grad:  # a weight that something else reads, too
            return normalised_by(x, scale, shift, mean, var, self.epsilon)
        if self.training and self.synchronise and _processes() > 1:
            return synchronised(x, scale, shift, mean, var, self.momentum, self.epsilon)
        if self.training:
            return F.batch_norm(x, mean, var, scale, shift, True, self.momentum, self.epsilon)
        if self.always:
            return F.batch_norm(x, None, None, scale, shift, True, 0.0, self.epsilon)
        return F.batch_norm(x, mean, var, scale, shift, False, 0.0, self.epsilon)

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}, epsilon={self.epsilon}, synchronise={self.synchronise}"


def _processes() -> int:
    group = torch.distributed
    return group.get_world_size() if group.is_available() and group.is_initialized() else 1


class _SumOverProcesses(torch.autograd.Function):
    """The sum of what all processes have; its gradient is the sum of all theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


def synchronised(
    x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor, momentum: float, epsilon: float
) -> Tensor:
    """Batch normalisation over the batches of all processes, of any sizes, on any device."""
    dtype, x = x.dtype, x.to(scale.dtype)  # sums over a batch do not fit into half floats
    axes = [axis for axis in range(x.dim()) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
    add: Any = _SumOverProcesses.apply
    count = x.new_full((1,), x.numel() / x.shape[1])
    sums = add(torch.cat([x.sum(axes), count]))
    total = sums[-1]
    centre = sums[:-1] / total
    moved = x - centre.reshape(shape)
    spread = add(moved.square().sum(axes)) / total
    with torch.no_grad():
        mean.lerp_(centre.to(mean.dtype), momentum)
        var.lerp_((spread * (total / (total - 1))).to(var.dtype), momentum)
    scaled: Tensor = moved * (scale * torch.rsqrt(spread + epsilon)).reshape(shape)
    return (scaled + shift.reshape(shape)).to(dtype)


@op("BatchNormalization")
def batch_norm(s: Step) -> Sequence[fx.Node | None]:
    always = bool(s.attr("training_mode", 0)) or (s.opset < 14 and s.wants(1) and s.opset >= 7)
    module = BatchNorm(s.attr("momentum", 0.9), s.attr("epsilon", 1e-5), always)
    inputs = s.tensors()
    if not always and any(s.build.values[name].weight is None for name in s.node.input[3:5]):
        return [s.emit(normalised_by, *inputs, module.epsilon)]
    made = s.apply(module, *inputs)
    # the other outputs are the running statistics themselves, which training moves
    return [made, *(inputs[3:5][: max(0, len(s.node.output) - 1)])]


def normalised_by(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor, epsilon: float) -> Tensor:
    """By statistics that the graph computes, which are nobody's running ones."""
    shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
    factor = scale * torch.rsqrt(var + epsilon)
    return x * factor.reshape(shape) + (shift - mean * factor).reshape(shape)


class Dropout(nn.Module):
    """Drops in training mode only."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, x: Tensor, ratio: Tensor | None = None) -> Tensor:
        amount = self.ratio if ratio is None else float(ratio)
        return F.dropout(x, amount, self.training)

    def extra_repr(self) -> str:
        return f"ratio={self.ratio}"


@op("Dropout")
def dropout(s: Step) -> Sequence[fx.Node | None]:
    known = s.array(1)
    ratio = s.attr("ratio", 0.5) if not s.has(1) else 0.5 if known is None else float(known)
    made = s.apply(Dropout(ratio), s.tensor(0), *([s.tensor(1)] if s.has(1) and known is None else []))
    return [made, s.emit(kept, made, s.tensor(0)) if s.wants(1) else None]


def kept(y: Tensor, x: Tensor) -> Tensor:
    """The mask: what was not dropped."""
    return (y != 0) | (x == 0)


@op("LayerNormalization")
def layer_norm(s: Step) -> Sequence[fx.Node | None]:
    axis, epsilon = s.attr("axis", -1), s.attr("epsilon", 1e-5)
    args = (s.tensor(0), s.tensor(1), s.tensor(2), axis, epsilon)
    if s.wants(1) or s.wants(2):
        return s.several(s.emit(with_statistics, *args))
    return [s.emit(layer_normalised, *args)]


def layer_normalised(x: Tensor, scale: Tensor, shift: Tensor | None, axis: int, epsilon: float) -> Tensor:
    shape = x.shape[axis:]
    if scale.shape == shape and (shift is None or shift.shape == shape):
        return F.layer_norm(x, shape, scale, shift, epsilon)
    out = F.layer_norm(x, shape, None, None, epsilon) * scale
    return out if shift is None else out + shift


def with_statistics(
    x: Tensor, scale: Tensor, shift: Tensor | None, axis: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    over = list(range(axis % x.dim(), x.dim()))
    mean = x.mean(over, keepdim=True)
    deviation = torch.rsqrt((x - mean).square().mean(over, keepdim=True) + epsilon)
    return layer_normalised(x, scale, shift, axis, epsilon), mean, deviation


@op("RMSNormalization", "SimplifiedLayerNormalization", "com.microsoft::SimplifiedLayerNormalization")
def rms_norm(s: Step) -> Sequence[fx.Node | None]:
    made = s.emit(rms_normalised, s.tensor(0), s.tensor(1), s.attr("axis", -1), s.attr("epsilon", 1e-5))
    return s.several(made)


def rms_normalised(x: Tensor, scale: Tensor, axis: int, epsilon: float) -> tuple[Tensor, Tensor]:
    over = list(range(axis % x.dim(), x.dim()))
    inverse = torch.rsqrt(x.square().mean(over, keepdim=True) + epsilon)
    return x * inverse * scale, inverse


@op("com.microsoft::SkipLayerNormalization", "com.microsoft::SkipSimplifiedLayerNormalization")
def skip_norm(s: Step) -> Sequence[fx.Node | None]:
    simple = "Simplified" in s.node.op_type
    shift, bias = (None, s.tensor(3)) if simple else (s.tensor(3), s.tensor(4))
    made = s.emit(skipped, s.tensor(0), s.tensor(1), s.tensor(2), shift, bias, s.attr("epsilon", 1e-12), simple)
    return s.several(made)


def skipped(
    x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None, bias: Tensor | None, epsilon: float, simple: bool
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """The sum, normalised; the sum itself is the last output."""
    total = x + skip if bias is None else x + skip + bias
    if simple:
        out, inverse = rms_normalised(total, scale, -1, epsilon)
        return out, None, inverse, total
    out, mean, inverse = with_statistics(total, scale, shift, -1, epsilon)
    return out, mean, inverse, total


@op("InstanceNormalization")
def instance_norm(s: Step) -> fx.Node:
    epsilon = s.attr("epsilon", 1e-5)
    return s.emit(instance_normalised, s.tensor(0), s.tensor(1), s.tensor(2), epsilon)


def instance_normalised(x: Tensor, scale: Tensor, shift: Tensor, epsilon: float) -> Tensor:
    return F.group_norm(x, x.shape[1], scale, shift, epsilon)  # torch's instance norm refuses a single position


@op("GroupNormalization")
def group_norm(s: Step) -> fx.Node:
    groups, epsilon = s.attr("num_groups"), s.attr("epsilon", 1e-5)
    return s.emit(group_normalised, s.tensor(0), s.tensor(1), s.tensor(2), groups, epsilon, s.opset < 21)


def group_normalised(x: Tensor, scale: Tensor, shift: Tensor, groups: int, epsilon: float, by_group: bool) -> Tensor:
    """Before opset 21 scale and shift belong to groups, from then on to channels."""
    if by_group:
        scale, shift = (w.repeat_interleave(x.shape[1] // groups) for w in (scale, shift))
    return F.group_norm(x, groups, scale, shift, epsilon)


@op("LRN")
def local_response(s: Step) -> fx.Node:
    args = (s.attr("size"), s.attr("alpha", 1e-4), s.attr("beta", 0.75), s.attr("bias", 1.0))
    return s.emit(locally_normalised, s.tensor(0), *args)


def locally_normalised(x: Tensor, size: int, alpha: float, beta: float, bias: float) -> Tensor:
    """Over the channels around each: floor((size - 1) / 2) before and ceil((size - 1) / 2) behind."""
    squares = F.pad(x.square().movedim(1, -1), [(size - 1) // 2, size // 2]).movedim(-1, 1)
    total = squares.unfold(1, size, 1).sum(-1)
    return x / (bias + alpha / size * total) ** beta


@op("LpNormalization")
def lp_norm(s: Step) -> fx.Node:
    return s.emit(lp_normalised, s.tensor(0), s.attr("p", 2), s.attr("axis", -1))


def lp_normalised(x: Tensor, p: int, axis: int) -> Tensor:
    length = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(length == 0, torch.zeros_like(x), x / length)


@op("MeanVarianceNormalization")
def mean_variance(s: Step) -> fx.Node:
    return s.emit(standardised, s.tensor(0), s.attr("axes", [0, 2, 3]))


def standardised(x: Tensor, axes: Sequence[int]) -> Tensor:
    moved = x - x.mean(list(axes), keepdim=True)
    return moved / (moved.square().mean(list(axes), keepdim=True).sqrt() + 1e-9)


def switches(module: nn.Module) -> list[Any]:
    """The batch normalisations of a module."""
    return [each for each in module.modules() if isinstance(each, BatchNorm)]
