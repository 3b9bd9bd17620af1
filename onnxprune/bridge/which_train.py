"""Which weights train is decided by what reads them.

A weight is followed through what only moves it (`Transpose`, `Reshape`, a cast, a lookup at fixed places) to the
operators that compute with it. A kernel, a matrix, a scale or a shift of a layer trains. Constants of element-wise
arithmetic are biases, masks, tables or settings, and look alike: they train where they have the form of a bias or of a
position embedding and stand behind a layer, and otherwise not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.analysis.match import chosen_names
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.attributes import attribute, subgraphs
from onnxprune.graph.order import captured

_T = onnx.TensorProto
_FLOATS = frozenset([_T.FLOAT, _T.FLOAT16, _T.BFLOAT16, _T.DOUBLE])
_MS = "com.microsoft::"


@dataclass(frozen=True)
class Role:
    """What becomes of one weight."""

    name: str
    trains: bool
    why: str
    statistic: bool = False
    """A running statistic: moved by the forward pass in training mode, never by an optimiser."""


_LAYERS: dict[str, dict[int, str]] = {
    "Conv": {1: "kernel", 2: "bias"},
    "ConvTranspose": {1: "kernel", 2: "bias"},
    _MS + "FusedConv": {1: "kernel", 2: "bias"},
    "DeformConv": {1: "kernel", 3: "bias"},
    "Gemm": {0: "matrix", 1: "matrix", 2: "bias"},
    _MS + "FusedGemm": {0: "matrix", 1: "matrix", 2: "bias"},
    "MatMul": {0: "matrix", 1: "matrix"},
    _MS + "FusedMatMul": {0: "matrix", 1: "matrix"},
    "Einsum": {0: "matrix", 1: "matrix", 2: "matrix"},
    "BatchNormalization": {1: "scale", 2: "shift"},
    "InstanceNormalization": {1: "scale", 2: "shift"},
    "GroupNormalization": {1: "scale", 2: "shift"},
    "LayerNormalization": {1: "scale", 2: "shift"},
    "RMSNormalization": {1: "scale"},
    "SimplifiedLayerNormalization": {1: "scale"},
    _MS + "SimplifiedLayerNormalization": {1: "scale"},
    _MS + "SkipLayerNormalization": {2: "scale", 3: "shift", 4: "bias"},
    _MS + "SkipSimplifiedLayerNormalization": {2: "scale", 3: "bias"},
    _MS + "EmbedLayerNormalization": {2: "embedding", 3: "embedding", 4: "embedding", 5: "scale", 6: "shift"},
    _MS + "BiasGelu": {1: "bias"},
    _MS + "FastGelu": {1: "bias"},
    _MS + "Attention": {1: "matrix", 2: "bias"},
    _MS + "MultiHeadAttention": {3: "bias"},
    "PRelu": {1: "slope"},
    "LSTM": {1: "matrix", 2: "matrix", 3: "bias", 5: "first state", 6: "first state", 7: "peephole"},
    "GRU": {1: "matrix", 2: "matrix", 3: "bias", 5: "first state"},
    "RNN": {1: "matrix", 2: "matrix", 3: "bias", 5: "first state"},
}
"""By operator, the inputs that train and what they are."""
_STATISTICS = {("BatchNormalization", 3), ("BatchNormalization", 4)}
_MOVING = frozenset(
    ["Transpose", "Reshape", "Identity", "Cast", "CastLike", "Unsqueeze", "Squeeze", "Flatten", "Expand", "Tile"]
    + ["Slice", "Split", "QuantizeLinear", "DequantizeLinear", "Dropout", "Concat"]
)
_DECISIONS = frozenset(
    ["ArgMax", "ArgMin", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual"]
    + ["And", "Not", "NonMaxSuppression", "NonZero", "Or", "Round", "Shape", "Sign", "Size", "Xor", "Hardmax"]
)
_BLIND: dict[str, frozenset[int]] = {
    "Expand": frozenset([1]),
    "Gather": frozenset([1]),
    "GatherElements": frozenset([1]),
    "GatherND": frozenset([1]),
    "OneHot": frozenset([0, 1]),
    "Reshape": frozenset([1]),
    "ScatterElements": frozenset([1]),
    "ScatterND": frozenset([1]),
    "Slice": frozenset([1, 2, 3, 4]),
    "TopK": frozenset([1]),
    "Where": frozenset([0]),
}
"""Inputs that say where, and not what."""
RUNS_BODIES = frozenset(["If", "Loop", "Scan"])
_ARITHMETIC = frozenset(["Add", "Sub", "Mul", "Div", "Sum"])
_QUANTISED = frozenset(["QuantizeLinear", "DequantizeLinear", _MS + "QuantizeLinear", _MS + "DequantizeLinear"])


_FROZEN = "which runs without gradients (a pattern for train changes that)"


@dataclass(frozen=True)
class _Use:
    node: onnx.NodeProto
    place: int
    looked_up: bool
    """On the way it was a table in which something was looked up at fixed places."""


def roles(model: Model) -> list[Role]:
    """Of every floating weight in the order of the file, whether it trains, and why."""
    return _judged(model, frozen_bodies(model))


def frozen_bodies(model: Model) -> frozenset[str]:
    """First outputs of the `If`, `Loop` and `Scan` that run without gradients: layers stand in their bodies."""
    fixed = set(model.weights)
    return frozenset(
        node.output[0]
        for node in _all_nodes(model.graph)
        if node.op_type in RUNS_BODIES and any(_holds_layers(body, fixed) for body in subgraphs(node))
    )


def _holds_layers(body: onnx.GraphProto, fixed: set[str]) -> bool:
    """Whether it computes with weights, of its own or from outside; one that only moves values passes gradients on."""
    nodes = list(_all_nodes(body))
    fixed = fixed | {item.name for item in body.initializer}
    fixed |= {name for node in nodes if node.op_type == "Constant" for name in node.output}
    for node in nodes:
        if node.op_type in _MOVING and fixed.issuperset(filter(None, node.input)):
            fixed |= set(node.output)
    return any(
        place < len(node.input) and node.input[place] in fixed
        for node in nodes
        for place in _LAYERS.get(_key(node), {})
    )


def _judged(model: Model, frozen: frozenset[str]) -> list[Role]:
    graph = _Uses(model, frozen)
    return [_role(graph, weight) for weight in model.weights.values() if weight.dtype in _FLOATS]


def opened(model: Model, found: Sequence[Role]) -> bool:
    """Whether gradients go through bodies that hold layers: only if a weight trains that has no other one."""
    closed = {role.name for role in roles(model) if role.trains}
    free = {role.name for role in _judged(model, frozenset()) if role.trains}
    return any(role.trains and role.name in free - closed for role in found)


def decide(model: Model, train: Sequence[str] = (), freeze: Sequence[str] = ()) -> list[Role]:
    """The roles, with what the patterns say otherwise; freezing beats training."""
    found = {role.name: role for role in roles(model)}
    names = list(found)
    held = [name for name, weight in model.weights.items() if weight.dtype not in _FLOATS]
    for pattern in train:
        if pattern in held:
            raise UserError(f"train: {pattern!r} holds no floating-point numbers, so it cannot train")
    for name in chosen_names(names, train, "train"):
        if not found[name].statistic:
            found[name] = Role(name, True, "asked for (train)")
    for name in chosen_names(names, freeze, "freeze"):
        if not found[name].statistic:
            found[name] = Role(name, False, "asked for (freeze)")
    return list(found.values())


class _Uses:
    """Who reads what, what stands behind a layer, and from where a gradient comes back."""

    def __init__(self, model: Model, frozen: frozenset[str]) -> None:
        self.nodes = list(_all_nodes(model.graph))
        self.frozen = frozen
        self.inside = {
            node.output[0]: outer
            for outer in self.nodes
            if outer.op_type in RUNS_BODIES and outer.output[0] in frozen
            for body in subgraphs(outer)
            for node in _all_nodes(body)
        }
        """The frozen node in whose body each node stands."""
        self.readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        self.fixed: set[str] = set(model.weights)
        """Values that depend on weights alone."""
        self.learned: set[str] = set()
        """Values that a layer computes from an input; not how many there are, and what is decided by them."""
        for node in self.nodes:
            names = [*filter(None, node.input), *(name for graph in subgraphs(node) for name in captured(graph))]
            for place, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((node, place))
            if names and self.fixed.issuperset(names):
                self.fixed.update(node.output)
            elif node.op_type in _DECISIONS:
                continue
            elif self.learned.intersection(names) or self._is_layer(node) or subgraphs(node):
                self.learned.update(node.output)
                self.learned.update(value.name for graph in subgraphs(node) for value in graph.input)
        self.live = self._live({value.name for value in model.graph.output})

    def _live(self, outputs: set[str]) -> set[str]:
        """Values that move an output, and not only by a decision."""
        live = set(outputs)
        for node in reversed(self.nodes):
            if not live.intersection(node.output):
                continue
            if subgraphs(node) and node.output[0] in self.frozen:
                continue
            if subgraphs(node):
                live.update(value.name for graph in subgraphs(node) for value in graph.output)
                live.update(node.input)
            elif node.op_type not in _DECISIONS and not _is_counted(node):
                blind = _BLIND.get(node.op_type, frozenset())
                live.update(name for place, name in enumerate(node.input) if place not in blind)
        return live

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        places = _LAYERS.get(_key(node), {0: "table"} if node.op_type == "Gather" else {})
        return any(i < len(node.input) and node.input[i] in self.fixed for i in places)

    def of(self, name: str) -> Iterator[_Use]:
        """The operators that compute with it, behind those that only move it."""
        todo, seen = [(name, False)], {name}
        while todo:
            at, looked_up = todo.pop()
            for node, place in self.readers.get(at, []):
                ahead = place == 0 and node.op_type in _MOVING
                ahead |= node.op_type == "Concat" and self.fixed.issuperset(node.output)
                ahead |= node.op_type in _ARITHMETIC and self.fixed.issuperset(node.output)
                table = node.op_type == "Gather" and place == 0 and node.input[1] in self.fixed
                if ahead or table:
                    for out in filter(None, node.output):
                        if out not in seen:
                            seen.add(out)
                            todo.append((out, looked_up or table))
                else:
                    yield _Use(node, place, looked_up)


def _role(graph: _Uses, weight: Tensor) -> Role:
    uses = list(graph.of(weight.name))
    found = [_judge(graph, weight, use) for use in uses]
    statistic = next((role for role in found if role.statistic), None)
    if statistic is not None:
        return statistic
    trains = next((role for role in found if role.trains), None)
    return trains or next(iter(found), Role(weight.name, False, "nothing computes with it"))


def _judge(graph: _Uses, weight: Tensor, use: _Use) -> Role:
    node, kind = use.node, _key(use.node)
    where = f"{node.op_type} {node.name!r}"
    outer = graph.inside.get(node.output[0])
    if outer is not None:
        return Role(weight.name, False, f"{where} stands in a body of {outer.op_type} {outer.name!r}, {_FROZEN}")
    if not graph.live.intersection(node.output):
        return Role(weight.name, False, f"no gradient comes back to {where}: only decisions or frozen bodies read it")
    if (kind, use.place) in _STATISTICS:
        return Role(weight.name, False, f"running statistic of {where}", statistic=True)
    role = _LAYERS.get(kind, {}).get(use.place)
    if role is not None:
        return Role(weight.name, True, f"{role} of {where}")
    if kind == "Gather" and use.place == 0:
        if _is_rotation(weight):
            return Role(weight.name, False, f"looked up by {where}, a table of sines or cosines")
        return Role(weight.name, True, f"embedding of {where}")
    if kind in _ARITHMETIC:
        return _judge_arithmetic(graph, weight, use, where)
    if kind == "Concat" and int(np.prod(weight.shape)) > 1 and _behind_layer(graph, node):
        return Role(weight.name, True, f"a token that {where} puts beside others")
    if kind in _QUANTISED:
        return Role(weight.name, False, f"scale of {where}: quantisation keeps its steps")
    return Role(weight.name, False, f"setting of {where}")


def _judge_arithmetic(graph: _Uses, weight: Tensor, use: _Use, where: str) -> Role:
    if int(np.prod(weight.shape)) == 1:
        return Role(weight.name, False, f"a single number of {where}")
    if not _behind_layer(graph, use.node):
        return Role(weight.name, False, f"prepares the input, before any layer ({where})")
    if _is_mask(weight):
        return Role(weight.name, False, f"hides positions ({where})")
    if sum(size != 1 for size in weight.shape) == 1:
        return Role(weight.name, True, f"{'scale' if use.node.op_type in ('Mul', 'Div') else 'bias'} in {where}")
    if use.node.op_type in ("Add", "Sum") and (use.looked_up or (len(weight.shape) > 2 and weight.shape[0] == 1)):
        if not use.looked_up and len(np.unique(weight.array())) == 2:
            return Role(weight.name, False, f"hides positions ({where})")
        return Role(weight.name, True, f"table added by {where}")
    return Role(weight.name, False, f"a constant of {where}, shaped neither like a bias nor like an embedding")


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes with those of bodies in front of the node that runs them."""
    for node in graph.node:
        for body in subgraphs(node):
            yield from _all_nodes(body)
        yield node


def _is_counted(node: onnx.NodeProto) -> bool:
    """A cast to integers: no gradient comes back through it."""
    return node.op_type == "Cast" and attribute(node, "to", _T.FLOAT) not in _FLOATS


def _behind_layer(graph: _Uses, node: onnx.NodeProto) -> bool:
    return bool(graph.learned.intersection(node.input))


def _is_mask(weight: Tensor) -> bool:
    array = np.asarray(weight.array(), np.float64)
    return bool(array.size and (array.min() <= -1e4 or not np.isfinite(array).all()))


def _is_rotation(weight: Tensor) -> bool:
    """cos(0) is 1 and sin(0) is 0: position 0 is not rotated."""
    if len(weight.shape) < 2 or not weight.shape[0]:
        return False
    first = np.asarray(weight.array()[0], np.float64)
    return bool(np.all(first == 1) or np.all(first == 0)) and bool(np.abs(weight.array()).max() <= 1.001)


def _key(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def table(found: Sequence[Role]) -> Mapping[str, bool]:
    """Whether each parameter trains; statistics and settings are no parameters."""
    return {role.name: role.trains for role in found if role.trains or role.why == "asked for (freeze)"}
