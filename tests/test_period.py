"""Axes like batch * heads, whose length is only known at run time although one factor of it is cut.

    (batch, heads, time, size) -> (batch * heads, time, size) -> products of rank 3 -> (batch, heads, time, size)

What exporters write for the two targets differs: -1, a stored count, a count times a computed batch, a length divided
by a count. Each is run with other lengths than the analysis saw.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from building import Net
from pruning import checked

HEADS, SIZE, TIME = 4, 3, 5
WIDE = HEADS * SIZE
Target = Callable[[Net, str, str], str]
"""(net, the tokens, the tensor to reshape) -> the target"""


def sizes(n: Net, *parts: str | int) -> str:
    return n.concat(*(n.ints(part) if isinstance(part, int) else part for part in parts), axis=0)


def batch(n: Net, x: str) -> str:
    return n.length(x, 0)


def time(n: Net, x: str) -> str:
    return n.length(x, 1)


def times(n: Net, length: str, count: int) -> str:
    return n.op("Mul", length, n.ints(count))


def divided(n: Net, length: str, count: int) -> str:
    return n.op("Div", length, n.ints(count))


MERGE: dict[str, Target] = {
    "-1": lambda n, x, y: n.ints(-1, TIME, SIZE),
    "-1, computed time": lambda n, x, y: sizes(n, -1, time(n, x), SIZE),
    "heads * batch": lambda n, x, y: sizes(n, times(n, batch(n, x), HEADS), time(n, x), SIZE),
    "heads * batch, -1": lambda n, x, y: sizes(n, times(n, batch(n, x), HEADS), -1, SIZE),
    "heads * batch, size -1": lambda n, x, y: sizes(n, times(n, batch(n, x), HEADS), time(n, x), -1),
    "batch * heads as lengths": lambda n, x, y: sizes(n, n.op("Mul", n.length(y, 0), n.length(y, 1)), time(n, x), SIZE),
}
PART: dict[str, Target] = {
    "-1 first": lambda n, x, y: n.ints(-1, HEADS, TIME, SIZE),
    "-1 heads": lambda n, x, y: sizes(n, batch(n, x), -1, time(n, x), SIZE),
    "all computed": lambda n, x, y: sizes(n, batch(n, x), HEADS, time(n, x), SIZE),
    "divided by heads": lambda n, x, y: sizes(n, divided(n, n.length(y, 0), HEADS), HEADS, time(n, x), SIZE),
    "divided by heads, -1": lambda n, x, y: sizes(n, divided(n, n.length(y, 0), HEADS), HEADS, -1, SIZE),
    "divided by heads, heads -1": lambda n, x, y: sizes(n, divided(n, n.length(y, 0), HEADS), -1, time(n, x), SIZE),
}


def attend(n: Net, q: str, k: str, v: str) -> str:
    scores = n.op("Mul", n.op("MatMul", q, n.transpose(k, 0, 2, 1)), n.scalar(SIZE**-0.5))
    return n.op("MatMul", n.op("Softmax", scores, axis=-1), v)


def close(n: Net, y: str) -> None:
    n.output(n.op("MatMul", y, n.weight(WIDE, 7, name="last.weight"), name="last"))


def batch_first(n: Net, merge: Target, part: Target, length: int | str = "time") -> None:
    x = n.input("tokens", "batch", length, 8)
    merged = []
    for name in "qkv":
        y = n.transpose(n.reshape(n.linear(x, WIDE, name=name), 0, 0, HEADS, SIZE), 0, 2, 1, 3)
        merged.append(n.op("Reshape", y, merge(n, x, y)))
    y = attend(n, *merged)
    y = n.op("Reshape", y, part(n, x, y))
    y = n.op("Reshape", n.transpose(y, 0, 2, 1, 3), sizes(n, batch(n, x), -1, WIDE))
    close(n, y)


def needs(*targets: str) -> int | str:
    """A target with the time stored fits no other."""
    return TIME if {"-1", "-1 first"}.intersection(targets) else "time"


def run(write: Callable[[Net], None], expected: tuple[int, ...] = (HEADS,)) -> None:
    """At two batches: a stored size that only fits one would show."""
    for dims in ({"batch": 2}, {"batch": 3}):
        net = Net()
        write(net)
        checked(net.proto(), expected, dims=dims)


PAIRS = [*((merge, "all computed") for merge in MERGE), *(("heads * batch", part) for part in PART), ("-1", "-1 first")]


@pytest.mark.parametrize(("merge", "part"), sorted(set(PAIRS)))
def test_batch_and_heads_in_one_axis(merge: str, part: str) -> None:
    run(lambda n: batch_first(n, MERGE[merge], PART[part], needs(merge, part)))


def time_first(n: Net, merged: Target, length: int | str, back: Target) -> None:
    """torch.nn.MultiheadAttention: (time, batch, heads * size) -> (time, batch * heads, size)."""
    x = n.input("tokens", length, "batch", 8)
    made = []
    for name in "qkv":
        y = n.linear(x, WIDE, name=name)
        made.append(n.transpose(n.op("Reshape", y, merged(n, x, y)), 1, 0, 2))
    y = n.transpose(attend(n, *made), 1, 0, 2)
    close(n, n.op("Reshape", y, back(n, x, y)))


FIRST: dict[str, tuple[Target, int | str, Target]] = {
    "stored time, -1": (lambda n, x, y: n.ints(TIME, -1, SIZE), TIME, lambda n, x, y: n.ints(TIME, -1, WIDE)),
    "computed, -1": (
        lambda n, x, y: sizes(n, n.length(x, 0), -1, SIZE),
        "time",
        lambda n, x, y: sizes(n, n.length(x, 0), n.length(x, 1), -1),
    ),
    "heads * batch": (
        lambda n, x, y: sizes(n, n.length(x, 0), times(n, n.length(x, 1), HEADS), SIZE),
        "time",
        lambda n, x, y: sizes(n, n.length(x, 0), n.length(x, 1), WIDE),
    ),
    "heads * batch and -1": (
        lambda n, x, y: sizes(n, -1, times(n, n.length(x, 1), HEADS), SIZE),
        "time",
        lambda n, x, y: sizes(n, n.op("Mul", n.length(x, 0), n.length(x, 1)), WIDE),
    ),
}


@pytest.mark.parametrize("form", FIRST)
def test_time_first(form: str) -> None:
    merged, length, back = FIRST[form]
    run(lambda n: time_first(n, merged, length, back))


def with_mask(n: Net, merged: Target) -> None:
    """A mask for each sequence is repeated for its heads."""
    x = n.input("tokens", "batch", TIME, 8)
    mask = n.input("mask", "batch", 1, TIME)
    made = []
    for name in "qkv":
        y = n.transpose(n.reshape(n.linear(x, WIDE, name=name), 0, 0, HEADS, SIZE), 0, 2, 1, 3)
        made.append(n.reshape(y, -1, TIME, SIZE))
    wide = n.op("Expand", n.unsqueeze(mask, 1), sizes(n, batch(n, x), HEADS, 1, TIME))
    scores = n.op("MatMul", made[0], n.transpose(made[1], 0, 2, 1))
    scores = n.op("Add", scores, n.op("Reshape", wide, merged(n, x, wide)))
    y = n.op("MatMul", n.op("Softmax", scores, axis=-1), made[2])
    y = n.transpose(n.reshape(y, -1, HEADS, TIME, SIZE), 0, 2, 1, 3)
    close(n, n.reshape(y, -1, TIME, WIDE))


@pytest.mark.parametrize(
    "merged",
    [
        lambda n, x, y: n.ints(-1, 1, TIME),
        lambda n, x, y: sizes(n, times(n, batch(n, x), HEADS), 1, TIME),
        lambda n, x, y: sizes(n, times(n, batch(n, x), HEADS), 1, -1),
    ],
)
def test_mask_repeated_for_the_heads(merged: Target) -> None:
    run(lambda n: with_mask(n, merged))


def grouped_channels(n: Net) -> None:
    """Images of a batch and groups of channels in one axis, as in set and slot models."""
    x = n.conv(n.input("image", "batch", 3, 6, 6), 8, name="first")
    y = n.op("Relu", n.reshape(x, -1, 2, 6, 6))
    n.output(n.conv(n.reshape(y, -1, 8, 6, 6), 5, name="last"))


def test_groups_in_the_batch() -> None:
    run(grouped_channels, (4,))


def windows(n: Net) -> None:
    """Swin: windows in the batch; heads are cut, windows stay."""
    x = n.input("image", "batch", 4, 4, 8)
    y = n.transpose(n.reshape(x, -1, 2, 2, 2, 2, 8), 0, 1, 3, 2, 4, 5)
    y = n.reshape(y, -1, 4, 8)
    qkv = n.transpose(n.reshape(n.linear(y, 3 * WIDE, name="qkv"), -1, 4, 3, HEADS, SIZE), 2, 0, 3, 1, 4)
    q, k, v = (n.op("Gather", qkv, n.const(i, np.int64), axis=0) for i in range(3))
    scores = n.op("Add", n.op("MatMul", q, n.transpose(k, 0, 1, 3, 2)), n.weight(1, HEADS, 4, 4, name="bias"))
    shifted = n.op("Add", n.reshape(scores, -1, 4, HEADS, 4, 4), n.weight(1, 4, 1, 4, 4, name="mask"))
    scores = n.op("Softmax", n.reshape(shifted, -1, HEADS, 4, 4), axis=-1)
    y = n.reshape(n.transpose(n.op("MatMul", scores, v), 0, 2, 1, 3), -1, 4, WIDE)
    close(n, y)


def test_windows_in_the_batch() -> None:
    run(windows)


def rank_3_only(n: Net) -> None:
    """Nothing is merged: what meets the batch without a count of heads is frozen, not guessed."""
    x = n.input("tokens", "batch", TIME, 8)
    y = n.reshape(n.linear(x, WIDE, name="first"), -1, SIZE)
    n.output(n.op("Add", y, n.input("other", "rows", SIZE)))


def test_unknown_partners_freeze() -> None:
    run(rank_3_only, ())
