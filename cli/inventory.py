"""What `analyze` reports: every group with what it holds, every freeze with what it costs, and the sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxprune.analysis.coupling import Coupling, Group, Reason
from onnxprune.counting.cost import Cost, Reach, cost, reach
from onnxprune.counting.freezes import Freeze, freezes
from onnxprune.files.model import Model


@dataclass(frozen=True, eq=False)
class Inventory:
    """A model, its coupling and what both cost."""

    model: Model
    coupling: Coupling
    cost: Cost
    reach: Reach
    freezes: tuple[Freeze, ...]
    """The dearest first."""

    @property
    def open(self) -> tuple[Group, ...]:
        """Groups that can lose a unit: of one that has a single one, nothing would be left."""
        return tuple(group for group in self.coupling.groups if group.size > 1)


def take(model: Model, coupling: Coupling, dims: Mapping[str, int]) -> Inventory:
    """Count everything."""
    total = cost(model, dims)
    return Inventory(model, coupling, total, reach(model, coupling, total), freezes(model, coupling, total))


def width(group: Group) -> str:
    """The channels of the first weight that makes them: `64`, or `16/64` where other groups own the rest."""
    slot = next((slot for slot in group.weights if slot.role == "out"), group.slots[0])
    owned = len(slot.positions)
    return f"{owned:,}" if owned == slot.size else f"{owned:,}/{slot.size:,}"


def document(found: Inventory) -> dict[str, Any]:
    """For JSON."""
    model, total = found.model, found.cost
    return {
        "model": {
            "path": model.path,
            "producer": " ".join(filter(None, [model.proto.producer_name, model.proto.producer_version])),
            "opset": model.opset,
            "nodes": len(model.graph.node),
            "params": total.params,
            "macs": total.macs,
            "bytes": total.bytes,
            "dims": total.dims,
            "macs_unknown": total.unknown,
        },
        "reach": {"macs": found.reach.macs, "share": found.reach.share},
        "groups": [_group(group, found.reach) for group in found.coupling.groups],
        "frozen": [_freeze(freeze) for freeze in found.freezes],
        "unknown_ops": found.coupling.unknown_ops,
    }


def _group(group: Group, reached: Reach) -> dict[str, Any]:
    held = reached.by_group[group.name]
    return {
        "name": group.name,
        "units": group.size,
        "nodes": group.nodes,
        "ops": group.ops,
        "params": held.params,
        "macs": held.macs,
        "inexact": [_reason(reason) for reason in group.inexact],
        "members": [
            {"tensor": s.tensor, "axis": s.axis, "size": s.size, "positions": len(s.positions), "role": s.role}
            for s in group.weights
        ],
    }


def _freeze(freeze: Freeze) -> dict[str, Any]:
    parts = [
        {"tensor": p.tensor, "axis": p.axis, "channels": p.size, "node": p.node, "reason": _reason(p.reason)}
        for p in freeze.parts
    ]
    return {"code": freeze.code, "channels": freeze.channels, "macs": freeze.macs, "parts": parts}


def _reason(reason: Reason) -> dict[str, str]:
    return {"code": reason.code, "sentence": reason.sentence, "node": reason.node}
