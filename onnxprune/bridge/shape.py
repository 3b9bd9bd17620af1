"""Operators that move what is there and change no number. Their sizes are numbers on Python's side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from onnxprune.bridge import weights
from onnxprune.bridge.registry import Step, op

FAR = 1 << 62


@op("Reshape", sizes=(1,))
def reshape(s: Step) -> fx.Node:
    target = s.attr("shape") if s.attr("shape") is not None else s.numbers(1)
    if isinstance(target, list) and 0 not in target:
        return s.emit(torch.reshape, s.tensor(0), target)
    return s.emit(reshaped, s.tensor(0), target, bool(s.attr("allowzero", 0)))


def reshaped(x: Tensor, target: Sequence[int], zero: bool) -> Tensor:
    """0 keeps the length that stands there, unless zero itself is meant."""
    if not zero:
        target = [x.shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    return x.reshape(target)


@op("Flatten")
def flatten(s: Step) -> fx.Node:
    return s.emit(flattened, s.tensor(0), s.attr("axis", 1))


def flattened(x: Tensor, axis: int) -> Tensor:
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@op("Transpose")
def transpose(s: Step) -> fx.Node:
    perm = s.attr("perm")
    return s.emit(turned, s.tensor(0)) if perm is None else s.emit(torch.permute, s.tensor(0), list(perm))


def turned(x: Tensor) -> Tensor:
    return x.permute(*range(x.dim() - 1, -1, -1))


@op("Squeeze", sizes=(1,))
def squeeze(s: Step) -> fx.Node:
    return s.emit(squeezed, s.tensor(0), s.axes())


def squeezed(x: Tensor, axes: Sequence[int] | None) -> Tensor:
    if axes is None:
        return x.squeeze()
    gone = {axis % x.dim() for axis in axes}
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in gone])


@op("Unsqueeze", sizes=(1,))
def unsqueeze(s: Step) -> fx.Node:
    axes = s.axes()
    if isinstance(axes, list) and len(axes) == 1:
        return s.emit(torch.unsqueeze, s.tensor(0), axes[0])
    return s.emit(unsqueezed, s.tensor(0), axes)


def unsqueezed(x: Tensor, axes: Sequence[int]) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@op("Concat")
def concat(s: Step) -> fx.Node:
    return s.emit(torch.cat, s.tensors(), s.attr("axis", 1))


@op("Split", sizes=(1,))
def split(s: Step) -> Sequence[fx.Node | None]:
    axis, sizes = s.attr("axis", 0), s.axes(1, "split")
    if sizes is None:
        return s.several(s.emit(chunked, s.tensor(0), s.attr("num_outputs", len(s.node.output)), axis))
    return s.several(s.emit(torch.split, s.tensor(0), sizes, axis))


def chunked(x: Tensor, count: int, axis: int) -> tuple[Tensor, ...]:
    """Equal pieces, the last one smaller where that does not come out."""
    return torch.split(x, -(-x.shape[axis] // count), axis)


@op("Slice", sizes=(1, 2, 3, 4))
def slices(s: Step) -> fx.Node:
    if s.attr("starts") is not None:
        starts, ends, axes, steps = list(s.attr("starts")), list(s.attr("ends")), s.attr("axes"), None
    else:
        starts, ends, axes, steps = (s.numbers(index) for index in range(1, 5))
    return s.emit(sliced, s.tensor(0), starts, ends, axes, steps)


def sliced(x: Tensor, starts: Any, ends: Any, axes: Sequence[int] | None, steps: Sequence[int] | None) -> Tensor:
    if not isinstance(starts, list | tuple):  # some exporters write one number
        starts, ends = [starts], [ends]
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis + x.dim() if axis < 0 else axis
        if step > 0:
            x = x[(slice(None),) * axis + (slice(_near(start), _near(end), step),)]
        else:
            places = range(x.shape[axis])[slice(start, end, step)]
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))
    return x


def _near(bound: Any) -> Any:
    """Exporters write the largest of all integers for the end, and torch warns of such."""
    return max(-FAR, min(bound, FAR)) if isinstance(bound, int) else bound


@op("Expand", sizes=(1,))
def expand(s: Step) -> fx.Node:
    return s.emit(expanded, s.tensor(0), s.numbers(1))


def expanded(x: Tensor, target: Sequence[int]) -> Tensor:
    """Both ways: where the target says 1, the tensor's own length stays."""
    rank = max(x.dim(), len(target))
    have = [1] * (rank - x.dim()) + list(x.shape)
    want = [1] * (rank - len(target)) + list(target)
    return x.expand([h if w == 1 else w for h, w in zip(have, want, strict=True)])


@op("Tile", sizes=(1,))
def tile(s: Step) -> fx.Node:
    return s.emit(torch.tile, s.tensor(0), s.numbers(1))


@op("ConstantOfShape", "com.microsoft::ConstantOfShape", sizes=(0,))
def constant_of_shape(s: Step) -> fx.Node:
    value = s.attr("value")
    array = np.zeros(1, np.float32) if value is None else onnx.numpy_helper.to_array(value)
    dtype = s.build.dtype_of(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
    return s.emit(constant, s.numbers(0), weights.from_array(array).reshape(-1)[0].item(), dtype, s.build.device)


def constant(shape: Sequence[int], value: float, dtype: torch.dtype, like: Tensor | None) -> Tensor:
    return torch.full(shape, value, dtype=dtype, device=None if like is None else like.device)


@op("Range", sizes=(0, 1, 2))
def arange(s: Step) -> fx.Node:
    known = s.array(0) if s.array(0) is not None else s.array(2)
    kind = s.build.values[s.node.input[0]].dtype
    if known is not None:
        kind = s.build.dtype_of(onnx.helper.np_dtype_to_tensor_dtype(known.dtype))
    return s.emit(ranged, *(s.numbers(index) for index in range(3)), kind, s.build.device)


def ranged(start: Any, stop: Any, step: Any, dtype: torch.dtype, like: Tensor | None) -> Tensor:
    return torch.arange(start, stop, step, dtype=dtype, device=None if like is None else like.device)


@op("EyeLike")
def eye_like(s: Step) -> fx.Node:
    number = s.attr("dtype")
    return s.emit(eye, s.tensor(0), s.attr("k", 0), None if number is None else s.build.dtype_of(number))


def eye(x: Tensor, k: int, dtype: torch.dtype | None) -> Tensor:
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    return (torch.arange(x.shape[1], device=x.device) - rows == k).to(dtype or x.dtype)


@op("Trilu", sizes=(1,))
def trilu(s: Step) -> fx.Node:
    return s.emit(torch.triu if s.attr("upper", 1) else torch.tril, s.tensor(0), s.numbers(1, 0))


@op("DepthToSpace")
def depth_to_space(s: Step) -> fx.Node:
    return s.emit(to_space, s.tensor(0), s.attr("blocksize"), s.attr("mode", "DCR") == "DCR")


def to_space(x: Tensor, size: int, depth_first: bool) -> Tensor:
    n, c, h, w = x.shape
    if not depth_first:
        return F.pixel_shuffle(x, size)
    x = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // size**2, h * size, w * size)


@op("SpaceToDepth")
def space_to_depth(s: Step) -> fx.Node:
    return s.emit(to_depth, s.tensor(0), s.attr("blocksize"))


def to_depth(x: Tensor, size: int) -> Tensor:
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * size**2, h // size, w // size)


@op("Pad", sizes=(1, 3))
def pad(s: Step) -> fx.Node:
    if s.attr("pads", s.attr("paddings")) is not None:
        amounts, value = list(s.attr("pads", s.attr("paddings"))), s.attr("value", 0.0)
    else:
        known = s.array(2)
        amounts, value = s.numbers(1), s.tensor(2) if known is None else known.reshape(-1)[0].item()
    value = 0.0 if value is None else value
    return s.emit(padded, s.tensor(0), amounts, s.numbers(3), s.attr("mode", "constant"), value)


def padded(x: Tensor, amounts: Sequence[int], axes: Sequence[int] | None, mode: str, value: Any) -> Tensor:
    """Beginnings of all axes, then their ends; what is negative is cut off first."""
    chosen = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    pairs = dict(zip(chosen, zip(amounts[: len(chosen)], amounts[len(chosen) :], strict=True), strict=True))
    if mode == "constant":
        flat = [amount for axis in range(x.dim() - 1, -1, -1) for amount in pairs.get(axis, (0, 0))]
        if x.dtype == torch.bool:
            return F.pad(x.to(torch.uint8), flat, value=int(value)).to(torch.bool)
        return F.pad(x, flat, value=value.item() if isinstance(value, Tensor) else value)
    for axis, (begin, end) in pairs.items():
        if begin or end:
            x = x.index_select(axis, _around(x.shape[axis], begin, end, mode).to(x.device))
    return x


def _around(length: int, begin: int, end: int, mode: str) -> Tensor:
    """The positions that a padded axis repeats."""
    low, high = max(0, -begin), length - max(0, -end)  # what is left after negative amounts
    at, count = torch.arange(-max(0, begin), high - low + max(0, end)), high - low
    if mode == "edge":
        at = at.clamp(0, count - 1)
    elif mode == "wrap":
        at = at % count
    else:
        period = max(1, 2 * (count - 1))
        at = at % period
        at = torch.where(at >= count, period - at, at)
    return at + low
