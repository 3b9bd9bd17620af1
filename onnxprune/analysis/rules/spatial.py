"""Resampling in space: channels pass, pixels change."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.analysis.facts import Axis, fixed
from onnxprune.analysis.rules.registry import Axes, Flow, Value, rule


@rule("Resize", "Upsample")
def resize(f: Flow, node: object, x: Value, *inputs: Value | None) -> Sequence[Axes]:
    """An axis whose scale is 1, or whose size stays, goes through."""
    axes = [a % x.rank for a in f.attr("axes", range(x.rank))]
    return [tuple(_scaled(f, axis, axes.index(i), len(axes)) if i in axes else axis for i, axis in enumerate(x.axes))]


def _scaled(f: Flow, axis: Axis, at: int, count: int) -> Axis:
    if _kept(f, axis, at, count):
        return axis
    f.freeze(axis, "resized", "is resized")
    return f.open()


def _kept(f: Flow, axis: Axis, at: int, count: int) -> bool:
    scales = f.attr("scales")
    if scales is None:
        place = 1 if f.current.op_type == "Upsample" or f.opset < 11 else 2
        array = f.array(place)
        scales = array.ravel().tolist() if array is not None and array.size == count else None
    if scales is not None:
        return bool(scales[at] == 1)
    sizes = f.sizes(3) if f.current.op_type == "Resize" else None
    if sizes is not None and len(sizes) == count and sizes[at] is not None:
        return sizes[at] == axis.size
    known = f.inferred(f.current.output[0])
    return known is not None and not axis.fixed and known[at] == axis.size and at < 2


@rule("GridSample")
def grid_sample(f: Flow, node: object, x: Value, grid: Value) -> Sequence[Axes]:
    f.freeze_all([*x.axes[2:], *grid.axes[1:]], "resized", "is resampled")
    batch = f.tie(x.axes[0], grid.axes[0], zero=x.axes[0].zero)
    return [(batch, x.axes[1], *(fixed(axis.size) for axis in grid.axes[1:-1]))]


@rule("RoiAlign", "MaxRoiPool")
def roi_align(f: Flow, node: object, x: Value, rois: Value, *rest: Value | None) -> Sequence[Axes]:
    for value in (rois, *rest):
        f.freeze_all(value.axes if value else (), "positional", "holds regions")
    f.freeze_all([x.axes[0], *x.axes[2:]], "resized", "is resampled")
    return [(fixed(rois.axes[0].size), x.axes[1], f.open(), f.open())]


@rule("com.microsoft::NhwcMaxPool")
def nhwc_pool(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    return [(x.axes[0], *(f.open() for _ in x.axes[1:-1]), x.axes[-1])]
