"""Running a graph on ids: each node's rule is called once, in order, and the facts it states are collected.

What a rule cannot know is filled in from shape inference (pixels, time steps); where a rule and shape inference
disagree about a length, the rule is not believed and everything the node touches is frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.facts import NOBODY, Axis, fixed
from onnxprune.analysis.rules import RULES, Flow, Refuse, Value
from onnxprune.analysis.rules.registry import key
from onnxprune.files.model import Model
from onnxprune.graph.attributes import subgraphs
from onnxprune.graph.contents import COUNTS, TRACED, Content, Entry, constant, evaluate
from onnxprune.graph.dequantize import QUANTISED
from onnxprune.graph.shapes import Shape

READABLE = 1 << 20
"""Initializers up to this many bytes may be read by rules (indices, scales, exponents)."""

SIZE_INPUTS = {
    "Reshape": (1,),
    "Expand": (1,),
    "Resize": (3,),
    "Slice": (1, 2),
    "Split": (1,),
    "Tile": (1,),
    "ConstantOfShape": (0,),
}
"""Where an operator takes sizes: computed ones follow a cut by themselves or are rewritten by a fix-up."""


class Trace:
    """The values of a graph after its rules have run, and the facts they stated."""

    def __init__(
        self, model: Model, shapes: Mapping[str, Shape], *, attention: str = "heads", strict: bool = False
    ) -> None:
        self.model, self.shapes, self.strict = model, shapes, strict
        self.values: dict[str, Value | None] = {"": None}
        self.weights: dict[str, Value] = {}
        self.unknown_ops: dict[str, int] = {}
        self.flow = Flow(opset=model.opset, attention=attention, read=self._read, inferred=self._inferred)
        self._inputs()
        for index, node in enumerate(model.graph.node):
            self.flow.node, self.flow.current = index, node
            self._visit(node)
        self.flow.node = -1
        for output in model.graph.output:
            value = self.values.get(output.name)
            self.flow.freeze_all(
                value.axes if value else (), "graph-output", f"reaches the graph output {output.name!r}"
            )
            self._escape(output.name, f"as the graph output {output.name!r}")

    def _inputs(self) -> None:
        for item in self.model.graph.input:
            known = self._inferred(item.name)
            self.values[item.name] = (
                None if known is None else Value(tuple(fixed(_name(n, item.name, i)) for i, n in enumerate(known)))
            )
        for name, tensor in self.model.weights.items():
            value = Value(tuple(self.flow.fresh(n, tensor.dtype in WEIGHTS) for n in tensor.shape), weight=True)
            self.values[name] = self.weights[name] = value
            if tensor.nbytes <= READABLE and tensor.dtype in _INTEGERS:
                content = constant(tensor.array())
                if content is not None:
                    self.flow.contents[name] = content

    def _read(self, name: str) -> np.ndarray[Any, Any] | None:
        tensor = self.model.weights.get(name)
        return tensor.array() if tensor is not None and tensor.nbytes <= READABLE else None

    def _inferred(self, name: str) -> Sequence[int | str | None] | None:
        shape = self.shapes.get(name)
        return None if shape is None else shape[1]

    def _visit(self, node: onnx.NodeProto) -> None:
        self._captures(node)
        self._follow(node)
        xs = [self.values.get(name) for name in node.input]
        function = RULES.get(key(node))
        if function is None:
            self.unknown_ops[key(node)] = self.unknown_ops.get(key(node), 0) + 1
            return self._opaque(node, xs, "no-rule", f"enters {key(node)}, an operator without a rule")
        if any(x is None and name for x, name in zip(xs, node.input, strict=True)):
            return self._opaque(node, xs, "unknown-rank", f"meets a tensor of unknown rank in {node.op_type}")
        flow = self.flow
        mark = len(flow.ties), len(flow.products), len(flow.frozen), len(flow.inexacts), len(flow.accounted)
        try:
            outs = function(flow, node, *xs)
            if node.op_type != "Shape":
                self._account(xs, outs, mark)
            self._store(node, [self._settle(name, axes) for name, axes in zip(node.output, outs, strict=False)], xs)
        except Refuse as refusal:
            self._opaque(node, xs, refusal.code, refusal.sentence)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            if self.strict:
                raise
            del self.flow.ties[mark[0] :], self.flow.products[mark[1] :]
            self._opaque(
                node, xs, "unexpected-form", f"enters a {node.op_type} of a form its rule does not know ({error})"
            )

    def _account(self, xs: Sequence[Value | None], outs: Sequence[Sequence[Axis]], mark: Sequence[int]) -> None:
        """Freeze what a rule has forgotten: an axis that neither goes on, nor is tied, frozen or summed over."""
        going = {id(axis.ids) for axes in outs for axis in axes}
        loose = [axis for x in xs if x is not None for axis in x.axes if not axis.fixed and id(axis.ids) not in going]
        if not loose:
            return
        flow = self.flow
        said = [ids for pair in flow.ties[mark[0] :] for ids in pair]
        said += [ids for product in flow.products[mark[1] :] for ids in (product.whole, *product.factors)]
        said += [ids for ids, *_ in (*flow.frozen[mark[2] :], *flow.inexacts[mark[3] :])]
        said += flow.accounted[mark[4] :]
        said += [axis.ids for axes in outs for axis in axes if not axis.fixed]
        known = np.unique(np.concatenate([ids.ravel() for ids in (*said, NOBODY)]))
        for axis in loose:
            if not np.isin(axis.ids[axis.ids != 0], known).any():
                flow.freeze(axis, "unaccounted", f"enters {flow.current.op_type}, whose rule does not follow this axis")

    def _settle(self, name: str, axes: Sequence[Axis]) -> tuple[Axis, ...]:
        """Fill in lengths the rule left open; refuse if it contradicts shape inference."""
        known = self._inferred(name)
        if known is None:
            return tuple(axes)
        if len(known) != len(axes):
            raise ValueError(f"rank {len(axes)} where shape inference finds {len(known)}")
        settled = []
        for axis, size in zip(axes, known, strict=True):
            if isinstance(size, int) and isinstance(axis.size, int) and size != axis.size:
                raise ValueError(f"length {axis.size} where shape inference finds {size}")
            unnamed = axis.fixed and isinstance(axis.size, str) and (isinstance(size, int) or axis.size.startswith("?"))
            settled.append(fixed(size) if unnamed and size is not None else axis)
        return tuple(settled)

    def _store(self, node: onnx.NodeProto, outs: Iterable[tuple[Axis, ...]], xs: Sequence[Value | None]) -> None:
        weight = bool(node.input) and all(x is None or x.weight for x in xs)
        for name, axes in zip(node.output, outs, strict=False):
            if name:
                self.values[name] = Value(axes, weight)
        for name in node.output:
            self.values.setdefault(name, None)

    def _opaque(self, node: onnx.NodeProto, xs: Sequence[Value | None], code: str, sentence: str) -> None:
        """Nothing is known of this node: freeze what enters, take what leaves as it is."""
        for x in xs:
            self.flow.freeze_all(x.axes if x else (), code, sentence)
        for name in node.output:
            known = self._inferred(name)
            self.values[name] = (
                None if known is None else Value(tuple(fixed(_name(n, name, i)) for i, n in enumerate(known)))
            )

    def _captures(self, node: onnx.NodeProto) -> None:
        for graph in subgraphs(node):
            for name in captured(graph):
                value = self.values.get(name)
                self.flow.freeze_all(
                    value.axes if value else (), "captured", f"is used inside the body of {node.op_type}"
                )
                self._escape(name, f"inside the body of {node.op_type}")

    def _follow(self, node: onnx.NodeProto) -> None:
        """Evaluate shape arithmetic; a size that leaves it otherwise than as a size freezes the axis it came from."""
        contents = [self.flow.contents.get(name) for name in node.input]
        first = self.values.get(node.input[0]) if node.input else None
        sizes = None if first is None else [axis.size for axis in first.axes]
        outs = evaluate(node, contents, sizes) if node.domain in ("", "ai.onnx") else None
        for name, made in zip(node.output, outs or (), strict=False):
            self.flow.contents[name] = self._living(made) if node.op_type == "Shape" else made
        if node.op_type in TRACED - COUNTS and (outs is not None or all(content is None for content in contents)):
            return
        for position, content in enumerate(contents):
            if content is not None and (outs is not None or position not in SIZE_INPUTS.get(node.op_type, ())):
                self._escape(node.input[position], f"by {node.op_type}")

    def _living(self, content: Content) -> Content:
        """Forget where sizes came from that no cut can change."""

        def living(entry: Entry) -> Entry:
            sources = frozenset(slot for slot in entry.sources if not self._fixed(*slot))
            return entry if sources == entry.sources else Entry(entry.size, sources)

        return np.array([*map(living, content), None], object)[:-1]  # the None keeps NumPy from looking into entries

    def _fixed(self, tensor: str, axis: int) -> bool:
        value = self.values.get(tensor)
        return value is None or value.axes[axis].fixed

    def _escape(self, name: str, where: str) -> None:
        """Freeze the axes whose lengths a tensor of numbers was computed from."""
        entries = self.flow.contents[name].ravel() if name in self.flow.contents else ()
        for tensor, axis in frozenset().union(*(entry.sources for entry in entries)):
            value = self.values.get(tensor)
            if value is not None:
                self.flow.freeze(value.axes[axis], "size-escapes", f"its length is used as a number {where}")


_T = onnx.TensorProto
_INTEGERS = {_T.INT64, _T.INT32, _T.BOOL}
WEIGHTS = {_T.FLOAT, _T.FLOAT16, _T.BFLOAT16, _T.DOUBLE, _T.INT32} | QUANTISED
"""What `mask` sets to zero, the quantised ones to their zero point; other integers are indices and sizes."""


def _name(size: int | str | None, tensor: str, axis: int) -> int | str:
    return f"{tensor}:{axis}" if size is None else size


def captured(graph: onnx.GraphProto) -> set[str]:
    """Names of the outer scope that a body uses."""
    inner = {item.name for item in graph.input} | {item.name for item in graph.initializer}
    used: set[str] = set()
    for node in graph.node:
        used.update(name for name in node.input if name and name not in inner)
        for body in subgraphs(node):
            used |= captured(body) - inner
        inner.update(node.output)
    used.update(item.name for item in graph.output if item.name not in inner)
    return used
