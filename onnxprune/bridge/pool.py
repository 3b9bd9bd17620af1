"""Pooling. Where torch's own function pads and counts as ONNX does it is used, else what it needs is made around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from onnxprune.bridge import windows
from onnxprune.bridge.registry import Step, op

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
Asked = tuple[list[int], Sequence[int] | None, Sequence[int] | str | None, Sequence[int] | None, bool]
"""What every kind of pooling is told: kernel, strides, padding, dilations, and whether the count rounds up."""


def _with_ceiling(
    sizes: Sequence[int],
    around: windows.Pads,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> windows.Pads:
    """The same padding, its ends longer where a last window would not be filled, or shorter where none begins there."""
    found = []
    for size, (begin, end), k, stride, dilation in zip(sizes, around, kernel, strides, dilations, strict=True):
        width = (k - 1) * dilation + 1
        count = -(-(size + begin + end - width) // stride) + 1
        if (count - 1) * stride >= size + begin:
            count -= 1
        found.append((begin, (count - 1) * stride + width - size - begin))
    return found


def asked_of(s: Step) -> Asked:
    """As the node says it."""
    options = (s.attr("strides"), windows.pads_of(s), s.attr("dilations"), bool(s.attr("ceil_mode", 0)))
    return (list(s.attr("kernel_shape")), *options)


def _laid(x: Tensor, asked: Asked) -> tuple[list[int], list[int], windows.Pads]:
    """Strides and dilations of every axis, and the padding that these windows take."""
    kernel, strides, pads, dilations, ceiling = asked
    steps, spread = windows.full(strides, len(kernel)), windows.full(dilations, len(kernel))
    around = windows.amounts(x.shape[2:], pads, kernel, steps, spread)
    return steps, spread, _with_ceiling(x.shape[2:], around, kernel, steps, spread) if ceiling else around


@op("MaxPool")
def max_pool(s: Step) -> Sequence[fx.Node | None]:
    asked, rank = asked_of(s), len(s.attr("kernel_shape"))
    if s.wants(1):
        return s.several(s.emit(max_with_places, s.tensor(0), asked, bool(s.attr("storage_order", 0))))
    if rank not in _MAX:
        raise s.refuse(f"windows of {rank} dimensions are not known")
    return [s.emit(max_pooled, s.tensor(0), asked)]


def max_pooled(x: Tensor, asked: Asked) -> Tensor:
    kernel, rank = asked[0], len(asked[0])
    strides, dilations, around = _laid(x, asked)
    fits = windows.even(around) and all(2 * begin <= k for (begin, _), k in zip(around, kernel, strict=True))
    padding = [begin for begin, _ in around] if fits else [0] * rank
    if not x.is_floating_point():
        y: Tensor = windows.pad(x.double(), around, float(torch.iinfo(x.dtype).min))
        return _MAX[rank](y, kernel, strides, 0, dilations).to(x.dtype)  # type: ignore[no-any-return]
    y = x if fits else windows.pad(x, around, -torch.inf)
    pooled: Tensor = _MAX[rank](y, kernel, strides, padding, dilations)
    return pooled


def max_with_places(x: Tensor, asked: Asked, column_major: bool) -> tuple[Tensor, Tensor]:
    """And where in the whole tensor each maximum stands."""
    kernel, rank, sizes = asked[0], len(asked[0]), x.shape[2:]
    strides, dilations, around = _laid(x, asked)
    y = windows.pad(x, around, -torch.inf)
    out, at = _MAX[rank](y, kernel, strides, 0, dilations, return_indices=True)
    coordinates = []
    for length, (begin, _) in zip(reversed(y.shape[2:]), reversed(around), strict=True):
        coordinates.append(at % length - begin)
        at = at // length
    order = list(zip(coordinates, reversed(sizes), strict=True))  # the innermost axis first
    place, stride = torch.zeros_like(at), 1
    for coordinate, length in reversed(order) if column_major else order:
        place = place + coordinate * stride
        stride = stride * length
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * stride
    return out, place + planes.reshape(*x.shape[:2], *[1] * rank)


@op("AveragePool")
def average_pool(s: Step) -> fx.Node:
    return s.emit(averaged, s.tensor(0), asked_of(s), bool(s.attr("count_include_pad", 0)))


def averaged(x: Tensor, asked: Asked, count_pads: bool) -> Tensor:
    """Sums over windows, divided by how much of each window counts: the input, or the padding as well."""
    kernel, rank, ceiling = asked[0], len(asked[0]), asked[-1]
    strides, dilations, around = _laid(x, (*asked[:-1], False))
    fits = windows.even(around) and all(2 * begin <= k for (begin, _), k in zip(around, kernel, strict=True))
    if fits and not ceiling and max(dilations) == 1:
        padding = [begin for begin, _ in around]
        pooled: Tensor = _AVERAGE[rank](x, kernel, strides, padding, False, count_pads)
        return pooled
    counted = torch.ones_like(x[:1, :1])
    if count_pads:
        counted = windows.pad(counted, around, 1.0)
        rest: windows.Pads = [(0, 0)] * rank
    else:
        rest = around
    if ceiling:
        longer = _with_ceiling(x.shape[2:], around, kernel, strides, dilations)
        more = [(0, after - before) for (_, after), (_, before) in zip(longer, around, strict=True)]
        rest = [(begin, end + extra) for (begin, end), (_, extra) in zip(rest, more, strict=True)]
        around = longer
    ones = x.new_ones(1, 1, *kernel)
    planes = windows.pad(x, around).flatten(0, 1).unsqueeze(1)
    sums: Tensor = _CONV[rank](planes, ones, None, strides, 0, dilations)
    counts: Tensor = _CONV[rank](windows.pad(counted, rest), ones, None, strides, 0, dilations)
    return (sums / counts).reshape(*x.shape[:2], *sums.shape[2:])


@op("LpPool")
def lp_pool(s: Step) -> fx.Node:
    return s.emit(lp_pooled, s.tensor(0), asked_of(s), s.attr("p", 2))


def lp_pooled(x: Tensor, asked: Asked, p: int) -> Tensor:
    kernel, rank = asked[0], len(asked[0])
    strides, dilations, around = _laid(x, asked)
    planes = windows.pad(x.abs().pow(p), around).flatten(0, 1).unsqueeze(1)
    sums: Tensor = _CONV[rank](planes, x.new_ones(1, 1, *kernel), None, strides, 0, dilations)
    return sums.reshape(*x.shape[:2], *sums.shape[2:]).pow(1 / p)


@op("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(s: Step) -> fx.Node:
    return s.emit(pooled_whole, s.node.op_type, s.tensor(0), s.attr("p", 2))


def pooled_whole(kind: str, x: Tensor, p: int) -> Tensor:
    over = list(range(2, x.dim()))
    if kind == "GlobalLpPool":
        length: Tensor = torch.linalg.vector_norm(x, p, over, keepdim=True)
        return length
    return x.mean(over, keepdim=True) if kind == "GlobalAveragePool" else torch.amax(x, over, keepdim=True)


@op("MaxUnpool", sizes=(2,))
def max_unpool(s: Step) -> fx.Node:
    kernel = list(s.attr("kernel_shape"))
    pads = s.attr("pads") or [0] * (2 * len(kernel))
    return s.emit(unpooled, s.tensor(0), s.tensor(1), s.numbers(2), kernel, s.attr("strides"), pads)


def unpooled(
    x: Tensor,
    at: Tensor,
    shape: Sequence[int] | None,
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    pads: Sequence[int],
) -> Tensor:
    """The indices count in the tensor that was pooled; a larger shape gets the rest as zeros behind."""
    rank = len(kernel)
    strides = windows.full(strides, rank)
    ends = zip(pads[:rank], pads[rank:], strict=True)
    own = [
        (n - 1) * stride + k - begin - end
        for n, stride, k, (begin, end) in zip(x.shape[2:], strides, kernel, ends, strict=True)
    ]
    flat = x.new_zeros(x.shape[0] * x.shape[1] * torch.Size(own).numel())
    out = flat.scatter(0, at.reshape(-1), x.reshape(-1)).reshape(*x.shape[:2], *own)
    if shape is None:
        return out
    return windows.pad(out, [(0, want - have) for want, have in zip(list(shape)[2:], own, strict=True)])
