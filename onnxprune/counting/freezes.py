"""What is frozen, by kind of reason, and what each costs: the multiply-accumulates of the channels it keeps whole.

Of a node with 64 output channels of which 16 are frozen, that is a quarter. It is more than pruning cannot reach, for
the node's input side may still be cut.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.analysis.coupling import Coupling, Frozen
from onnxprune.counting.cost import Cost
from onnxprune.files.model import Model


@dataclass(frozen=True)
class Freeze:
    """All that is frozen for one kind of reason."""

    code: str
    sentence: str
    """As the first of them puts it."""
    parts: tuple[Frozen, ...]
    macs: int

    @property
    def channels(self) -> int:
        return sum(part.size for part in self.parts)


def freezes(model: Model, coupling: Coupling, total: Cost) -> tuple[Freeze, ...]:
    """One for each code, the dearest first."""
    by_code: dict[str, list[Frozen]] = {}
    for part in coupling.frozen:
        by_code.setdefault(part.reason.code, []).append(part)
    found = [
        Freeze(code, parts[0].reason.sentence, tuple(parts), _macs(model, parts, total))
        for code, parts in by_code.items()
    ]
    return tuple(sorted(found, key=lambda freeze: -freeze.macs))


def _macs(model: Model, parts: list[Frozen], total: Cost) -> int:
    shares: dict[str, float] = {}
    for part in parts:
        if part.tensor not in model.weights:
            continue  # inside a body, whose work is not counted
        share = part.size / (model.weights[part.tensor].shape[part.axis] or 1)
        shares[part.node] = max(share, shares.get(part.node, 0.0))  # a node may have several weights; it runs once
    return round(sum(share * total.by_node.get(node, 0) for node, share in shares.items()))
