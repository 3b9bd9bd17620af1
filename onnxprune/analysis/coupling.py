"""What analysis found: which positions of which tensors live or die together, and what cannot go, with the reason.

A *unit* is the smallest thing that can be pruned; a *group* holds the units that compete with each other because
they occupy the same slots. Every slot maps the positions it gives to the group onto the group's units:

    slot   layer1.0.conv1.weight:0      positions 0 1 2 3      units 0 1 2 3
    slot   fc.weight:1 (after Flatten)  positions 0 1 2 3 4 5 6 7   units 0 0 1 1 2 2 3 3

Removing unit 2 removes position 2 of the first slot and positions 4 and 5 of the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxprune.text.shown import Shown

if TYPE_CHECKING:
    import networkx as nx

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reason:
    """Why something cannot be pruned, or can only be pruned inexactly."""

    code: str
    """Stable and documented, `graph-output` for instance."""
    sentence: str
    """The same for people."""
    node: str
    """The node that stated it."""

    def __str__(self) -> str:
        return f"{self.sentence} ({self.code}, at {self.node})" if self.node else f"{self.sentence} ({self.code})"


@dataclass(frozen=True, eq=False)
class Slot:
    """One axis of one named value, as far as it belongs to one group."""

    tensor: str
    axis: int
    size: int
    """Length of the whole axis; other groups may own the rest of it."""
    weight: bool
    """An initializer, not an activation."""
    role: str
    """What the weight does with the channel: `out` makes it, `in` reads it, `scale` and `shift` change it, `keep` is
    sliced but never masked (a divisor), and nothing for passengers. An activation has none but `period`: the axis is a
    product with a length only known at run time (batch * heads), and `size` and `positions` are those of one factor."""
    positions: Indices
    """Sorted positions on the axis that belong to the group."""
    units: Indices
    """For each of these positions, the unit (0 .. group size - 1) it belongs to."""
    op: str = ""
    """For weights: the type of the operator that reads it in this role."""

    def __str__(self) -> str:
        return f"{self.tensor}:{self.axis}"


@dataclass(frozen=True, eq=False)
class Group:
    """Units with the same slots: the coupled channels."""

    name: str
    """Stable and human: the first producing node."""
    nodes: tuple[str, ...]
    """The producing nodes, in graph order."""
    ops: tuple[str, ...]
    """Types of the operators whose weights the group cuts."""
    size: int
    slots: tuple[Slot, ...]
    inexact: tuple[Reason, ...] = ()
    """Not empty: cutting it changes what the kept channels compute."""

    @property
    def weights(self) -> tuple[Slot, ...]:
        return tuple(slot for slot in self.slots if slot.weight)


@dataclass(frozen=True)
class Frozen:
    """Positions of a producing weight axis that cannot be pruned."""

    tensor: str
    axis: int
    size: int
    """How many positions are frozen for this reason."""
    node: str
    """The node whose output channels they are."""
    reason: Reason


@dataclass(frozen=True, eq=False)
class Coupling(Shown):
    """The result of analysis; nothing in it changes afterwards."""

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    unknown_ops: Mapping[str, int]
    """Operators without a rule and how often they occur."""
    wiring: tuple[tuple[str, tuple[str, ...]], ...] = field(repr=False, default=())
    """Every node and the tensors it touches: with the groups, the raw material of `graph`."""

    def group(self, name: str) -> Group:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    @cached_property
    def graph(self) -> nx.Graph:
        """Slots (tensor, axis) as nodes with the groups that own them; an edge names the operator that ties them."""
        import networkx as nx

        graph = nx.Graph()
        owners: dict[str, dict[str, list[tuple[str, int]]]] = {}
        for group in self.groups:
            for slot in group.slots:
                key = (slot.tensor, slot.axis)
                if key not in graph:
                    graph.add_node(key, size=slot.size, weight=slot.weight, groups=[])
                graph.nodes[key]["groups"].append(group.name)
                owners.setdefault(slot.tensor, {}).setdefault(group.name, []).append(key)
        for node, tensors in self.wiring:
            by_group: dict[str, list[tuple[str, int]]] = {}
            for tensor in tensors:
                for name, keys in owners.get(tensor, {}).items():
                    by_group.setdefault(name, []).extend(keys)
            for name, keys in by_group.items():
                for other in dict.fromkeys(keys[1:]):
                    if other == keys[0]:
                        continue
                    if not graph.has_edge(keys[0], other):
                        graph.add_edge(keys[0], other, node=node, groups=[])
                    graph.edges[keys[0], other]["groups"].append(name)
        return graph
