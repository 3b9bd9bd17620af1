"""Resampling in space: channels pass, pixels change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from building import MS, Net
from rows import Op, Row, across, between, dulled, row, summed

RESIZED = {"resized": 8}


def upsample(*scales: float) -> Op:
    """By scales, in every form that there has been."""

    def op(n: Net, x: str) -> str:
        if n.opset < 9:
            made = [int(size * scale) for size, scale in zip((2, 8, 6, 6), scales, strict=True)]
            return n.op("Upsample", x, scales=[float(s) for s in scales], mode="nearest", made=made)
        given = n.const(scales, np.float32)
        if n.opset < 10:
            return n.op("Upsample", x, given, mode="nearest")
        if n.opset < 11:
            return n.op("Resize", x, given, mode="nearest")
        return n.op("Resize", x, n.const([], np.float32), given, mode="nearest")

    return op


def sized(*sizes: int, mode: str = "nearest") -> Op:
    def op(n: Net, x: str) -> str:
        none = n.const([], np.float32)
        return n.op("Resize", x, none, none, n.ints(*sizes), mode=mode)

    return op


def sized_by_shape(n: Net, x: str) -> str:
    """Batch and channels from Shape, pixels from constants: F.interpolate by the legacy exporter."""
    none = n.const([], np.float32)
    sizes = n.concat(n.slice(n.op("Shape", x), 0, 2, 0), n.ints(9, 7), axis=0)
    return n.op("Resize", x, none, none, sizes, mode="nearest")


def sized_mixed(n: Net, x: str) -> str:
    """The channels are a constant among computed sizes."""
    none = n.const([], np.float32)
    sizes = n.concat(n.length(x, 0), n.ints(8), n.length(x, 3), n.length(x, 2), axis=0)
    return n.op("Resize", x, none, none, sizes, mode="nearest")


def sized_like(n: Net) -> None:
    """To the pixels of another tensor."""
    x = n.conv(n.image(2, 3, 8, 8), 8, name="first")
    small = n.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    none = n.const([], np.float32)
    sizes = n.concat(n.slice(n.op("Shape", small), 0, 2, 0), n.slice(n.op("Shape", x), 2, 4, 0), axis=0)
    n.close(n.op("Add", x, n.op("Resize", small, none, none, sizes, mode="nearest")))


def on_axes(axes: Sequence[int], *, sizes: Sequence[int] | None = None, scales: Sequence[float] | None = None) -> Op:
    """Opset 18: only some axes are named."""

    def op(n: Net, x: str) -> str:
        more = ["", n.const(scales, np.float32)] if scales else ["", "", n.ints(*(sizes or ()))]
        return n.op("Resize", x, *more, mode="nearest", axes=list(axes))

    return op


def scales_given(n: Net, x: str) -> str:
    return n.op("Resize", x, n.const([], np.float32), n.input("scales", 4), mode="nearest", made=n.shape(x))


def unknown_picture(n: Net) -> None:
    x = n.conv(n.image("N", 3, "H", "W"), 8, name="first")
    n.close(sized_by_shape(n, x))


def sampled(n: Net, x: str) -> str:
    return n.op("GridSample", x, n.input("grid", 2, 4, 5, 2), align_corners=1)


def sampled_where_told(n: Net) -> None:
    """The channels are where to look."""
    x = n.conv(n.image(), 2, name="first")
    n.close(n.op("GridSample", "image", n.transpose(x, 0, 2, 3, 1)))


def sampled_across(n: Net, x: str) -> str:
    return n.op("GridSample", n.transpose(x, 0, 2, 1, 3), n.input("grid", 2, 4, 5, 2))


def aligned(n: Net, x: str) -> str:
    boxes = n.const([[0, 0, 3, 3], [1, 1, 5, 5], [2, 0, 4, 5]], np.float32)
    return n.op("RoiAlign", x, boxes, n.const([0, 1, 1], np.int64), output_height=2, output_width=2, spatial_scale=1.0)


def aligned_to(n: Net) -> None:
    """The channels are the regions."""
    x = n.gemm(n.input("x", 3, 6), 4, name="first")
    where = n.const([0, 1, 1], np.int64)
    n.close(n.op("RoiAlign", n.image(), n.op("Abs", x), where, output_height=2, output_width=2))


def aligned_across(n: Net, x: str) -> str:
    return aligned(n, n.transpose(x, 0, 2, 1, 3))


def pooled_regions(n: Net, x: str) -> str:
    boxes = n.const([[0, 0, 0, 3, 3], [1, 1, 1, 5, 5]], np.float32)
    return n.op("MaxRoiPool", x, boxes, pooled_shape=[2, 2])


def pooled_by_channels(n: Net) -> None:
    """The channels are the regions: batch, left, top, right, bottom."""
    x = n.op("Abs", n.gemm(n.input("x", 3, 6), 5, name="first"))
    boxes = n.op("Mul", x, n.const([[0, 0, 0, 1, 1]], np.float32))
    n.close(n.op("MaxRoiPool", n.image(), boxes, pooled_shape=[2, 2]))


def nhwc_summed(n: Net) -> None:
    x = n.linear(n.input("x", 2, 6, 6, 3), 8, name="first")
    y = n.op(f"{MS}::NhwcMaxPool", x, kernel_shape=[2, 2], strides=[2, 2], made=(2, 3, 3, 8))
    n.output(n.linear(n.reduce("ReduceSum", y, 3), 5, name="last"))


def nhwc(n: Net) -> None:
    """Quantised graphs pool with the channels last."""
    x = n.linear(n.input("x", 2, 6, 6, 3), 8, name="first")
    y = n.op(f"{MS}::NhwcMaxPool", x, kernel_shape=[2, 2], strides=[2, 2], made=(2, 3, 3, 8))
    n.output(n.linear(y, 5, name="last"))


ROWS = [
    *across((7, 9, 10, 11, 13, 18, 19), "by scales", upsample(1, 1, 2, 2)),
    *across((7, 9, 10, 11, 13), "by scales on channels", upsample(1, 2, 2, 2), frozen=RESIZED),
    *(summed(f"by scales, opset {v}", upsample(1, 1, 2, 2), opset=v) for v in (7, 9, 10, 13)),
    *(dulled(f"by scales, opset {v}", upsample(1, 1, 2, 2), opset=v) for v in (7, 9, 10, 13)),
    dulled("GridSample", sampled),
    summed("RoiAlign", aligned),
    summed("MaxRoiPool", pooled_regions),
    dulled("RoiAlign", aligned),
    dulled("MaxRoiPool", pooled_regions),
    row("MaxRoiPool by channels", pooled_by_channels, frozen={"positional": 5}),
    row("NhwcMaxPool, read", nhwc, 8, runs=False, roles={"last.weight:0": "in"}),
    row("NhwcMaxPool, summed", nhwc_summed, 8, runs=False),
    *(between(f"by sizes, {mode}", sized(2, 8, 9, 4, mode=mode)) for mode in ("nearest", "linear", "cubic")),
    between("by sizes, opset 11", sized(2, 8, 9, 4), opset=11),
    between("by sizes on channels", sized(2, 12, 6, 6), frozen=RESIZED),
    between("by computed sizes", sized_by_shape),
    between("by partly computed sizes", sized_mixed),
    row("by sizes of another", sized_like, 8),
    row("by computed sizes, unknown picture", unknown_picture, 8, dims={"N": 2, "H": 5, "W": 7}),
    between("by sizes on axes", on_axes([2, 3], sizes=[9, 4]), opset=18),
    between("by sizes on axes from the end", on_axes([-1, 1], sizes=[4, 8]), opset=18),
    between("by sizes on axes with channels", on_axes([1, 2], sizes=[12, 4]), frozen=RESIZED, opset=18),
    between("by scales on axes", on_axes([3], scales=[2.0]), opset=18),
    between("by scales on axes with channels", on_axes([3, 1], scales=[2.0, 2.0]), frozen=RESIZED, opset=18),
    between("by given scales", scales_given, frozen=RESIZED, runs=False),
    between("GridSample", sampled),
    row("GridSample by channels", sampled_where_told, frozen={"resized": 2}),
    between("GridSample across channels", sampled_across, frozen=RESIZED),
    summed("GridSample", sampled),
    between("RoiAlign", aligned),
    row("RoiAlign by channels", aligned_to, frozen={"positional": 4}),
    between("RoiAlign across channels", aligned_across, frozen=RESIZED),
    between("MaxRoiPool", pooled_regions),
    row("NhwcMaxPool", nhwc, 8, runs=False),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_spatial(case: Row) -> None:
    case.check()
