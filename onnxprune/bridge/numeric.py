"""Which operators compute on numbers, and which values are numbers rather than tensors.

A value is numbers where it is computed from shapes and small constants alone. What makes few numbers out of many
(`Gather`, `Add`) is always done so; what makes many out of few (`Range`, `Expand`) only where the result is wanted as
numbers in the end, for position tables and masks are made the same way:

    Shape -> ConstantOfShape -> Mul -> Equal -> Where -> Expand's shape        wanted: numbers throughout
    Shape -> Gather -> Range -> Gather(table, ..)                              not wanted: Range makes a tensor
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import fx

from onnxprune.bridge import counting
from onnxprune.bridge.registry import OPS, Numbers, Step, key
from onnxprune.graph.attributes import attribute, subgraphs

LIMIT = 256
"""Constants of more entries are data, not sizes."""

SOURCES = frozenset(["Shape", "Size"])
GROWING = frozenset(["Range", "ConstantOfShape", "Expand"])
MOVING = frozenset(
    ["Identity", "Cast", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Split"]
)
ALL = SOURCES | GROWING | MOVING | counting.ELEMENTWISE | counting.REDUCE


def wanted_as_numbers(nodes: Sequence[onnx.NodeProto], small: Callable[[str], bool]) -> set[str]:
    """Names of the values that are numbers; `small` says of a name whether it is a small constant."""
    possible = _possible(nodes, small, lambda node: True)
    demanded: set[str] = set()
    for node in reversed(nodes):
        places: Iterable[int] = OPS[key(node)].sizes if key(node) in OPS else ()
        if demanded.intersection(node.output) and possible.issuperset(filter(None, node.output)):
            places = range(len(node.input))
        demanded.update(node.input[index] for index in places if index < len(node.input))
    return _possible(nodes, small, lambda node: bool(demanded.intersection(node.output)))


def _possible(
    nodes: Sequence[onnx.NodeProto], small: Callable[[str], bool], grows: Callable[[onnx.NodeProto], bool]
) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        if node.domain not in ("", "ai.onnx") or node.op_type not in ALL or subgraphs(node):
            continue
        if node.op_type in SOURCES:
            found.update(node.output)
            continue
        if node.op_type in GROWING and not grows(node):
            continue
        names = [name for name in node.input if name]
        if all(name in found or small(name) for name in names) and any(name in found for name in names):
            if node.op_type == "Cast" and attribute(node, "to", 0) not in _CASTS:
                continue
            found.update(node.output)
    return found


def compute(step: Step, kinds: Sequence[torch.dtype]) -> list[tuple[Numbers, torch.dtype]]:
    """The node's outputs as numbers, with the element types of the tensors that they stand for."""
    node, kind = step.node, step.node.op_type
    first = kinds[0] if kinds else torch.int64
    if kind == "Shape":
        end = step.attr("end")
        return [(step.emit(counting.shape_of, step.tensor(0), step.attr("start", 0), end), torch.int64)]
    if kind == "Size":
        return [(step.emit(counting.size_of, step.tensor(0)), torch.int64)]
    if kind in counting.ELEMENTWISE:
        values = [step.numbers(index) for index in range(len(node.input))]
        out = torch.bool if kind in counting.COMPARE else kinds[1] if kind == "Where" else first
        result = values[0]
        if len(values) < 3 or kind == "Where":
            result = _run(step, counting.combine, kind, _kind(out), *values)
        else:
            for value in values[1:]:
                result = _run(step, counting.combine, kind, _kind(out), result, value)
        return [(result, out)]
    if kind == "Split":
        return [(part, first) for part in _split(step)]
    if kind == "Cast":
        name, out = _CASTS[step.attr("to")]
        return [(_run(step, counting.cast, step.numbers(0), name), out)]
    if kind == "ConstantOfShape":
        value = step.attr("value")
        array = np.zeros(1, np.float32) if value is None else onnx.numpy_helper.to_array(value)
        return [(_run(step, counting.filled, step.numbers(0), array.item()), _torch(array.dtype))]
    if kind == "Range":
        return [(_run(step, counting.count, *(step.numbers(index) for index in range(3))), first)]
    if kind in counting.REDUCE:
        return [
            (_run(step, counting.reduce, kind, step.numbers(0), step.axes(), bool(step.attr("keepdims", 1))), first)
        ]
    return [(_MOVES[kind](step), first)]


def _run(step: Step, function: Callable[..., Any], *args: Any) -> Numbers:
    """Now where everything is known, else as the graph runs."""
    pending = False

    def look(node: fx.Node) -> fx.Node:
        nonlocal pending
        pending = True
        return node

    fx.node.map_arg(args, look)
    return step.emit(function, *args) if pending else function(*args)


def _kind(dtype: torch.dtype) -> str:
    return "float32" if dtype == torch.float32 else "float" if dtype.is_floating_point else "int"


def _torch(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.zeros(1, dtype)).dtype


def _slice(step: Step) -> Numbers:
    if step.attr("starts") is not None:
        bounds = [list(step.attr("starts")), list(step.attr("ends")), step.attr("axes"), None]
    else:
        bounds = [step.numbers(index) for index in range(1, 5)]
    return _run(step, counting.cut, step.numbers(0), *bounds)


def _split(step: Step) -> list[Numbers]:
    sizes = step.axes(1, "split")
    parts = _run(
        step,
        counting.parted,
        step.numbers(0),
        len(step.node.output) if sizes is None else sizes,
        step.attr("axis", 0),
    )
    if not isinstance(parts, fx.Node):
        return list(parts)
    return [step.emit(operator.getitem, parts, index) for index in range(len(step.node.output))]


_MOVES: Mapping[str, Callable[[Step], Numbers]] = {
    "Identity": lambda s: s.numbers(0),
    "Gather": lambda s: _run(s, counting.take, s.numbers(0), s.numbers(1), s.attr("axis", 0)),
    "Slice": _slice,
    "Concat": lambda s: _run(s, counting.join, s.attr("axis", 0), *(s.numbers(i) for i in range(len(s.node.input)))),
    "Unsqueeze": lambda s: _run(s, counting.unsqueeze, s.numbers(0), s.axes()),
    "Squeeze": lambda s: _run(s, counting.squeeze, s.numbers(0), s.axes()),
    "Reshape": lambda s: _run(s, counting.reshape, s.numbers(0), s.numbers(1)),
    "Transpose": lambda s: _run(s, counting.transpose, s.numbers(0), s.attr("perm")),
    "Expand": lambda s: _run(s, counting.expand, s.numbers(0), s.numbers(1)),
}
_CASTS: Mapping[int, tuple[str, torch.dtype]] = {
    onnx.TensorProto.INT64: ("int", torch.int64),
    onnx.TensorProto.INT32: ("int", torch.int32),
    onnx.TensorProto.BOOL: ("bool", torch.bool),
    onnx.TensorProto.FLOAT: ("float32", torch.float32),
    onnx.TensorProto.DOUBLE: ("float", torch.float64),
}
