"""Convolutions, in any number of dimensions, padded unevenly where the node says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from onnxprune.bridge import windows
from onnxprune.bridge.registry import Step, op

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
Pads = Sequence[int] | str | None


@op("Conv")
def conv(s: Step) -> fx.Node:
    return _conv(s, s.tensor(0), s.tensor(1), s.tensor(2))


@op("com.microsoft::FusedConv")
def fused_conv(s: Step) -> fx.Node:
    made = _conv(s, s.tensor(0), s.tensor(1), s.tensor(2))
    if s.has(3):
        made = s.emit(torch.add, made, s.tensor(3))
    return s.emit(activated, made, s.attr("activation", ""), tuple(s.attr("activation_params", [])))


def _conv(s: Step, x: Any, w: Any, b: Any) -> fx.Node:
    pads, strides, dilations = windows.pads_of(s), s.attr("strides"), s.attr("dilations")
    group = s.attr("group", 1)
    rank = len(s.attr("kernel_shape", strides or []))
    if rank in _CONV and (pads is None or (not isinstance(pads, str) and pads[:rank] == pads[rank:])):
        stride, dilation = windows.full(strides, rank), windows.full(dilations, rank)
        return s.emit(_CONV[rank], x, w, b, stride, pads[:rank] if pads else [0] * rank, dilation, group)
    return s.emit(convolved, x, w, b, pads, strides, dilations, group)


def convolved(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    pads: Pads,
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    group: int,
) -> Tensor:
    rank = x.dim() - 2
    strides, dilations = windows.full(strides, rank), windows.full(dilations, rank)
    around = windows.amounts(x.shape[2:], pads, w.shape[2:], strides, dilations)
    padding = [begin for begin, _ in around] if windows.even(around) else [0] * rank
    x = x if windows.even(around) else windows.pad(x, around)
    out: Tensor = _CONV[rank](x, w, b, strides, padding, dilations, group)
    return out


@op("ConvTranspose")
def conv_transpose(s: Step) -> fx.Node:
    return s.emit(
        spread,
        s.tensor(0),
        s.tensor(1),
        s.tensor(2),
        windows.pads_of(s),
        s.attr("strides"),
        s.attr("dilations"),
        s.attr("group", 1),
        s.attr("output_padding"),
        s.attr("output_shape"),
    )


def spread(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    pads: Pads,
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    group: int,
    more: Sequence[int] | None,
    target: Sequence[int] | None,
) -> Tensor:
    """Everything first, then what the pads take away."""
    rank = x.dim() - 2
    strides, dilations = windows.full(strides, rank), windows.full(dilations, rank)
    more = list(more) if more else [0] * rank
    whole = [
        stride * (size - 1) + extra + (k - 1) * dilation + 1
        for size, stride, extra, k, dilation in zip(x.shape[2:], strides, more, w.shape[2:], dilations, strict=True)
    ]
    around = _cropped(whole, pads, [s * n for s, n in zip(strides, x.shape[2:], strict=True)], target)
    if windows.even(around):
        out: Tensor = _TRANSPOSED[rank](x, w, b, strides, [begin for begin, _ in around], more, group, dilations)
        return out
    # torch allows no more output padding than a stride
    full: Tensor = _TRANSPOSED[rank](x, w, b, strides, 0, 0, group, dilations)
    missing = [(0, size - have) for size, have in zip(whole, full.shape[2:], strict=True)]
    if any(end for _, end in missing):
        full = _TRANSPOSED[rank](x, w, None, strides, 0, 0, group, dilations)
        full = windows.pad(full, missing)
        full = full if b is None else full + b.reshape(-1, *[1] * rank)
    return windows.pad(full, [(-begin, -end) for begin, end in around])


def _cropped(
    whole: Sequence[int], pads: Pads, same: Sequence[int], target: Sequence[int] | None
) -> list[tuple[int, int]]:
    if target is None and not isinstance(pads, str):
        return windows.amounts(whole, pads, whole, whole, whole)
    wanted = list(target)[-len(whole) :] if target else list(same)
    found = []
    for size, goal in zip(whole, wanted, strict=True):
        total = size - goal
        half = total // 2
        found.append((half, total - half) if pads == "SAME_UPPER" else (total - half, half))
    return found


def activated(x: Tensor, name: str, params: tuple[float, ...] = ()) -> Tensor:
    """As onnxruntime's fused operators name their activations."""
    match name:
        case "":
            return x
        case "Relu":
            return torch.relu(x)
        case "Sigmoid":
            return torch.sigmoid(x)
        case "Tanh":
            return torch.tanh(x)
        case "LeakyRelu":
            return F.leaky_relu(x, params[0] if params else 0.01)
        case "Clip":
            return torch.clamp(x, params[0], params[1])
        case "HardSigmoid":
            return torch.clamp(x * params[0] + params[1], 0.0, 1.0)
    raise ValueError(f"the activation {name!r} of a fused operator is not known")
