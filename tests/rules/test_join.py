"""Concat, Split, Slice, Pad and Tile: where the positions of one axis go on another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from building import Net
from rows import Op, Row, across, between, dulled, layer, row, summed, total

BIG = 2**63 - 1
H = {"fixed-axis": 8}


def branches(n: Net, *sizes: int) -> list[str]:
    x = n.image()
    return [n.conv(x, size, name=f"branch{i}") for i, size in enumerate(sizes)]


def concat(*sizes: int, axis: int = 1, end: Callable[[Net, str], object] = layer) -> Callable[[Net], None]:
    return lambda n: end(n, n.concat(*branches(n, *sizes), axis=axis))


def with_picture(n: Net) -> None:
    """Positions of the picture between those that can go."""
    a, b = branches(n, 4, 6)
    n.close(n.concat(a, "image", b, axis=1))


def concat_of_nonzero(n: Net) -> None:
    a, b = branches(n, 4, 6)
    n.close(n.reduce("ReduceSum", n.concat(a, n.op("Sigmoid", b), axis=1), 1))


def with_constant(n: Net) -> None:
    (a,) = branches(n, 4)
    n.close(n.concat(a, n.weight(2, 2, 6, 6, name="c"), axis=1))


def doubled(n: Net) -> None:
    """CReLU: every channel twice."""
    (a,) = branches(n, 4)
    n.close(n.op("Relu", n.concat(a, n.op("Neg", a), axis=1)))


def dense(n: Net) -> None:
    """As in DenseNet: whatever was made before is read again."""
    x = n.conv(n.image(), 6, name="stem")
    for i in range(3):
        y = n.op("Relu", n.norm(x, name=f"bn{i}"))
        x = n.concat(x, n.conv(y, 4, 3, name=f"dense{i}"), axis=1)
    n.close(x)


def other_borders(n: Net) -> None:
    """4 + 8 channels are taken apart as 6 + 6."""
    a, b = branches(n, 4, 8)
    left, right = n.split(n.concat(a, b, axis=1), 1, 6, 6)
    n.close(n.op("Add", n.conv(left, 4, name="left"), n.conv(right, 4, name="right")))


def gated(n: Net) -> None:
    """GLU: one half gates the other."""
    x = n.conv(n.image(), 8, name="first")
    left, right = n.split(x, 1, 4, 4)
    n.close(n.op("Mul", left, n.op("Sigmoid", right)))


def split(*sizes: int, axis: int = 1) -> Op:
    """All parts are read by layers of their own."""

    def op(n: Net, x: str) -> str:
        parts = n.split(x, axis, *sizes)
        read = [n.conv(part, 4, name=f"part{i}") for i, part in enumerate(parts)]
        return read[0] if len(read) == 1 else n.op("Sum", *read)

    return op


def even(count: int) -> Op:
    """Without sizes: as many parts as outputs, or as the attribute says."""

    def op(n: Net, x: str) -> str:
        parts = n.ops("Split", count, x, axis=1, num_outputs=count if n.opset >= 18 else None)
        return n.op("Sum", *(n.conv(part, 4, name=f"part{i}") for i, part in enumerate(parts)))

    return op


def first_part(n: Net, x: str) -> str:
    """The second part is not read by anyone."""
    return n.split(x, 1, 5, 3)[0]


def split_halves(n: Net, x: str) -> str:
    """The halves change places."""
    left, right = n.split(x, 1, 4, 4)
    return n.concat(right, left, axis=1)


def split_pixels(n: Net, x: str) -> str:
    top, bottom = n.split(x, 2, 2, 4)
    return n.concat(bottom, top, axis=2)


def computed_split(n: Net, x: str) -> str:
    sizes = n.op("Mul", n.input("sizes", 2, dtype=7), n.ints(1, 1))
    a, b = n.ops("Split", 2, x, sizes, axis=1)
    return n.op("Concat", b, a, axis=1, made=(2, 8, 6, 6))


def split_by_shape(n: Net, x: str) -> str:
    """The sizes are halves of a length, computed from it."""
    half = n.op("Div", n.length(x, 1), n.ints(2))
    a, b = n.ops("Split", 2, x, n.concat(half, half, axis=0), axis=1)
    return n.op("Concat", b, a, axis=1, made=(2, 8, 6, 6))


def to_sequence(n: Net, x: str) -> str:
    return n.op("SequenceAt", n.op("SplitToSequence", x, axis=1), n.const(0, np.int64), made=(2, 1, 6, 6))


def sliced(start: int, end: int, step: int = 1, axis: int = 1) -> Op:
    return lambda n, x: n.slice(x, start, end, axis, step)


def sliced_older(starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None) -> Op:
    return lambda n, x: n.op(
        "Slice", x, starts=list(starts), ends=list(ends), axes=None if axes is None else list(axes)
    )


def sliced_all(n: Net, x: str) -> str:
    """Bounds for every axis, no axes given."""
    return n.op("Slice", x, n.ints(0, 2, 0, 1), n.ints(BIG, 7, BIG, -1))


def sliced_two(n: Net, x: str) -> str:
    return n.op("Slice", x, n.ints(1, 2), n.ints(5, 7), n.ints(3, 1), n.ints(1, 1))


def halves(n: Net, x: str) -> str:
    return n.op("Mul", n.slice(x, 0, 4), n.op("Sigmoid", n.slice(x, 4, BIG)))


def chunks(n: Net, x: str) -> str:
    """torch.chunk, as the legacy exporter writes it."""
    half = n.op("Div", n.op("Add", n.length(x, 1), n.ints(1)), n.ints(2))
    left = n.op("Slice", x, n.ints(0), half, n.ints(1))
    right = n.op("Slice", x, half, n.op("Mul", half, n.ints(2)), n.ints(1))
    return n.op("Mul", left, n.op("Sigmoid", right), made=(2, 4, 6, 6))


def computed_bounds(n: Net, x: str) -> str:
    return n.op("Slice", x, n.ints(0), n.input("end", 1, dtype=7), n.ints(1), made=(2, 8, 6, 6))


def computed_axes(n: Net, x: str) -> str:
    return n.op("Slice", x, n.ints(0), n.ints(8), n.input("axes", 1, dtype=7), made=(2, 8, 6, 6))


def dynamic_slice(n: Net) -> None:
    """Pixels that are not known are sliced, channels go through."""
    x = n.conv(n.image("N", 3, "H", "W"), 8, name="first")
    n.close(n.slice(n.slice(x, 1, BIG, 2), 0, -1, 3))


def dynamic_concat(n: Net) -> None:
    x = n.conv(n.image("N", 3, "H", "W"), 8, name="first")
    n.close(n.concat(x, n.op("Neg", x), axis=3))


def unknown_channels(n: Net) -> None:
    """A concatenation with a length that is only known at run time freezes what stands beside it."""
    x = n.linear(n.input("x", 2, 5), 8, name="first")
    n.output(n.concat(x, n.input("more", 2, "M"), axis=1))


def rolled(n: Net, x: str) -> str:
    """torch.roll over the channels."""
    return n.concat(n.slice(x, 5, BIG), n.slice(x, 0, 5), axis=1)


def pads(axis: int, before: int, after: int, mode: str = "constant", value: float | None = None, rank: int = 4) -> Op:
    both = [0] * (2 * rank)
    both[axis], both[rank + axis] = before, after
    return lambda n, x: n.pad(x, both, mode, value)


def pads_on_axes(n: Net, x: str) -> str:
    return n.op("Pad", x, n.ints(2, 1), n.scalar(0.0), n.ints(-3))


def computed_pad(n: Net, x: str) -> str:
    """The amount depends on the channels: it may not be used where they go."""
    amount = n.op("Sub", n.ints(10), n.length(x, 1))
    zero = n.ints(0)
    return n.op("Pad", x, n.concat(zero, zero, zero, zero, zero, zero, zero, amount, axis=0), made=(2, 8, 6, 8))


def unknown_pad(n: Net, x: str) -> str:
    return n.op("Pad", x, n.op("Mul", n.input("pads", 8, dtype=7), n.ints(1)), made=(2, 8, 6, 6))


def option_a(n: Net) -> None:
    """The shortcut of a ResNet that pads its channels with zeros."""
    x = n.conv(n.image(), 4, name="first")
    y = n.conv(x, 8, name="second")
    n.close(n.op("Add", y, n.pad(x, [0, 2, 0, 0, 0, 2, 0, 0])))


def tile(*repeats: int) -> Op:
    return lambda n, x: n.op("Tile", x, n.ints(*repeats))


def tile_by_shape(n: Net, x: str) -> str:
    """Pixels are repeated as often as there are channels: that number may not change."""
    one = n.ints(1)
    return n.op("Tile", x, n.concat(one, one, one, n.length(x, 1), axis=0), made=(2, 8, 6, 48))


def tile_computed(n: Net, x: str) -> str:
    return n.op("Tile", x, n.op("Mul", n.input("times", 4, dtype=7), n.ints(1)), made=(2, 8, 6, 6))


def dynamic_tile(n: Net) -> None:
    x = n.conv(n.image("N", 3, "H", "W"), 8, name="first")
    n.close(n.op("Tile", x, n.ints(1, 1, 2, 3)))


def tiled_vector(n: Net) -> None:
    """A single position is repeated as often as another tensor has channels."""
    x = n.conv(n.image(), 8, name="first")
    gate = n.op("Sigmoid", n.conv(x, 1, name="gate"))
    one = n.ints(1)
    n.close(n.op("Add", x, n.op("Tile", gate, n.concat(one, n.length(x, 1), one, one, axis=0))))


ROWS = [
    row("Concat", concat(4, 6), 4, 6),
    row("Concat, negative axis", concat(4, 6, axis=-3), 4, 6),
    row("Concat of three", concat(4, 6, 2), 4, 6, 2),
    row("Concat, summed", concat(4, 6, end=total), 4, 6),
    row("Concat of nonzeros, summed", concat_of_nonzero, frozen={"reduced": 10}),
    row("Concat along pixels", concat(8, 8, axis=2), 8),
    row("Concat along the batch", concat(8, 8, axis=0), 8),
    row("Concat with the picture", with_picture, 4, 6),
    row("Concat with a constant", with_constant, 4),
    row("Concat of one twice", doubled, 4),
    row("Concat along unknown pixels", dynamic_concat, 8, dims={"N": 2, "H": 5, "W": 7}),
    row("Concat with an unknown length", unknown_channels, frozen={"dynamic-size": 8}, dims={"M": 3}),
    row("dense block", dense, 6, 4, 4, 4),
    row("other borders", other_borders, 4, 2, 6, 4),
    row("GLU", gated, 4),
    *across((7, 11, 13, 18), "Split", split(3, 5), 3, 5, 4),
    between("Split, negative axis", split(3, 5, axis=-3), 3, 5, 4),
    between("Split of one", split(8), 8, 4),
    *across((7, 11, 13, 18), "Split in even parts", even(2), 4, 4, 4),
    between("Split in uneven parts", even(3), 3, 3, 2, 4, opset=18),
    between("Split, one part read", first_part, 5, 3, runs=False),
    between("Split of pixels", split_pixels),
    between("Split by given sizes", computed_split, frozen={"computed-split": 8}, runs=False),
    between("Split by computed sizes", split_by_shape, 4, 4),
    between("SplitToSequence", to_sequence, frozen={"sequence": 8}, runs=False),
    *across((7, 10, 11, 13), "Slice", sliced(2, 7), 5, 3),
    between("Slice from the end", sliced(-6, -1), 5, 3),
    between("Slice, huge bounds", sliced(-BIG, BIG)),
    between("Slice, huge end", sliced(3, BIG), 5, 3),
    between("Slice, negative axis", sliced(2, 7, axis=-3), 5, 3),
    between("Slice of pixels", sliced(1, -1, axis=3)),
    between("Slice of pixels backwards", sliced(-1, -BIG, -1, axis=3)),
    between("Slice with steps", sliced(0, 8, 2), frozen={"strided-slice": 8}),
    between("Slice backwards", sliced(-1, -BIG, -1), frozen={"strided-slice": 8}),
    between("Slice without axes", sliced_all, 5, 3),
    between("Slice of two axes", sliced_two, 5, 3),
    between("Slice without axes, opset 9", sliced_older([0, 2], [BIG, 7]), 5, 3, opset=9),
    between("Slice with axes, opset 9", sliced_older([2], [-1], [1]), 5, 3, opset=9),
    between("Slice in halves", halves, 4),
    between("Slice in computed halves", chunks, 4),
    between("Slice by given bounds", computed_bounds, frozen={"computed-slice": 8}, runs=False),
    between("Slice by given axes", computed_axes, frozen={"computed-axes": 8}, runs=False),
    row("Slice of unknown pixels", dynamic_slice, 8, dims={"N": 2, "H": 5, "W": 7}),
    between("Slice and Concat", rolled, 5, 3),
    summed("Slice", sliced(2, 7), 5, 3),
    dulled("Slice", sliced(0, BIG)),
    summed("Split", split_halves, 4, 4),
    dulled("Split", split_halves),
    dulled("Tile", tile(1, 2, 1, 1)),
    dulled("Pad of channels", pads(1, 2, 1)),
    dulled("Concat", lambda n, x: n.concat(x, n.op("Cos", x), axis=1)),
    *across((7, 11, 13, 18, 21), "Pad of channels", pads(1, 2, 1)),
    *(between(f"Pad of pixels, {mode}", pads(2, 1, 2, mode)) for mode in ("constant", "reflect", "edge")),
    *(between(f"Pad of channels, {mode}", pads(1, 1, 2, mode), frozen={"padded": 8}) for mode in ("reflect", "edge")),
    between("Pad of channels, wrap", pads(1, 1, 2, "wrap"), frozen={"padded": 8}, opset=19),
    summed("Pad of channels", pads(1, 2, 1)),
    summed("Pad of channels with ones", pads(1, 2, 1, value=1.0)),
    summed("Pad of pixels", pads(2, 1, 1)),
    summed("Pad of pixels with ones", pads(2, 1, 1, value=1.0), frozen={"reduced": 8}),
    summed("Pad of pixels with ones, opset 7", pads(2, 1, 1, value=1.0), frozen={"reduced": 8}, opset=7),
    summed("Pad of pixels by reflection", pads(2, 1, 1, "reflect")),
    between("Pad, cropping", pads(1, -2, -1), 5, frozen={"padded": 3}),
    between("Pad, cropping and adding", pads(1, -2, 1), 6, frozen={"padded": 2}),
    between("Pad with axes", pads_on_axes, opset=18),
    between("Pad by a computed amount", computed_pad, frozen={"size-escapes": 8}),
    between("Pad by a given amount", unknown_pad, frozen={"padded": 8}, runs=False),
    row("Pad in a shortcut", option_a, 4, frozen={"fixed-axis": 4}),
    between("Tile of pixels", tile(1, 1, 2, 3)),
    between("Tile of channels", tile(1, 3, 1, 1)),
    between("Tile of the batch", tile(2, 1, 1, 1)),
    between("Tile by computed repeats", tile_by_shape),
    between("Tile by given repeats", tile_computed, frozen={"dynamic-size": 8}, runs=False),
    row("Tile of unknown pixels", dynamic_tile, 8, dims={"N": 2, "H": 4, "W": 5}),
    row("Tile of one position", tiled_vector, frozen={"fixed-axis": 8}),
    summed("Tile", tile(1, 2, 1, 1)),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_join(case: Row) -> None:
    case.check()
