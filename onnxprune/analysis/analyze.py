"""Analysis: run the graph on ids, solve the facts, and read groups off the units.

A unit can be pruned if no fact freezes it and some weight makes it (role `out`). Units that occupy the same slots, each
as often, form a group; to find them without a Python object per channel, every slot gets two random 64-bit numbers and
a unit's signature is the sum over the places where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from onnxprune.analysis.coupling import Coupling, Frozen, Group, Indices, Reason, Slot
from onnxprune.analysis.facts import Facts
from onnxprune.analysis.solve import Solution, reason_of, solve
from onnxprune.analysis.trace import Trace
from onnxprune.errors import UserError
from onnxprune.files.model import Model, expect_model
from onnxprune.graph.attributes import subgraphs
from onnxprune.graph.normalize import graphs
from onnxprune.graph.probes import FLOATS
from onnxprune.graph.shapes import infer

ATTENTION = ("heads", "dims", "off")


def analyze(model: Model, *, allow_inexact: bool = False, attention: str = "heads", strict: bool = False) -> Coupling:
    """Find the coupled channel groups of a normalised model.

    In attention whole `heads` are cut, `dims` within all heads alike, or nothing (`off`). `strict` lets a rule that
    fails raise (for tests).
    """
    check_options(attention)
    expect_model(model, "analyze")
    trace = Trace(model, infer(model), attention=attention, strict=strict)
    solution = solve(trace.flow, allow_inexact=allow_inexact)
    return _Reader(trace, solution).coupling()


def check_options(attention: str) -> None:
    """Refuse what cannot be, before any work is done."""
    if attention not in ATTENTION:
        raise UserError(f"attention must be one of {', '.join(ATTENTION)}, not {attention!r}")


class _Reader:
    """Reads the coupling off a solved trace."""

    def __init__(self, trace: Trace, solution: Solution) -> None:
        self.trace, self.solution, self.facts = trace, solution, trace.flow
        self.nodes = [node.name for node in trace.model.graph.node]
        self.marks = _marks(self.facts)
        made = np.zeros(solution.root.size, bool)
        for ids, role, _ in self.facts.roles:
            if role == "out":
                made[solution.root[ids]] = True
        made[0] = False
        self.alive = made & (solution.frozen < 0)

    def coupling(self) -> Coupling:
        wiring = tuple((node.name, (*node.input, *node.output)) for node in self.trace.model.graph.node)
        return Coupling(self._groups(), self._frozen(), dict(self.trace.unknown_ops), wiring)

    def _slots(self) -> list[tuple[str, int, Indices, Indices]]:
        """(tensor, axis, positions, roots) of every axis that holds a living unit."""
        found = []
        for name, value in self.trace.values.items():
            for at, axis in enumerate(value.axes if value is not None else ()):
                if axis.fixed:
                    continue
                roots = self.solution.root[axis.ids]
                positions = np.flatnonzero(self.alive[roots])
                if positions.size:
                    found.append((name, at, positions, roots[positions]))
        return found

    def _groups(self) -> tuple[Group, ...]:
        slots = self._slots()
        if not slots:
            return ()
        signature = np.zeros((self.alive.size, 2), np.uint64)
        salts = np.random.default_rng(0).integers(1, 2**63, (len(slots), 2), np.uint64)
        for salt, (_, _, _, roots) in zip(salts, slots, strict=True):
            np.add.at(signature, roots, salt)
        units = np.flatnonzero(signature.any(axis=1))
        _, kind = np.unique(signature[units], axis=0, return_inverse=True)
        kind = kind.ravel()
        number = np.zeros(self.alive.size, np.int64)
        group_of = np.full(self.alive.size, -1, np.int64)
        group_of[units] = kind
        order = np.argsort(kind, kind="stable")
        starts = np.searchsorted(kind[order], np.arange(kind.max() + 1))
        number[units[order]] = np.arange(units.size) - starts[kind[order]]
        members: dict[int, list[Slot]] = {}
        for name, at, positions, roots in slots:
            owner = group_of[roots]
            for group in np.unique(owner):
                mine = owner == group
                members.setdefault(int(group), []).append(self._slot(name, at, positions[mine], number[roots[mine]]))
        sizes = np.bincount(kind)
        roots_of = {int(g): units[kind == g] for g in members}
        return self._named([(members[g], int(sizes[g]), roots_of[g]) for g in members])

    def _slot(self, name: str, axis: int, positions: Indices, units: Indices) -> Slot:
        value = self.trace.values[name]
        assert value is not None
        weight = name in self.trace.weights
        here = value.axes[axis]
        role, node = self.marks.get(int(here.ids[positions[0]]), ("", -1)) if weight else ("", -1)
        op = self.trace.model.graph.node[node].op_type if node >= 0 else ""
        return Slot(name, axis, here.ids.size, weight, "period" if here.factors else role, positions, units, op)

    def _named(self, found: list[tuple[list[Slot], int, Indices]]) -> tuple[Group, ...]:
        made: list[tuple[int, str, Group]] = []
        for slots, size, roots in found:
            weights = [slot for slot in slots if slot.weight]
            makers = sorted(
                {node: slot for slot in weights if slot.role == "out" for node in [self._node(slot)]}.items()
            )
            first, producer = makers[0] if makers else (len(self.nodes), weights[0])
            nodes = tuple(self.nodes[node] for node, _ in makers)
            ops = tuple(dict.fromkeys(slot.op for slot in weights if slot.op))
            stem = (
                producer.tensor.removesuffix(".weight")
                if producer.tensor.endswith(".weight")
                else nodes[0]
                if nodes
                else producer.tensor
            )
            made.append((first, stem, Group(stem, nodes, ops, size, tuple(slots), self._inexact(roots))))
        made.sort(key=lambda item: (item[0], item[2].slots[0].positions[0]))
        return tuple(_unique(group, [name for _, name, _ in made[:i]]) for i, (_, _, group) in enumerate(made))

    def _node(self, slot: Slot) -> int:
        value = self.trace.values[slot.tensor]
        assert value is not None
        return self.marks[int(value.axes[slot.axis].ids[slot.positions[0]])][1]

    def _inexact(self, roots: Indices) -> tuple[Reason, ...]:
        which = np.unique(self.solution.inexact[roots])
        return tuple(reason_of(self.facts, self.nodes, int(i), inexact=True) for i in which if i >= 0)

    def _frozen(self) -> tuple[Frozen, ...]:
        found = []
        for name, value in self.trace.weights.items():
            for at, axis in enumerate(value.axes):
                if axis.fixed or self.marks.get(int(axis.ids[0]), ("", -1))[0] != "out":
                    continue
                reasons = self.solution.frozen[self.solution.root[axis.ids]]
                node = self.marks[int(axis.ids[0])][1]
                for index, count in zip(*np.unique(reasons[reasons >= 0], return_counts=True), strict=True):
                    reason = reason_of(self.facts, self.nodes, int(index))
                    found.append((node, Frozen(name, at, int(count), self.nodes[node], reason)))
        found += [(at, item) for at, node in enumerate(self.trace.model.graph.node) for item in _in_bodies(node)]
        return tuple(item for _, item in sorted(found, key=lambda pair: pair[0]))


def _in_bodies(node: onnx.NodeProto) -> Iterator[Frozen]:
    """Weights inside If, Loop and Scan: their bodies are left as they are."""
    for graph in (inner for body in subgraphs(node) for inner in graphs(body)):
        constants = [item.t for each in graph.node if each.op_type == "Constant" for item in each.attribute]
        for tensor in (*graph.initializer, *constants):
            if tensor.data_type in FLOATS and len(tensor.dims) > 1 and tensor.dims[0] > 1:
                reason = Reason("in-body", f"lies inside the body of {node.op_type}, which is left whole", node.name)
                yield Frozen(tensor.name or node.name, 0, tensor.dims[0], node.name, reason)


def _marks(facts: Facts) -> Mapping[int, tuple[str, int]]:
    """The first role stated for an axis, by each of its ids' first position."""
    marks: dict[int, tuple[str, int]] = {}
    for ids, role, node in facts.roles:
        for i in ids.tolist():
            marks.setdefault(i, (role, node))
    return marks


def _unique(group: Group, earlier: list[str]) -> Group:
    count = earlier.count(group.name)
    return (
        group
        if not count
        else Group(f"{group.name}#{count + 1}", group.nodes, group.ops, group.size, group.slots, group.inexact)
    )
