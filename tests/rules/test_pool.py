"""Pooling: channels pass, pixels shrink."""

from __future__ import annotations

import pytest
from building import Net
from rows import Op, Row, across, between, dulled, row, summed

WINDOWED = ("MaxPool", "AveragePool", "LpPool")
GLOBAL = ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")


def window(kind: str, **more: object) -> Op:
    return lambda n, x: n.op(kind, x, kernel_shape=[2] * (len(n.shape(x)) - 2), **more)


def whole(kind: str) -> Op:
    return lambda n, x: n.op(kind, x)


def pooled_channels(kind: str) -> Op:
    """The channels stand where pixels are expected."""

    def op(n: Net, x: str) -> str:
        y = n.transpose(x, 0, 2, 1, 3)
        return n.op(kind, y) if kind in GLOBAL else n.op(kind, y, kernel_shape=[1, 1])

    return op


def counted(n: Net, x: str) -> str:
    """The second output of MaxPool counts positions through all channels."""
    y, places = n.ops("MaxPool", 2, x, kernel_shape=[2, 2], strides=[2, 2])
    return n.op("Add", y, n.op("Cast", places, to=1))


def unpooled(n: Net, x: str) -> str:
    y, places = n.ops("MaxPool", 2, x, kernel_shape=[2, 2], strides=[2, 2])
    return n.op("MaxUnpool", n.op("Relu", y), places, kernel_shape=[2, 2], strides=[2, 2])


def unpooled_only(n: Net) -> None:
    """The indices come from elsewhere."""
    x = n.conv(n.image(), 8, name="first")
    places = n.input("places", 2, 8, 6, 6, dtype=7)
    n.close(n.op("MaxUnpool", x, places, kernel_shape=[1, 1], strides=[1, 1]))


ROWS = [
    *(between(f"{kind} {d}-D", window(kind), image=(2, 3, *[4] * d)) for kind in WINDOWED for d in (1, 2, 3)),
    *(between(f"{kind} {d}-D", whole(kind), image=(2, 3, *[4] * d)) for kind in GLOBAL for d in (1, 2, 3)),
    *(case for kind in WINDOWED for case in across((7, 11, 22), kind, window(kind))),
    *(summed(kind, window(kind)) for kind in WINDOWED),
    *(summed(kind, whole(kind)) for kind in GLOBAL),
    *(dulled(kind, window(kind)) for kind in WINDOWED),
    *(dulled(kind, whole(kind)) for kind in GLOBAL),
    between("AveragePool that counts its padding", window("AveragePool", pads=[1, 1, 1, 1], count_include_pad=1)),
    between("MaxPool with padding", window("MaxPool", pads=[1, 1, 0, 0], strides=[2, 2], ceil_mode=1)),
    *(between(f"{kind} of channels", pooled_channels(kind), frozen={"pooled": 8}) for kind in WINDOWED + GLOBAL),
    between("MaxPool with indices", counted, frozen={"positional": 8}),
    between("MaxUnpool", unpooled, frozen={"positional": 8}),
    row("MaxUnpool by given indices", unpooled_only, frozen={"positional": 8}, runs=False),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_pool(case: Row) -> None:
    case.check()
