"""Couplings, scores and measured machines, written down instead of found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxprune.analysis.coupling import Coupling, Group, Slot
from onnxprune.scoring.scores import Scores
from onnxprune.selection.alignment import LAYER_KINDS, WIDTHS, Alignment


def slot(tensor: str, size: int, per_unit: int = 1, *, axis: int = 0, role: str = "out", op: str = "Conv") -> Slot:
    positions = np.arange(size * per_unit)
    return Slot(tensor, axis, len(positions), role != "", role, positions, positions // per_unit, op if role else "")


def layer(name: str, size: int, *more: Slot, per_unit: int = 1, op: str = "Conv") -> Group:
    slots = (slot(f"{name}.weight", size, per_unit, op=op), slot(f"{name}.out", size, per_unit, axis=1, role=""), *more)
    return Group(name, (f"/{name}/{op}",), (op,), size, slots)


def coupling(*groups: Group) -> Coupling:
    return Coupling(groups, (), {})


def scores(skipped: Any = None, **by_group: object) -> Scores:
    return Scores("l1", {name: np.asarray(found, float) for name, found in by_group.items()}, skipped or {})


Shape = Callable[[int], float]


def whole(width: int, block: int) -> int:
    return -(-width // block) * block


def steps(block: int, power: float = 2, start: float = 200) -> Shape:
    """A kernel that fills whole blocks; the work of a layer grows with the square of its width."""
    return lambda width: start + whole(width, block) ** power


def curve_of(shape: Shape, noise: float = 0.0, seed: int = 0) -> dict[int, float]:
    rng = np.random.default_rng(seed)
    return {width: shape(width) * float(1 + noise * rng.standard_normal()) for width in WIDTHS}


def likes(conv: Shape, matmul: Shape | None = None) -> Alignment:
    times = {layer: curve_of(conv) for layer in LAYER_KINDS}
    return Alignment(times | {"matmul": curve_of(matmul or conv)})


FLAT, SIXTEEN, EIGHT = steps(1), steps(16), steps(8)
