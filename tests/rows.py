"""The rule tables: a row is a tiny graph, what analysis must find in it, and the oracle over it.

Most rows put an operator between a layer that makes channels and one that reads them:

    image -> Conv "first" (8 channels) -> the operator -> a layer "last"

Any weight layer masks what it reads, so whether an operator keeps the zeros of cut channels only shows behind a sum:

    image -> Conv "first" -> the operator -> ReduceSum over the channels -> a layer "last"
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from building import IMAGE, Dim, Net
from oracle import check

Write = Callable[[Net], object]
Op = Callable[[Net, str], str]


@dataclass(frozen=True)
class Row:
    """One graph and what is expected of it."""

    name: str
    write: Write
    units: tuple[int, ...]
    """Sizes of the groups that analysis must find."""
    frozen: Mapping[str, int] = field(default_factory=dict)
    """Frozen positions of producing weights by reason, the last layer's left out."""
    opset: int = 17
    dims: Mapping[str, int] = field(default_factory=dict)
    inexact: Mapping[str, tuple[str, ...]] | None = None
    """Given, inexact cuts are allowed: which groups are, and why. The results then cannot be compared."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """What some weights do with the channels, by slot."""
    runs: bool = True
    """Whether onnxruntime has a kernel for it; otherwise only the analysis is checked."""

    def __str__(self) -> str:
        return self.name

    def proto(self) -> onnx.ModelProto:
        net = Net(self.opset)
        self.write(net)
        return net.proto()

    def check(self) -> None:
        coupling = check(
            self.proto(),
            expected=self.units,
            frozen=self.frozen,
            dims=dict(self.dims),
            runs=self.runs,
            inexact=self.inexact,
        )
        found = {str(slot): slot.role for group in coupling.groups for slot in group.weights}
        assert {slot: found.get(slot) for slot in self.roles} == dict(self.roles)

    @property
    def operators(self) -> set[str]:
        """What the row's graph consists of, `Conv` or `com.microsoft::FusedConv`."""
        net = Net(self.opset)
        self.write(net)
        return {f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in net.nodes}


def row(name: str, write: Write, *units: int, **more: object) -> Row:
    return Row(name, write, units, **more)  # type: ignore[arg-type]  # fields by name


def layer(n: Net, y: str) -> None:
    n.close(y)


def total(n: Net, y: str) -> None:
    n.close(n.reduce("ReduceSum", y, 1, keepdims=1))


def between(
    name: str,
    op: Op,
    *units: int,
    channels: int = 8,
    image: Sequence[Dim] = IMAGE,
    end: Callable[[Net, str], object] = layer,
    **more: object,
) -> Row:
    """The operator on the channels of a convolution; without `units` all of them are one group."""

    def write(n: Net) -> None:
        end(n, op(n, n.conv(n.image(*image), channels, name="first")))

    found = units or ((channels,) if not more.get("frozen") else ())
    return row(name, write, *found, **more)


def summed(name: str, op: Op, *units: int, **more: object) -> Row:
    return between(f"{name}, summed", op, *units, end=total, **more)  # type: ignore[arg-type]  # as in `between`


def dulled(name: str, op: Op, **more: object) -> Row:
    """What held no zeros before the operator holds none behind it."""
    channels = {"frozen": {"reduced": more.get("channels", 8)}}
    return summed(f"{name} of nonzeros", lambda n, x: op(n, n.op("Sigmoid", x)), **(channels | more))  # type: ignore[arg-type]


def across(opsets: Iterable[int], name: str, op: Op, *units: int, **more: object) -> list[Row]:
    """The same in every form that an operator has had."""
    return [between(f"{name}, opset {v}", op, *units, opset=v, **more) for v in opsets]  # type: ignore[arg-type]


def vector(name: str, op: Op, *units: int, channels: int = 8, **more: object) -> Row:
    """The same on a matrix: batch x channels."""

    def write(n: Net) -> None:
        layer(n, op(n, n.gemm(n.input("x", 4, 6), channels, name="first")))

    return row(name, write, *(units or ((channels,) if not more.get("frozen") else ())), **more)
