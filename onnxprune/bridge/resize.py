"""Resampling, exact in every mode: each axis by itself, every output a weighted sum of a few inputs.

    coordinate   where an output lies in the input: half_pixel (i + 0.5) / scale - 0.5, asymmetric i / scale, ...
    taps         the inputs around it and their weights: 1 for nearest, 2 for linear, 4 for cubic, more with antialias

Coordinates are computed in float32, as onnxruntime does: which input is nearest depends on the last bit. Where torch's
own function means the same, it is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from onnxprune.bridge.registry import Step, op

Taps = tuple[Tensor, Tensor]
"""Positions and weights, both (outputs, taps)."""


@dataclass(frozen=True)
class Style:
    """What the node's attributes say."""

    mode: str
    coordinates: str
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude: bool = False
    antialias: bool = False
    outside: float = 0.0


@op("Upsample", sizes=(1,))
def upsample(s: Step) -> fx.Node:
    scales = s.attr("scales")
    if scales is None and s.attr("height_scale") is not None:
        scales = [1.0, 1.0, s.attr("height_scale"), s.attr("width_scale")]
    scales = s.numbers(1) if scales is None else list(scales)
    mode = "linear" if "linear" in s.attr("mode", "nearest") else "nearest"
    return s.emit(resized, s.tensor(0), scales, None, None, None, None, *_fields(Style(mode, "asymmetric", "floor")))


@op("Resize", sizes=(1, 2, 3))
def resize(s: Step) -> fx.Node:
    if s.opset < 11:
        mode = s.attr("mode", "nearest")
        style = Style(mode, "asymmetric", "floor")
        return s.emit(resized, s.tensor(0), s.numbers(1), None, None, None, None, *_fields(style))
    style = Style(
        s.attr("mode", "nearest"),
        s.attr("coordinate_transformation_mode", "half_pixel"),
        s.attr("nearest_mode", "round_prefer_floor"),
        s.attr("cubic_coeff_a", -0.75),
        bool(s.attr("exclude_outside", 0)),
        bool(s.attr("antialias", 0)),
        s.attr("extrapolation_value", 0.0),
    )
    scales, sizes = s.numbers(2), s.numbers(3)
    region = s.numbers(1) if style.coordinates == "tf_crop_and_resize" else None
    policy = s.attr("keep_aspect_ratio_policy", "stretch")
    scales = None if isinstance(scales, list) and not scales else scales
    return s.emit(resized, s.tensor(0), scales, sizes, s.attr("axes"), region, policy, *_fields(style))


def _fields(style: Style) -> tuple[Any, ...]:
    """As plain arguments: the graph's code can write these."""
    return (
        style.mode,
        style.coordinates,
        style.nearest,
        style.cubic,
        style.exclude,
        style.antialias,
        style.outside,
    )


def resized(
    x: Tensor,
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    axes: Sequence[int] | None,
    region: Sequence[float] | None,
    policy: str | None,
    *fields: Any,
) -> Tensor:
    style = Style(*fields)
    chosen = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    lengths = [x.shape[axis] for axis in chosen]
    if sizes is not None:
        goals, factors = _goals(lengths, list(sizes), policy or "stretch")
    else:
        factors = list(scales or [])
        goals = [math.floor(n * factor) for n, factor in zip(lengths, factors, strict=True)]
    todo = [
        (axis, goal, factor, _piece(region, i, len(chosen)))
        for i, (axis, goal, factor) in enumerate(zip(chosen, goals, factors, strict=True))
        if goal != x.shape[axis] or factor != 1 or region is not None
    ]
    if not todo:
        return x
    quick = _by_torch(x, todo, style)
    if quick is not None:
        return quick
    dtype = x.dtype
    y = x if x.is_floating_point() or style.mode == "nearest" else x.float()
    for axis, goal, factor, piece in todo:
        y = _along(y, axis, goal, factor, piece, style)
    return y if y.dtype == dtype else y.round().to(dtype)


def _goals(lengths: Sequence[int], sizes: Sequence[int], policy: str) -> tuple[list[int], list[float]]:
    if policy == "stretch":
        return list(sizes), [size / n for size, n in zip(sizes, lengths, strict=True)]
    ratios = [size / n for size, n in zip(sizes, lengths, strict=True)]
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return [math.floor(ratio * n + 0.5) for n in lengths], [ratio] * len(lengths)


def _piece(region: Sequence[float] | None, index: int, count: int) -> tuple[float, float]:
    return (0.0, 1.0) if region is None else (region[index], region[index + count])


def _by_torch(x: Tensor, todo: Sequence[tuple[int, int, float, Any]], style: Style) -> Tensor | None:
    """With torch's own function, where it does the same."""
    places = [axis for axis, *_ in todo]
    if min(places) < 2 or not 3 <= x.dim() <= 5 or not x.is_floating_point() or style.antialias:
        return None
    if any(goal != factor * x.shape[axis] for axis, goal, factor, _ in todo):
        return None  # a scale of its own, or the aspect ratio was kept
    goals = {axis: goal for axis, goal, *_ in todo}
    size = [goals.get(axis, x.shape[axis]) for axis in range(2, x.dim())]
    if style.mode == "nearest":
        whole = all(goal % x.shape[axis] == 0 for axis, goal in goals.items())
        # any way of rounding finds the same input if every input becomes a whole number of outputs
        if whole and (style.coordinates, style.nearest) in _WHOLE:
            return F.interpolate(x, size=size, mode="nearest")
        return None
    if style.mode != "linear" or style.coordinates not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return None
    if style.coordinates != "half_pixel" and min(goals.values()) < 2:
        return None
    corners = style.coordinates == "align_corners"
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.dim()]
    return F.interpolate(x, size=size, mode=mode, align_corners=corners)


_WHOLE = frozenset(
    [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")]
    + [("pytorch_half_pixel", "round_prefer_floor"), ("pytorch_half_pixel", "round_prefer_ceil")]
)


def _along(x: Tensor, axis: int, goal: int, factor: float, piece: tuple[float, float], style: Style) -> Tensor:
    length = x.shape[axis]
    where = _coordinates(length, goal, factor, piece, style)
    if style.mode == "nearest":
        at = _nearest(where, style.nearest).clamp(0, length - 1).to(torch.int64).to(x.device)
        return x.index_select(axis, at)
    at, weights = _taps(where, length, factor, style)
    at, weights = at.to(x.device), weights.to(x.device, x.dtype)
    shape = [-1 if i == axis else 1 for i in range(x.dim())]
    out: Tensor = x.index_select(axis, at[:, 0]) * weights[:, 0].reshape(shape)
    for k in range(1, at.shape[1]):
        out = out + x.index_select(axis, at[:, k]) * weights[:, k].reshape(shape)
    if style.coordinates == "tf_crop_and_resize":
        beyond = ((where < 0) | (where > length - 1)).to(x.device).reshape(shape)
        out = torch.where(beyond, out.new_full((), style.outside), out)
    return out


def _coordinates(length: int, goal: int, factor: float, piece: tuple[float, float], style: Style) -> Tensor:
    i = torch.arange(goal, dtype=torch.float32)
    scale = torch.tensor(factor, dtype=torch.float32)
    match style.coordinates:
        case "half_pixel":
            return (i + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (i + 0.5) / scale - 0.5 if goal > 1 else torch.zeros(goal)
        case "asymmetric":
            return i / scale
        case "align_corners":
            return i * (length - 1) / (goal - 1) if goal > 1 else torch.zeros(goal)
        case "half_pixel_symmetric":
            adjustment = goal / (factor * length)
            return length / 2 * (1 - adjustment) + (i + 0.5) / scale - 0.5
        case "tf_half_pixel_for_nn":
            return (i + 0.5) / scale
        case "tf_crop_and_resize":
            begin, end = piece
            if goal > 1:
                return begin * (length - 1) + i * ((end - begin) * (length - 1)) / (goal - 1)
            return torch.full((goal,), 0.5 * (begin + end) * (length - 1))
    raise ValueError(f"Resize has no coordinate transformation mode {style.coordinates!r}")


def _nearest(where: Tensor, mode: str) -> Tensor:
    match mode:
        case "floor":
            return where.floor()
        case "ceil":
            return where.ceil()
        case "round_prefer_ceil":
            return (where + 0.5).floor()
    return (where - 0.5).ceil()


def _taps(where: Tensor, length: int, factor: float, style: Style) -> Taps:
    stretch = max(1.0, 1.0 / factor) if style.antialias else 1.0
    reach = (2 if style.mode == "cubic" else 1) * stretch
    if stretch == 1.0 and not style.exclude:
        base = where.floor()
        offsets = torch.arange(-1, 3) if style.mode == "cubic" else torch.arange(2)
        at = base.unsqueeze(1) + offsets
        weights = _kernel(where.unsqueeze(1) - at, style)
        return at.clamp(0, length - 1).to(torch.int64), weights
    first = (where - reach).floor() + 1
    count = 2 * math.ceil(reach)
    at = first.unsqueeze(1) + torch.arange(count)
    weights = _kernel((where.unsqueeze(1) - at) / stretch, style)
    inside = (at >= 0) & (at <= length - 1)
    if style.exclude or style.antialias:
        weights = torch.where(inside, weights, torch.zeros_like(weights))
    weights = weights / weights.sum(1, keepdim=True)
    return at.clamp(0, length - 1).to(torch.int64), weights


def _kernel(distance: Tensor, style: Style) -> Tensor:
    d, a = distance.abs(), style.cubic
    if style.mode != "cubic":
        return (1 - d).clamp(min=0)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


@op("GridSample")
def grid_sample(s: Step) -> fx.Node:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(s.attr("mode", "linear"), s.attr("mode", "linear"))
    padding, corners = s.attr("padding_mode", "zeros"), bool(s.attr("align_corners", 0))
    return s.emit(F.grid_sample, s.tensor(0), s.tensor(1), mode, padding, corners)
