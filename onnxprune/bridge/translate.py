"""The graph is rebuilt node by node as an fx graph: every value becomes a tensor, or numbers, or both.

initializer   a parameter or a buffer under its name; a small one also numbers, written into the code
activation    what the node's translation made of it
size          numbers (see `numeric`); a tensor only where an operator reads it as one
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch import fx, nn

from onnxprune.bridge import control, counting, numeric, places, weights
from onnxprune.bridge.families import OPS
from onnxprune.bridge.registry import Numbers, Step, Value, call, key
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.normalize import constant_of
from onnxprune.graph.order import captured

NAMES = "onnxprune"
"""Under this key of its `meta` a translated module keeps what it was made from: fx copies that, but pickles it not."""
_PICKLED = "_onnxprune_origin"


@dataclass(frozen=True)
class Origin:
    """What a translated module remembers of its model."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    keys: Mapping[str, str]
    """The key in the state dict of every weight."""


class KeepingTracer(fx.Tracer):
    """How a pickled module is traced anew: what it is made of stays whole."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


@dataclass(eq=False)
class Graph:
    """One graph, the main one or a body, being rebuilt."""

    opset: int
    floats: torch.dtype | None
    root: nn.Module = field(default_factory=nn.Module)
    graph: fx.Graph = field(default_factory=lambda: fx.Graph(tracer_cls=KeepingTracer))
    values: dict[str, Value] = field(default_factory=dict)
    device: fx.Node | None = None
    """A tensor that lies where others are to be made."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    trained: Mapping[str, bool] = field(default_factory=dict)
    """Whether a parameter trains; what is not in here is a buffer."""
    keys: dict[str, str] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    """First outputs of the nodes whose bodies run without gradients."""

    # What a step asks for

    def as_tensor(self, name: str) -> fx.Node:
        value = self.values[name]
        if value.tensor is None:
            value.tensor = self._tensor(name, value)
        return value.tensor

    def as_numbers(self, name: str) -> Numbers:
        value = self.values[name]
        if value.numbers is None:
            if value.array is not None:
                value.numbers = value.array.tolist()
            else:
                value.numbers = self.call(counting.numbers_of, self.as_tensor(name))
        return value.numbers

    def dtype_of(self, number: int) -> torch.dtype:
        return weights.torch_dtype(number, self.floats)

    def module(self, module: nn.Module, hint: str) -> str:
        return places.place_module(self.root, module, hint)

    def subgraph(self, graph: onnx.GraphProto) -> tuple[fx.GraphModule, tuple[Any, ...]]:
        """A body as a module of its own, and what it reads from here."""
        names = [name for name in dict.fromkeys(captured(graph)) if name in self.values]
        inner = Graph(self.opset, self.floats, frozen=self.frozen)
        for value in graph.input:
            inner.values[value.name] = Value(inner.graph.placeholder(_identifier(inner, value.name)))
        taken: list[Any] = []
        for name in names:
            outer = self.values[name]
            holder = inner.graph.placeholder(_identifier(inner, name))
            if outer.array is None and outer.numbers is not None and outer.tensor is None:
                inner.values[name] = Value(numbers=holder, dtype=outer.dtype)
                taken.append(outer.numbers)
            else:
                inner.values[name] = Value(holder, array=outer.array)
                taken.append(self.as_tensor(name))
        inner.device = inner.graph.placeholder("like")
        taken.append(self.device)
        for item in graph.initializer:
            inner.add_constant(Tensor.of_proto(item))
        inner.run(graph.node)
        inner.graph.output(tuple(inner.result(value) for value in graph.output))
        return fx.GraphModule(inner.root, inner.graph), tuple(taken)

    # Building

    def call(self, function: Callable[..., Any], *args: Any) -> fx.Node:
        return call(self.graph, function, *args)

    def add_constant(self, weight: Tensor) -> None:
        """A constant that is no weight of the model."""
        if weight.dtype == onnx.TensorProto.STRING:
            raise UserError(f"the constant {weight.name!r} holds strings, and torch has none")
        self.values[weight.name] = Value(array=weight.array())

    def run(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Translate all nodes, in their order."""
        for node in nodes:
            if node.op_type == "Constant":
                self._constant(node)
        numbers = numeric.wanted_as_numbers(nodes, self._small)
        for node in nodes:
            if node.op_type == "Constant":
                continue
            step = Step(node, self)
            if numbers.intersection(node.output):
                kinds = [self._kind(name) for name in node.input]
                for name, (made, dtype) in zip(node.output, numeric.compute(step, kinds), strict=False):
                    self.values[name] = Value(numbers=made, dtype=dtype)
            else:
                self._translate(step)

    def result(self, value: onnx.ValueInfoProto) -> fx.Node:
        """An output, in the type that is declared: quantised values are whole floats until here."""
        made = self.as_tensor(value.name)
        number = value.type.tensor_type.elem_type
        if number in _INTEGERS:
            made = self.call(control.whole, made, self.dtype_of(number))
        return made

    def _constant(self, node: onnx.NodeProto) -> None:
        weight = constant_of(node)
        if weight is None:
            raise UserError(f"Constant {node.name!r} cannot go to torch: it holds neither numbers nor a dense tensor")
        self.add_constant(weight)

    def _translate(self, step: Step) -> None:
        node = step.node
        found = OPS.get(key(node))
        if found is None:
            domain = node.domain or "ai.onnx"
            raise UserError(
                f"operator {node.op_type!r} of domain {domain!r} (node {node.name!r}) has no translation to torch; "
                f"add one with onnxprune.bridge.registry.op, or cut the model in front of it"
            )
        made = found.translate(step)
        outputs = made if isinstance(made, list | tuple) else [made]
        for name, each in zip(node.output, outputs, strict=False):
            if name and each is not None:
                self.values[name] = Value(each)
        for name in node.output[len(outputs) :]:
            if name:
                raise step.refuse(f"its output {name!r} has no translation")

    def _tensor(self, name: str, value: Value) -> fx.Node:
        if value.weight is not None:
            weight = self.weights[value.weight]
            tensor = weights.to_tensor(weight, self.floats)
            parameter = name in self.trained
            trains = self.trained.get(name, False)
            self.keys[name] = places.place(self.root, name, tensor, parameter=parameter, trains=trains)
            return self.graph.get_attr(self.keys[name])
        if value.array is not None:
            number = onnx.helper.np_dtype_to_tensor_dtype(value.array.dtype)
            if value.array.size <= numeric.LIMIT:  # a buffer would show in the state dict
                literal = value.array.tolist()
                return self.call(counting.tensor_of, literal, self.dtype_of(number), self.device)
            tensor = weights.from_array(value.array).to(self.dtype_of(number))
            return self.graph.get_attr(places.place_hidden(self.root, tensor))
        dtype = self.floats if self.floats is not None and value.dtype.is_floating_point else value.dtype
        return self.call(counting.tensor_of, value.numbers, dtype, self.device)

    def _small(self, name: str) -> bool:
        value = self.values.get(name)
        if value is None:
            return False
        if value.array is not None:
            return value.array.size <= numeric.LIMIT and value.array.dtype.kind in "iubf"
        return value.tensor is None and value.numbers is not None

    def _kind(self, name: str) -> torch.dtype:
        value = self.values.get(name)
        if value is None or value.array is None:
            return torch.int64 if value is None else value.dtype
        return weights.from_array(value.array[:0].reshape(-1) if value.array.ndim else value.array).dtype


def _has_effect(node: fx.Node) -> bool:
    return node.op in ("placeholder", "output")


def _identifier(graph: Graph, name: str) -> str:
    """As an argument is called: the value's name, as far as Python takes it."""
    text = "".join(char if char.isascii() and char.isalnum() else "_" for char in name)
    if not text or text[0].isdigit() or keyword.iskeyword(text) or text == "self":
        text = f"_{text}"
    taken = {node.target for node in graph.graph.nodes}
    while text in taken:
        text += "_"
    return text


def origin_of(module: nn.Module) -> Origin | None:
    """What a translated module remembers, None for any other."""
    meta = getattr(module, "meta", None)
    found = meta.get(NAMES) if isinstance(meta, dict) else None
    found = found or getattr(module, _PICKLED, None)
    return found if isinstance(found, Origin) else None


def translate(
    model: Model, trained: Mapping[str, bool], floats: torch.dtype | None, frozen: frozenset[str] = frozenset()
) -> fx.GraphModule:
    """The whole model as a module; `trained` says which weights are parameters, and whether they train."""
    main = Graph(model.opset, floats, weights=model.weights, trained=trained, frozen=frozen)
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise UserError(f"the initializer {name!r} is sparse, and the bridge takes dense ones only; make it dense")
    for value in model.graph.input:
        if value.type.WhichOneof("value") != "tensor_type":
            raise UserError(f"input {value.name!r} is not a tensor; torch modules take tensors")
        main.dtype_of(value.type.tensor_type.elem_type)  # refuses what torch does not have
        holder = main.graph.placeholder(_identifier(main, value.name))
        main.device = main.device or holder
        main.values[value.name] = Value(holder)
    for value in model.graph.input:  # after all placeholders: an fx graph begins with them
        number = value.type.tensor_type.elem_type
        if number in weights.FLOATS and (number != onnx.TensorProto.FLOAT or floats is not None):
            entered = main.call(control.entered, main.values[value.name].tensor, main.dtype_of(number))
            main.values[value.name] = Value(entered)
    for name, weight in model.weights.items():
        if weight.dtype == onnx.TensorProto.STRING:
            continue
        array = weight.array() if _countable(weight) else None
        main.values[name] = Value(array=array, weight=name)
    main.run(model.graph.node)
    results = [main.result(value) for value in model.graph.output]
    main.graph.output(results[0] if len(results) == 1 else tuple(results))
    main.graph.eliminate_dead_code(_has_effect)
    module = fx.GraphModule(main.root, main.graph)
    origin = Origin(
        tuple(value.name for value in model.graph.input),
        tuple(value.name for value in model.graph.output),
        dict(main.keys),
    )
    module.meta[NAMES] = origin
    module.__dict__[_PICKLED] = origin
    return module


def _countable(weight: Tensor) -> bool:
    size = counting.product(weight.shape)
    return size <= 4096 and (weight.dtype not in weights.FLOATS or size <= numeric.LIMIT)


_T = onnx.TensorProto
_INTEGERS = frozenset(
    [_T.INT8, _T.INT16, _T.INT32, _T.INT64, _T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64, _T.BOOL, _T.INT4, _T.UINT4]
)
