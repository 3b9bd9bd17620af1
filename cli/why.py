"""Why two things are coupled: the shortest way through the slot graph that never leaves their group.

    conv1 ─ Relu ─ Add ─ conv3          each step is an operator that ties the channels on both sides of it
                    └── conv2

A thing is a tensor, one axis of it (`tensor:axis`), a node (its output channels are meant) or a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from onnxprune.analysis.coupling import Coupling
from onnxprune.cli.tables import Part
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.graph.shapes import infer
from onnxprune.text.figures import some
from onnxprune.text.names import suggest

Key = tuple[str, int]
"""A slot: tensor and axis."""


@dataclass(frozen=True)
class Side:
    """One of the two things."""

    name: str
    kind: str
    """tensor, axis, node or group."""
    slots: tuple[Key, ...]
    """Its axes that can be cut."""
    groups: tuple[str, ...]
    """The groups that these belong to."""
    frozen: tuple[str, ...]
    """Why the rest of it cannot be cut, as far as it makes channels."""


@dataclass(frozen=True)
class Explanation:
    """How two things hang together, or that they do not."""

    a: Side
    b: Side
    group: str | None
    """The group that holds both; the first of them if there are several. None: not coupled."""
    units: int
    others: tuple[str, ...]
    """Further groups that hold both."""
    path: tuple[Key, ...]
    """From a to b; a single slot if that is part of both."""
    ties: tuple[str, ...]
    """The nodes between each two of them."""


def explain(model: Model, coupling: Coupling, a: str, b: str) -> Explanation:
    """Explain."""
    one, two = find(model, coupling, a), find(model, coupling, b)
    shared = sorted(set(one.groups) & set(two.groups), key=lambda name: -coupling.group(name).size)
    if not shared:
        return Explanation(one, two, None, 0, (), (), ())
    path, ties = _path(coupling, shared[0], one, two)
    return Explanation(one, two, shared[0], coupling.group(shared[0]).size, tuple(shared[1:]), path, ties)


def find(model: Model, coupling: Coupling, name: str) -> Side:
    """What a name means.

    Tensors come first: a tensor of TensorFlow's is called `conv:0`, which is no axis. Nodes come before groups, which
    are often called like their first node but may hold only part of its channels.
    """
    made = {output: node.name for node in model.graph.node for output in node.output if output}
    nodes = {node.name: [output for output in node.output if output] for node in model.graph.node}
    tensors = dict.fromkeys([*(item.name for item in model.graph.input), *model.weights, *made])
    groups = {group.name: group for group in coupling.groups}
    stem, _, axis = name.rpartition(":")
    weight = f"{name}.weight"
    if weight in tensors and name not in (*tensors, *nodes, *groups):
        name = weight  # what PyTorch calls the layer, where the exporter calls its node otherwise
    if name in tensors:
        return _side(coupling, name, "tensor", [key for key in coupling.graph if key[0] == name], [name])
    if stem in tensors and axis.isdecimal():
        shape = infer(model).get(stem, (0, None))[1]
        if shape is not None and int(axis) >= len(shape):
            raise UserError(f"there is no axis {name!r}: {stem!r} has {len(shape)} axes, counted from 0")
        return _side(coupling, name, "axis", [(stem, int(axis))], [stem])
    if name in nodes:
        own = [key for key in coupling.graph if key[0] in nodes[name]]
        return _side(coupling, name, "node", own, [name])
    if name in groups:
        first = groups[name].nodes[0] if groups[name].nodes else ""
        keys = [(slot.tensor, slot.axis) for slot in groups[name].slots]
        own = [key for key in keys if key[0] in nodes.get(first, ())]
        side = _side(coupling, name, "group", own or keys, [])
        return Side(name, "group", side.slots, (name,), ())
    raise UserError(f"there is no tensor, axis, node or group {name!r}{suggest(name, [*groups, *nodes, *tensors])}")


def sentence(found: Explanation) -> str:
    """The answer in one line."""
    a, b = found.a, found.b
    if found.group is None:
        return f"{a.name} and {b.name} are not coupled: {_standing(a)}; {_standing(b)}."
    also = f" (and in {len(found.others)} more)" if found.others else ""
    return f"{a.name} and {b.name} are coupled: both are in group {found.group} of {found.units:,} units{also}."


def parts(found: Explanation, model: Model) -> list[Part]:
    """For people: the answer, then the way."""
    ops = {node.name: node.op_type for node in model.graph.node}
    lines: list[Part] = [sentence(found)]
    for index, (tensor, axis) in enumerate(found.path):
        lines.append(f"  {tensor}:{axis}")
        if index < len(found.ties):
            lines.append(f"    | {ops.get(found.ties[index], '')} {found.ties[index]}")
    return lines


def document(found: Explanation) -> dict[str, Any]:
    """For JSON."""
    sides = [
        {"name": side.name, "kind": side.kind, "groups": side.groups, "frozen": side.frozen}
        for side in (found.a, found.b)
    ]
    return {
        "coupled": found.group is not None,
        "sentence": sentence(found),
        "a": sides[0],
        "b": sides[1],
        "group": found.group,
        "other_groups": found.others,
        "path": [{"tensor": tensor, "axis": axis} for tensor, axis in found.path],
        "ties": found.ties,
    }


def _side(coupling: Coupling, name: str, kind: str, keys: list[Key], owners: list[str]) -> Side:
    slots = tuple(key for key in keys if key in coupling.graph)
    groups = dict.fromkeys(group for key in slots for group in coupling.graph.nodes[key]["groups"])
    frozen = [str(part.reason) for part in coupling.frozen if part.tensor in owners or part.node in owners]
    return Side(name, kind, slots, tuple(groups), tuple(dict.fromkeys(frozen)))


def _standing(side: Side) -> str:
    if side.groups:
        return f"{side.name} is in group {some(side.groups)}"
    if side.frozen:
        return f"{side.name} is frozen, it {side.frozen[0]}"
    return f"{side.name} has no axis that can be cut"


def _path(coupling: Coupling, group: str, a: Side, b: Side) -> tuple[tuple[Key, ...], tuple[str, ...]]:
    """The slots on the way and the nodes between them."""
    import networkx as nx

    graph = coupling.graph
    mine = nx.subgraph_view(
        graph,
        filter_node=lambda key: group in graph.nodes[key]["groups"],
        filter_edge=lambda one, two: group in graph.edges[one, two]["groups"],
    )
    starts = {key for key in a.slots if key in mine}
    ways = nx.multi_source_dijkstra_path(mine, starts)
    ends = [ways[key] for key in b.slots if key in ways]
    if not ends:  # tied by something that is no common operator; the group is right all the same
        return (), ()
    way = min(ends, key=len)
    ties = [graph.edges[one, two]["node"] for one, two in pairwise(way)]
    # all slots of one node hang on its first one, so that a way through a node may take two steps: make it one
    kept = [i for i in range(len(way)) if not (0 < i < len(ties) and ties[i - 1] == ties[i])]
    return tuple(way[i] for i in kept), tuple(ties[i] for i in kept[:-1])
