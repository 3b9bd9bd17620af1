"""A rule is a function from the values that enter a node to the axes of those that leave it.

    @rule("Transpose")
    def transpose(f, node, x):
        return [tuple(x.axes[i] for i in f.attr("perm", range(len(x.axes))[::-1]))]

`f` takes the facts (`f.tie`, `f.freeze` …) and answers questions about the node (`f.attr`, `f.ints`). A rule that
cannot tell what happens raises `Refuse`; then everything the node touches is frozen with that reason. A rule does no
I/O and keeps no state. An operator without a rule is frozen: nothing is ever guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.facts import Axis, Facts
from onnxprune.graph.attributes import attribute
from onnxprune.graph.contents import Content, sizes_of
from onnxprune.graph.sizes import Size

Axes = tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class Value:
    """What a rule sees of a tensor."""

    axes: Axes
    weight: bool = False
    """Computed from initializers alone."""

    @property
    def rank(self) -> int:
        return len(self.axes)


class Refuse(Exception):
    """A rule cannot say what happens here: freeze all that the node touches."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code, self.sentence = code, sentence


@dataclass(eq=False)
class Flow(Facts):
    """Facts plus the node that is being read."""

    attention: str = "heads"
    """What is cut in attention: whole `heads`, `dims` within all heads alike, or nothing (`off`)."""
    current: onnx.NodeProto = field(default_factory=onnx.NodeProto)
    opset: int = 0
    contents: dict[str, Content] = field(default_factory=dict)
    read: Callable[[str], np.ndarray[Any, Any] | None] = field(default=lambda name: None)
    """The array of an initializer, None for anything else."""
    inferred: Callable[[str], Sequence[int | str | None] | None] = field(default=lambda name: None)
    """What shape inference says of a value."""

    def attr(self, name: str, default: Any = None) -> Any:
        return attribute(self.current, name, default)

    def has(self, index: int) -> bool:
        """The node has an input at this place."""
        return len(self.current.input) > index and bool(self.current.input[index])

    def content(self, index: int) -> Content | None:
        return self.contents.get(self.current.input[index]) if self.has(index) else None

    def sizes(self, index: int) -> list[Size] | None:
        """The entries of a small integer input, flat; unknown ones are None or the name of a length."""
        content = self.content(index)
        return None if content is None else sizes_of(content)

    def ints(self, index: int) -> list[int] | None:
        """The entries of a small integer input if all of them are known numbers."""
        sizes = self.sizes(index)
        if sizes is None or not all(isinstance(size, int) for size in sizes):
            return None
        return [int(size) for size in sizes if isinstance(size, int)]

    def array(self, index: int) -> np.ndarray[Any, Any] | None:
        """The input's values if it is an initializer."""
        return self.read(self.current.input[index]) if self.has(index) else None

    def axes_given(self, attr: str = "axes", index: int = 1) -> list[int] | None:
        """Axes as an attribute (older opsets) or as a constant input (newer); None where neither is there."""
        given = self.attr(attr)
        if given is not None:
            return list(given)
        if not self.has(index):
            return None
        axes = self.ints(index)
        if axes is None:
            raise Refuse("computed-axes", f"the axes of this {self.current.op_type} are computed at run time")
        return axes

    def mark(self, value: Value | None, axis: int, role: str) -> None:
        """Say what a weight's axis is for; activations have no role."""
        if value is not None and value.weight and -value.rank <= axis < value.rank:
            self.role(value.axes[axis], role)

    def heads(self, batch: Sequence[Axis], within: Sequence[Axis]) -> None:
        """Two activations are multiplied matrix by matrix: attention, and what counts the matrices are its heads."""
        if all(axis.fixed for axis in batch):
            return
        for axis in batch if self.attention == "heads" else within:
            self.prefer(axis)
        if self.attention != "dims":
            self.freeze_all(within, "head-dims", "is a dimension within attention heads (cut with --attention dims)")
        if self.attention != "heads":
            self.freeze_all(batch, "attention-off", "counts attention heads, which were asked to stay")

    def contract(self, a: Axis, b: Axis) -> None:
        """Two axes are multiplied and summed over: exact if one of them holds zeros where it is cut."""
        both = self.tie(a, b)
        self.account(both)
        if not (a.zero or b.zero):
            self.inexact(both, "sum-of-nonzero", "is summed over although its cut positions would not be zero")


Rule = Callable[..., Sequence[Axes]]
RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register a function for operators, `Conv` or `com.microsoft::FusedConv`."""

    def register(function: Rule) -> Rule:
        for op in ops:
            if op in RULES:
                raise ValueError(f"operator {op} has two rules")
            RULES[op] = function
        return function

    return register


def key(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
