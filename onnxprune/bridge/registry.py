"""A translation is a function from one ONNX node to calls of torch functions in the fx graph.

    @op("Reshape", sizes=(1,))
    def reshape(s):
        return s.emit(reshaped, s.tensor(0), s.numbers(1), bool(s.attr("allowzero", 0)))

`s` is the step: the node, and what its inputs have become. An input is asked for as a tensor, or as numbers on Python's
side (`sizes` names the places where numbers are wanted, so that arithmetic on shapes never enters a device). What runs
later is a function at the top of a module, never a closure: only such a graph can be copied, pickled and compiled.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from torch import fx

from onnxprune.errors import UserError
from onnxprune.graph.attributes import attribute

Number = bool | int | float
Numbers = Any
"""A number, or nested lists of numbers; inside the graph an `fx.Node` that yields such."""


@dataclass(eq=False)
class Value:
    """What an ONNX value has become: one or more of a tensor, numbers, and an array that is known beforehand."""

    tensor: fx.Node | None = None
    numbers: Numbers = None
    array: np.ndarray[Any, Any] | None = None
    weight: str | None = None
    """The initializer that it is."""
    dtype: torch.dtype = torch.int64
    """Of the tensor that the numbers would be."""


class Builder(Protocol):
    """What a step needs of whoever builds the graph."""

    graph: fx.Graph
    root: torch.nn.Module
    opset: int
    device: fx.Node | None
    values: dict[str, Value]
    frozen: frozenset[str]

    def as_tensor(self, name: str) -> fx.Node: ...
    def as_numbers(self, name: str) -> Numbers: ...
    def dtype_of(self, number: int) -> torch.dtype: ...
    def subgraph(self, graph: onnx.GraphProto) -> tuple[fx.GraphModule, tuple[Any, ...]]: ...
    def module(self, module: torch.nn.Module, hint: str) -> str: ...


@dataclass(eq=False)
class Step:
    """One node being translated."""

    node: onnx.NodeProto
    build: Builder

    @property
    def opset(self) -> int:
        return self.build.opset

    def attr(self, name: str, default: Any = None) -> Any:
        return attribute(self.node, name, default)

    def has(self, index: int) -> bool:
        """The node has an input at this place."""
        return len(self.node.input) > index and bool(self.node.input[index])

    def wants(self, index: int) -> bool:
        """The node's output at this place has a name."""
        return len(self.node.output) > index and bool(self.node.output[index])

    def tensor(self, index: int) -> Any:
        """The input as a tensor, None where there is none."""
        return self.build.as_tensor(self.node.input[index]) if self.has(index) else None

    def tensors(self) -> list[Any]:
        """All inputs as tensors."""
        return [self.tensor(index) for index in range(len(self.node.input))]

    def numbers(self, index: int, default: Numbers = None) -> Numbers:
        """The input as numbers, `default` where there is none."""
        return self.build.as_numbers(self.node.input[index]) if self.has(index) else default

    def array(self, index: int) -> np.ndarray[Any, Any] | None:
        """The input's values if they are known before anything runs."""
        return self.build.values[self.node.input[index]].array if self.has(index) else None

    def axes(self, index: int = 1, name: str = "axes") -> Numbers:
        """Axes as an attribute (older opsets) or as an input (newer); None where neither is there."""
        given = self.attr(name)
        return list(given) if given is not None else self.numbers(index)

    def emit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """A call of the function as the graph runs."""
        return call(self.build.graph, function, *args, **kwargs)

    def apply(self, module: torch.nn.Module, *args: Any) -> fx.Node:
        """A call of a module without parameters of its own, which knows whether it trains."""
        return self.build.graph.call_module(self.build.module(module, self.node.op_type), args)

    def several(self, made: fx.Node) -> list[fx.Node | None]:
        """The outputs that a tuple holds."""
        graph = self.build.graph
        return [
            graph.call_function(operator.getitem, (made, index)) if name else None
            for index, name in enumerate(self.node.output)
        ]

    def refuse(self, sentence: str) -> UserError:
        """The node cannot be translated, and why."""
        return UserError(f"{self.node.op_type} {self.node.name!r} cannot go to torch: {sentence}")


def call(graph: fx.Graph, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
    """A call as the graph runs."""
    made = graph.call_function(function, args, kwargs)
    if not (function.__module__ or "torch").startswith("torch"):
        made.meta["is_wrapped"] = True  # pickling traces the graph anew, and must not look into other functions
    return made


Translation = Callable[[Step], Any]


@dataclass(frozen=True)
class Op:
    """How an operator is translated."""

    translate: Translation
    sizes: tuple[int, ...] = ()
    """Inputs that are wanted as numbers."""


OPS: dict[str, Op] = {}


def op(*names: str, sizes: Sequence[int] = ()) -> Callable[[Translation], Translation]:
    """Register a function for operators, `Conv` or `com.microsoft::FusedConv`."""

    def register(function: Translation) -> Translation:
        for name in names:
            if name in OPS:
                raise ValueError(f"operator {name} has two translations")
            OPS[name] = Op(function, tuple(sizes))
        return function

    return register


def simple(table: Mapping[str, Callable[..., Any]]) -> None:
    """Register operators whose inputs are the arguments of one torch function."""
    for name, function in table.items():
        op(name)(_Call(function))


@dataclass(frozen=True)
class _Call:
    function: Callable[..., Any]

    def __call__(self, step: Step) -> fx.Node:
        return step.emit(self.function, *step.tensors())


def key(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
