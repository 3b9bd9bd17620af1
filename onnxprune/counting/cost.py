"""What a model costs: weights, bytes and multiply-accumulates for one sample, and how much of that pruning can reach.

Free dimensions are bound as in `dims` (batch 1), so the MACs are those of one sample. A group *holds* what would go if
all its units went: of a weight [64, 32, 3, 3] all of it through axis 0 or through axis 1, and half of it through 16 of
the 32 positions of axis 1; where it owns both axes, one minus what neither touches.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx

from onnxprune.counting.macs import macs
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.dims import Dims, bound, candidates, inputs_of
from onnxprune.graph.normalize import graphs
from onnxprune.graph.settle import settled_shapes
from onnxprune.text.figures import plural
from onnxprune.text.shown import Shown

if TYPE_CHECKING:
    from onnxprune.analysis.coupling import Coupling, Slot

_FLOATS = {1, 10, 11, 16, 17, 18, 19, 20, 23, 24, 27, 28}
_NARROW = {2, 3, 21, 22, 25, 26}
"""Integers of 8 bits and less: quantised weights from rank 2 on, zero points below it."""


@dataclass(frozen=True)
class Cost(Shown):
    """The size of a model and the work of one run."""

    params: int
    """Elements of the main graph's float weights, quantised ones included."""
    bytes: int
    """Of all its initializers."""
    macs: int
    """Of the nodes in `by_node`."""
    by_node: Mapping[str, int] = field(repr=False)
    """Name of each node that multiplies, in graph order."""
    unknown: tuple[str, ...] = ()
    """Nodes whose multiply-accumulates could not be determined; they are missing in `macs`."""
    dims: Mapping[str, int] = field(default_factory=dict)
    """How the free dimensions of the inputs were bound."""
    inside: int = 0
    """Float weights in the bodies of If, Loop and Scan; they are missing in `params` and `bytes`."""

    @property
    def reservations(self) -> tuple[str, ...]:
        """What is left out, in sentences."""
        unknown, inside = plural(len(self.unknown), "node"), plural(self.inside, "parameter")
        return (
            *([f"The MACs of {unknown} could not be determined and are not counted."] if self.unknown else []),
            *([f"The {inside} in bodies of If, Loop and Scan are not counted."] if self.inside else []),
        )


@dataclass(frozen=True)
class Held:
    """What would go if all units of a group went."""

    params: int
    macs: int


@dataclass(frozen=True)
class Reach:
    """How much of a model's work sits in nodes of which pruning can cut at least one side."""

    macs: int
    total: int
    by_group: Mapping[str, Held] = field(repr=False)
    """By the group's name."""

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return self.macs / self.total if self.total else 0.0


def params(model: Model) -> int:
    """Elements of the main graph's float weights, quantised ones included."""
    stored = sum(math.prod(weight.shape) for weight in _stored(model) if is_param(weight.dtype, weight.shape))
    return stored + _floats_of(model.graph)


def cost(model: Model, dims: Dims | None = None) -> Cost:
    """Count one run. Free dimensions that `dims` does not bind get their most likely size."""
    shapes, binding = concrete(model, dims)
    by_node: dict[str, int] = {}
    unknown = []
    for node in model.graph.node:
        count = macs(node, shapes)
        if count is None:
            unknown.append(_name(node))
        elif count:
            by_node[_name(node)] = by_node.get(_name(node), 0) + count
    nbytes = sum(weight.nbytes for weight in _stored(model))
    inside = sum(_floats_of(body) for body in graphs(model.graph) if body is not model.graph)
    return Cost(params(model), nbytes, sum(by_node.values()), by_node, tuple(unknown), binding, inside)


def concrete(model: Model, dims: Dims | None = None) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """The shapes of one run, all numbers, and how the free dimensions were bound for them."""
    try:
        inputs = inputs_of(model, dims)
    except UserError:  # a sequence cannot be fed, but what does not hang on it can be counted
        inputs = ()
    binding = candidates(inputs, dims)[0]
    return _shapes(bound(model, binding, inputs), binding), binding


def reach(model: Model, coupling: Coupling, cost: Cost) -> Reach:
    """Split a model's cost by the groups of its coupling."""
    slots: dict[str, dict[str, list[Slot]]] = defaultdict(lambda: defaultdict(list))
    for group in coupling.groups:
        for slot in group.slots:
            slots[slot.tensor][group.name].append(slot)
    held_params = dict.fromkeys((group.name for group in coupling.groups), 0.0)
    for name, weight in model.weights.items():
        if not is_param(weight.dtype, weight.shape):
            continue
        for group_name, share in _shares(slots, [(name, weight.shape)]).items():
            held_params[group_name] += share * math.prod(weight.shape)
    held_macs = dict.fromkeys(held_params, 0.0)
    cuttable = {group.name: group.size > 1 for group in coupling.groups}  # a single unit always stays
    reached = 0
    made_of = origins(model)
    for node in model.graph.node:
        count = cost.by_node.get(_name(node), 0)
        shares = _node_shares(node, model, made_of, slots) if count else {}
        reached += count if any(cuttable[name] for name in shares) else 0
        for group_name, share in shares.items():
            held_macs[group_name] += share * count
    by_group = {name: Held(round(held_params[name]), round(held_macs[name])) for name in held_params}
    return Reach(reached, cost.macs, by_group)


def _shapes(model: Model, binding: Dims) -> dict[str, tuple[int, ...]]:
    """Fully known ones. The model is a copy already, and gets changed."""
    for value in model.graph.output:  # declared for other inputs, perhaps, or wrong: what is inferred from ours counts
        value.type.tensor_type.ClearField("shape")
    return settled_shapes(model, binding)


def _name(node: onnx.NodeProto) -> str:
    return node.name or next(filter(None, node.output), node.op_type)


def is_param(dtype: int, shape: Sequence[int]) -> bool:
    """Floats are, and narrow integers of rank 2 and more: quantised weights."""
    return dtype in _FLOATS or (dtype in _NARROW and len(shape) > 1)


def _stored(model: Model) -> list[Tensor]:
    """The weights, those that normalisation took apart counted once: they are stored once."""
    return list({content(weight): weight for weight in model.weights.values()}.values())


def content(weight: Tensor) -> object:
    """Equal for weights that `normalize` took apart and that still hold the same: they are stored once."""
    edits = (*sorted(weight.keep.items()), *sorted(weight.zeros.items()))
    return id(weight.source), weight.shape, tuple((axis, index.tobytes()) for axis, index in edits)


def _floats_of(graph: onnx.GraphProto) -> int:
    """Elements of the weights in the graph itself; the main graph's initializers are not there, but in `weights`."""
    stored: int = sum(math.prod(item.dims) for item in graph.initializer if is_param(item.data_type, item.dims))
    return stored + sum(_constant_floats(node) for node in graph.node if node.op_type == "Constant")


def _constant_floats(node: onnx.NodeProto) -> int:
    """Elements of a weight that the exporter left in a Constant node."""
    for item in node.attribute:
        if item.name == "value" and is_param(item.t.data_type, item.t.dims):
            return math.prod(item.t.dims)
        if item.name in ("value_float", "value_floats"):
            return len(item.floats) or 1
    return 0


def origins(model: Model) -> dict[str, frozenset[str]]:
    """The weights that a value is made of, where it is made of weights alone (cast, transposed, dequantised)."""
    found = {name: frozenset([name]) for name in model.weights}
    for node in model.graph.node:
        read = [name for name in node.input if name]
        if read and all(name in found for name in read):
            made = frozenset[str]().union(*(found[name] for name in read))
            found.update(dict.fromkeys(filter(None, node.output), made))
    return found


def _node_shares(
    node: onnx.NodeProto,
    model: Model,
    origins: Mapping[str, frozenset[str]],
    slots: Mapping[str, Mapping[str, list[Slot]]],
) -> dict[str, float]:
    """For each group that can cut the node, which share of the node's work it holds."""
    names = dict.fromkeys(name for read in node.input for name in sorted(origins.get(read, ())))
    weights = [(name, model.weights[name].shape) for name in names if len(model.weights[name].shape) > 1]
    if weights:
        return _shares(slots, weights)
    # a product of two activations: its slots are theirs
    shares: dict[str, float] = {}
    for name in node.input:
        for group_name, share in _shares(slots, [(name, ())]).items():
            shares[group_name] = max(share, shares.get(group_name, 0.0))
    return shares


def _shares(
    slots: Mapping[str, Mapping[str, list[Slot]]], tensors: Iterable[tuple[str, tuple[int, ...]]]
) -> dict[str, float]:
    """For each group the share of the tensors' elements that would go with it."""
    tensors = list(tensors)
    total = sum(math.prod(shape) for _, shape in tensors) or 1
    gone: dict[str, float] = defaultdict(float)
    for name, shape in tensors:
        for group_name, found in slots.get(name, {}).items():
            kept = math.prod(1 - len(slot.positions) / slot.size for slot in found if slot.size)
            gone[group_name] += (1 - kept) * math.prod(shape) / total
    return dict(gone)
