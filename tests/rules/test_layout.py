"""Operators that only rearrange: where ids go when axes are merged, split, moved and dropped."""

from __future__ import annotations

import pytest
from building import OPSETS, Net
from rows import Op, Row, across, between, dulled, row, summed, vector

DYNAMIC = {"N": 2, "H": 4, "W": 6}


def reshape(*sizes: int, **more: object) -> Op:
    return lambda n, x: n.reshape(x, *sizes, **more)


def shuffle(groups: int, channels: int = 8) -> Op:
    """ShuffleNet's channel shuffle."""

    def op(n: Net, x: str) -> str:
        y = n.reshape(x, 0, groups, channels // groups, 6, 6)
        return n.reshape(n.transpose(y, 0, 2, 1, 3, 4), 0, -1, 6, 6)

    return op


def computed_shuffle(n: Net) -> None:
    """The same as the legacy exporter writes it, nothing of the picture known."""
    x = n.conv(n.image("N", 3, "H", "W"), 8, name="first")
    batch, height, width = n.length(x, 0), n.length(x, 2), n.length(x, 3)
    half = n.op("Div", n.length(x, 1), n.ints(2))
    y = n.op("Reshape", x, n.concat(batch, n.ints(2), half, height, width, axis=0))
    y = n.transpose(y, 0, 2, 1, 3, 4)
    y = n.op("Reshape", y, n.concat(batch, n.ints(-1), height, width, axis=0), made=("N", 8, "H", "W"))
    n.close(y)


def flat(n: Net, x: str) -> str:
    """Flatten by a Reshape whose first entry is the batch, as the legacy exporter writes it."""
    return n.op("Reshape", x, n.concat(n.length(x, 0), n.ints(-1), axis=0))


def view_as(n: Net, x: str) -> str:
    """(2, 288) back to the shape of another tensor."""
    flat = n.reshape(x, 2, 288)
    return n.op("Reshape", flat, n.op("Shape", x))


def view_as_other(n: Net) -> None:
    """The shape comes from a tensor with channels of its own."""
    x = n.image()
    a, b = n.conv(x, 8, name="a"), n.conv(x, 8, name="b")
    y = n.op("Reshape", n.op("Flatten", a), n.op("Shape", b))
    n.output(n.conv(y, 5, name="last"), n.conv(b, 3, name="last.b"))


def view_as_parts(n: Net, x: str) -> str:
    """Batch and channels computed, pixels merged."""
    return n.op("Reshape", x, n.concat(n.length(x, 0), n.length(x, 1), n.ints(-1), axis=0))


def product_of_lengths(n: Net, x: str) -> str:
    pixels = n.op("Mul", n.length(x, 2), n.length(x, 3))
    return n.op("Reshape", x, n.concat(n.length(x, 0), n.length(x, 1), pixels, axis=0))


def group_view(n: Net, x: str) -> str:
    """batch * groups in front: the groups can go, the batch is known."""
    y = n.op("Softmax", n.reshape(x, 8, 2, 6, 6), axis=1)
    return n.reshape(y, 2, 8, 6, 6)


def batch_times_channels(n: Net) -> None:
    """(N, 8, H, W) -> (N * 8, 1, H, W) -> (N, 8, H, W), N not known."""
    x = n.conv(n.image("N", 3, 4, 6), 8, name="first")
    y = n.op("Tanh", n.reshape(x, -1, 1, 4, 6))
    n.close(n.reshape(y, -1, 8, 4, 6))


def tokens(n: Net) -> None:
    """Vision transformers: (N, C, H, W) -> (N, H * W, C)."""
    x = n.conv(n.image(), 8, name="first")
    n.output(n.linear(n.transpose(n.reshape(x, 0, 8, -1), 0, 2, 1), 5, name="last"))


def tokens_of_unknown(n: Net) -> None:
    x = n.conv(n.image("N", 3, "H", "W"), 8, name="first")
    n.output(n.linear(n.transpose(n.reshape(x, 0, 0, -1), 0, 2, 1), 5, name="last"))


def untokens(n: Net) -> None:
    """And back, with a layer between."""
    x = n.conv(n.image(), 8, name="first")
    y = n.linear(n.transpose(n.reshape(x, 0, 8, -1), 0, 2, 1), 6, name="second")
    n.close(n.reshape(n.transpose(y, 0, 2, 1), 0, 6, 6, 6))


def sandwich(n: Net, x: str) -> str:
    """Channels last and back, as in a converted TensorFlow model."""
    y = n.op("Add", n.transpose(x, 0, 2, 3, 1), n.weight(8))
    return n.transpose(n.op("Relu", y), 0, 3, 1, 2)


def channels_last(n: Net) -> None:
    x = n.transpose(n.input("x", 2, 6, 6, 3), 0, 3, 1, 2)
    y = n.transpose(n.conv(x, 8, name="first"), 0, 2, 3, 1)
    n.output(n.linear(n.op("Relu", y), 5, name="last"))


def reversed_axes(n: Net) -> None:
    """A Transpose without perm."""
    x = n.gemm(n.input("x", 4, 6), 8, name="first")
    n.output(n.op("MatMul", n.weight(5, 8, name="last.weight"), n.transpose(x)))


def heads_apart(n: Net, x: str) -> str:
    """4 groups of 2: what is shared within a group ties its channels."""
    y = n.reshape(x, 0, 4, 2, 36)
    y = n.op("Mul", y, n.op("Sigmoid", n.reduce("ReduceMean", y, 3)))
    return n.reshape(y, 0, 8, 6, 6)


def softmax_in_groups(n: Net, x: str) -> str:
    """A softmax within groups of 2: only whole groups can go."""
    y = n.op("Softmax", n.reshape(x, 0, 4, 2, 36), axis=2)
    return n.reshape(y, 0, 8, 6, 6)


def softmax_over_groups(n: Net, x: str) -> str:
    """A softmax over the groups: the same position in all of them can go."""
    y = n.op("Softmax", n.reshape(x, 0, 4, 2, 36), axis=1)
    return n.reshape(y, 0, 8, 6, 6)


def across_borders(n: Net, x: str) -> str:
    """8 * 6 is taken apart as 3 * 16: no factor of it is the channels."""
    return n.reshape(x, 2, 3, 16, 6)


def three_factors(n: Net, x: str) -> str:
    y = n.transpose(n.reshape(x, 0, 2, 3, 2, 6, 6), 0, 3, 2, 1, 4, 5)
    return n.reshape(y, 0, 12, 6, 6)


def squeezed(*axes: int) -> Op:
    return lambda n, x: n.squeeze(n.op("GlobalAveragePool", x), *axes)


def squeezed_and_back(n: Net, x: str) -> str:
    return n.unsqueeze(n.squeeze(n.op("GlobalAveragePool", x), 2, 3), -1, -2)


def squeezed_without_axes(n: Net) -> None:
    x = n.conv(n.image(), 2, name="first")
    n.close(n.op("Squeeze", n.op("GlobalAveragePool", x)))


def squeezed_nothing(n: Net) -> None:
    """There is no single position until a cut makes one."""
    x = n.conv(n.image(), 2, name="first")
    n.close(n.op("Squeeze", x))


def squeezed_one(n: Net) -> None:
    """The channels themselves are one position."""
    x = n.conv(n.conv(n.image(), 8, name="first"), 1, name="second")
    n.close(n.squeeze(x, 1))


def unsqueezed(*axes: int) -> Op:
    return lambda n, x: n.squeeze(n.op("Relu", n.unsqueeze(x, *axes)), *axes)


def computed_axes(kind: str) -> Op:
    def op(n: Net, x: str) -> str:
        axes = n.op("Mul", n.input("axes", 1, dtype=7), n.ints(1))
        return n.op(kind, x, axes, made=(2, 8, 6, 6))

    return op


def one_pixel(n: Net) -> None:
    """(N, 8, 1, 1) -> (N, 8): single positions disappear."""
    x = n.op("GlobalAveragePool", n.conv(n.image(), 8, name="first"))
    n.close(n.reshape(x, 2, 8))


def single_positions(n: Net, x: str) -> str:
    return n.reshape(n.op("Relu", n.reshape(x, 2, 1, 8, 1, 36)), 2, 8, 6, 6)


def given_shape(n: Net, x: str) -> str:
    return n.op("Reshape", x, n.op("Mul", n.input("shape", 4, dtype=7), n.ints(1)), made=(2, 8, 6, 6))


def unknown_shape(n: Net, x: str) -> str:
    """Not even the rank is known."""
    y = n.op("Reshape", x, n.op("Mul", n.input("shape", "R", dtype=7), n.ints(1)))
    return n.op("Reshape", y, n.ints(2, 8, 6, 6))


def pixels(mode: str | None) -> Op:
    return lambda n, x: n.op("DepthToSpace", x, blocksize=2, mode=mode)


def blocks(n: Net) -> None:
    """SpaceToDepth repeats the channels for every pixel of a block."""
    n.close(n.op("SpaceToDepth", n.conv(n.image(), 8, name="first"), blocksize=2))


def blocks_across(n: Net) -> None:
    """The channels stand where pixels are expected."""
    x = n.transpose(n.conv(n.image(), 8, name="first"), 0, 2, 1, 3)
    n.close(n.op("SpaceToDepth", x, blocksize=2))


def pixel_shuffle(n: Net, x: str) -> str:
    """PixelShuffle as a legacy export: reshape, transpose, reshape."""
    y = n.transpose(n.reshape(x, 0, 2, 2, 2, 6, 6), 0, 1, 4, 2, 5, 3)
    return n.reshape(y, 0, 2, 12, 12)


def flatten(axis: int) -> Op:
    return lambda n, x: n.op("Flatten", x, axis=axis)


def flat_weight(n: Net) -> None:
    """A kernel that is a matrix until it is used."""
    n.close(n.op("Conv", n.image(), n.reshape(n.op("Flatten", n.weight(8, 3, 1, 1, name="first.weight")), 8, 3, 1, 1)))


def same_shape(n: Net, x: str) -> str:
    """allowzero: a 0 means no positions, so there is none here."""
    return n.reshape(x, 2, 8, 36, allowzero=1)


MOVES: list[tuple[str, Op]] = [
    ("Transpose", sandwich),
    ("Reshape to tokens", lambda n, x: n.reshape(n.reshape(x, 2, 8, 36), 0, 8, 6, 6)),
    ("Flatten", lambda n, x: n.reshape(n.op("Flatten", x), 2, 8, 6, 6)),
    ("Squeeze", squeezed_and_back),
    ("Unsqueeze", unsqueezed(0, 2)),
    ("Identity", lambda n, x: n.op("Identity", x)),
]
"""What holds zeros before these holds them behind them, and nothing else does."""

ROWS = [
    *across((7, 13, 14, 19, 21), "Reshape", reshape(2, 8, 36)),
    *(between(f"flat by {form}", reshape(*form)) for form in ((2, 288), (0, -1), (-1, 288), (2, -1))),
    *(
        between(f"Reshape to {form}", reshape(*form))
        for form in ((0, 0, -1), (0, 8, 36), (2, 8, 6, 6), (0, 8, 6, 6, 1), (2, 8, 1, 36), (0, 0, 0, 0), (2, -1, 6, 6))
    ),
    between("Reshape to (0, 4, 2, 36)", lambda n, x: n.reshape(n.op("Tanh", n.reshape(x, 0, 4, 2, 36)), 0, 8, 6, 6), 4),
    between("Reshape to (0, 2, 4, -1)", lambda n, x: n.reshape(n.op("Tanh", n.reshape(x, 0, 2, 4, -1)), 0, 8, 6, 6), 4),
    between("Reshape with allowzero", same_shape),
    between("flat by Shape", flat),
    between("view as itself", view_as),
    row("view as another", view_as_other, 8, 8),
    between("view as computed parts", view_as_parts),
    between("view as a product of lengths", product_of_lengths),
    between("batch and channels merged", group_view, 4),
    row("batch and channels merged, batch unknown", batch_times_channels, 8, dims={"N": 2}),
    row("tokens", tokens, 8),
    row("tokens of an unknown picture", tokens_of_unknown, 8, dims=DYNAMIC),
    row("tokens and back", untokens, 8, 6),
    between("channel shuffle of 2", shuffle(2), 4),
    between("channel shuffle of 4", shuffle(4), 4),
    row("channel shuffle of an unknown picture", computed_shuffle, 4, dims=DYNAMIC),
    between("three factors", three_factors, 3, channels=12),
    between("groups with a gate", heads_apart, 4),
    between("groups with a softmax inside", softmax_in_groups, 4),
    between("groups with a softmax across", softmax_over_groups, 2),
    between("other borders", across_borders, frozen={"reshape": 8}),
    row("one pixel", one_pixel, 8),
    between("single positions", single_positions),
    between("shape from outside", given_shape, frozen={"reshape": 8}, runs=False),
    between("shape and rank from outside", unknown_shape, frozen={"computed-shape": 8}, runs=False),
    summed("Reshape", lambda n, x: n.reshape(n.reshape(x, 0, 4, 2, 36), 0, 8, 6, 6), 4),
    *across((7, 13, 21), "Transpose", sandwich),
    row("Transpose of channels last", channels_last, 8),
    row("Transpose without perm", reversed_axes, 8),
    *across(OPSETS, "Flatten", flatten(1)),
    between("Flatten from the end", flatten(-3), opset=11),
    *(between(f"Flatten at {axis}", flatten(axis), frozen={"graph-output": 8}) for axis in (2, 3)),
    between("Flatten at 0", flatten(0)),
    between("Flatten at 4", lambda n, x: n.op("Reshape", n.op("Flatten", x, axis=4), n.ints(2, 8, 6, 6))),
    row("Flatten of a kernel", flat_weight, 8),
    vector("Flatten of a matrix", flatten(1)),
    *across((7, 11, 13, 21), "Squeeze", squeezed(2, 3)),
    *across((11, 13), "Squeeze from the end", squeezed(-1, -2)),
    *(row(f"Squeeze without axes, opset {v}", squeezed_without_axes, 2, opset=v) for v in (7, 11, 13)),
    row("Squeeze of nothing", squeezed_nothing, 2),
    row("Squeeze of one channel", squeezed_one, 8),
    between("Squeeze and Unsqueeze", squeezed_and_back),
    *across((7, 11, 13, 21), "Unsqueeze", unsqueezed(0, 2)),
    *across((11, 13), "Unsqueeze from the end", unsqueezed(-1, -4)),
    between("Squeeze by given axes", computed_axes("Squeeze"), frozen={"computed-axes": 8}, runs=False),
    between("Unsqueeze by given axes", computed_axes("Unsqueeze"), frozen={"computed-axes": 8}, runs=False),
    *(between(f"DepthToSpace {mode}", pixels(mode), 4, channels=16) for mode in ("DCR", "CRD")),
    between("DepthToSpace, opset 7", pixels(None), 4, channels=16, opset=7),
    between("DepthToSpace to one channel", pixels("DCR"), frozen={"other-factor": 4}, channels=4),
    row("SpaceToDepth", blocks, 8),
    row("SpaceToDepth of channels", blocks_across, frozen={"fixed-axis": 8}),
    between("pixel shuffle in steps", pixel_shuffle, 2),
    between("Identity", lambda n, x: n.op("Identity", x)),
    *(summed(name, op) for name, op in MOVES),
    *(dulled(name, op) for name, op in MOVES),
    summed("DepthToSpace", pixels("DCR"), 4, channels=16),
    dulled("DepthToSpace", pixels("CRD"), channels=16, frozen={"other-factor": 16}),
    summed("SpaceToDepth", lambda n, x: n.op("SpaceToDepth", x, blocksize=2)),
    dulled("SpaceToDepth", lambda n, x: n.op("SpaceToDepth", x, blocksize=2)),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_layout(case: Row) -> None:
    case.check()


def test_a_legacy_export_with_arithmetic_keeps_its_arithmetic() -> None:
    """What follows a cut by itself is not touched: the target is still computed from Shape."""
    from oracle import prepared

    from onnxprune.analysis.analyze import analyze
    from onnxprune.cutting.apply import apply
    from onnxprune.scoring.scores import score
    from onnxprune.selection.select import select

    net = Net()
    net.close(view_as_parts(net, net.conv(net.image(), 8, name="first")))
    model = prepared(net.proto())
    coupling = analyze(model)
    plan = select(coupling, score(model, coupling, "l1"), ratio=0.5)
    pruned = apply(model, plan)
    assert [n.op_type for n in pruned.graph.node] == [n.op_type for n in model.graph.node]
    assert {name: t.array().tolist() for name, t in pruned.weights.items() if t.dtype == 7} == {
        name: t.array().tolist() for name, t in model.weights.items() if t.dtype == 7
    }
