"""A cost as a sum of small terms in the widths: what it is at any widths, and what one more unit of a group saves.

A tensor that keeps two of four channels has the ratio 1/2; over several axes ratios multiply. Every term is bilinear in
the ratios u and v of two tensors, mostly what a node reads and what it writes:

    a + b u + c v + d u v          a convolution's work: d u v    depthwise: c v    a kernel's time: all four

So thousands of terms are evaluated in a few NumPy calls, and so is their derivative by the units of each group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from onnxprune.analysis.coupling import Coupling, Indices

Floats = npt.NDArray[np.float64]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Term:
    """One summand."""

    name: str
    """Of the node or weight that costs it."""
    u: str | None
    """The tensor whose ratio is u; None: it is always 1."""
    v: str | None
    coefficients: Sequence[float]
    """a, b, c and d."""


class Widths:
    """How the lengths of tensors follow from the units that their groups lose."""

    def __init__(self, coupling: Coupling, shapes: Shapes) -> None:
        self.groups = [group.name for group in coupling.groups]
        self.tensors: dict[str, int] = {}
        axes: dict[tuple[str, int], int] = {}
        entries: list[tuple[int, int, float]] = []
        for number, group in enumerate(coupling.groups):
            for slot in group.slots:
                shape = shapes.get(slot.tensor)
                if shape is None or slot.axis >= len(shape) or not shape[slot.axis]:
                    continue
                self.tensors.setdefault(slot.tensor, len(self.tensors))
                axis = axes.setdefault((slot.tensor, slot.axis), len(axes))
                # of a period, the factor's own length counts: batch * heads loses a head's share
                length = slot.size if slot.role == "period" else shape[slot.axis]
                entries.append((axis, number, len(slot.positions) / group.size / length))
        self._axis, self._group = (np.array([e[i] for e in entries], np.int64) for i in (0, 1))
        self._share = np.array([e[2] for e in entries], np.float64)
        self._of = np.array([self.tensors[tensor] for tensor, _ in axes], np.int64)

    def index(self, tensor: str | None) -> int:
        """Where a tensor's ratio stands in `ratios`; the last place is always 1."""
        return self.tensors.get(tensor, len(self.tensors)) if tensor is not None else len(self.tensors)

    def array(self, removed: Mapping[str, int]) -> Floats:
        """Units by group as an array."""
        return np.array([removed.get(name, 0) for name in self.groups], np.float64)

    def axes(self, removed: Floats) -> Floats:
        """The ratio of every axis."""
        lost = np.bincount(self._axis, self._share * removed[self._group], minlength=len(self._of))
        return np.asarray(np.maximum(1.0 - lost, 0.0))

    def ratios(self, removed: Floats) -> Floats:
        """The ratio of every tensor, and a 1 at the end."""
        found = np.ones(len(self.tensors) + 1)
        np.multiply.at(found, self._of, self.axes(removed))
        return found

    def by_unit(self, slopes: Floats, removed: Floats) -> Floats:
        """What a unit of each group takes off a sum whose derivatives by the ratios are `slopes`."""
        axes, ratios = self.axes(removed), self.ratios(removed)
        others = ratios[self._of] / np.where(axes > 0, axes, 1.0)
        per_axis = slopes[self._of] * others
        found = np.bincount(self._group, per_axis[self._axis] * self._share, minlength=len(self.groups))
        return found.astype(np.float64)


@dataclass(frozen=True, eq=False)
class Terms:
    """A cost over all nodes or weights."""

    widths: Widths
    parts: Sequence[Term]

    @cached_property
    def _places(self) -> tuple[Indices, Indices]:
        u = [self.widths.index(term.u) for term in self.parts]
        v = [self.widths.index(term.v) for term in self.parts]
        return np.array(u, np.int64), np.array(v, np.int64)

    @cached_property
    def _coefficients(self) -> Floats:
        return np.array([term.coefficients for term in self.parts], np.float64).T

    def each(self, removed: Floats) -> Floats:
        """Every term's value."""
        if not self.parts:
            return np.zeros(0)
        ratios, (a, b, c, d) = self.widths.ratios(removed), self._coefficients
        u, v = (ratios[place] for place in self._places)
        return np.asarray(a + b * u + c * v + d * u * v)

    def total(self, removed: Floats) -> float:
        """Their sum."""
        return float(self.each(removed).sum())

    def saved(self, removed: Floats) -> Floats:
        """What one more unit of each group saves, at these widths."""
        if not self.parts:
            return np.zeros(len(self.widths.groups))
        ratios, (_, b, c, d) = self.widths.ratios(removed), self._coefficients
        at_u, at_v = self._places
        slopes = np.zeros(len(ratios))
        slopes += np.bincount(at_u, b + d * ratios[at_v], minlength=len(ratios))
        slopes += np.bincount(at_v, c + d * ratios[at_u], minlength=len(ratios))
        return self.widths.by_unit(slopes, removed)


def fitted(u: Floats, v: Floats, values: Floats) -> tuple[float, float, float, float]:
    """The bilinear function with no negative coefficient that is nearest to the values, relative to their size.

    With four columns there are fifteen sets of them; each is solved, and the best solution that stays positive is kept.
    Columns that tell no more than others do are left out, the simplest first.
    """
    columns = np.stack([np.ones_like(u), u, v, u * v])
    scale = np.maximum(np.abs(values), 1e-12 + 1e-3 * np.abs(values).max(initial=0.0))
    weighted, wanted = columns / scale, values / scale
    best, found = np.inf, np.zeros(4)
    for chosen in _SUBSETS:
        part = weighted[list(chosen)].T
        if part.shape[1] > len(values):
            continue
        solution, _, rank, _ = np.linalg.lstsq(part, wanted, rcond=1e-9)
        if rank < len(chosen) or (solution < 0).any():
            continue
        error = float(np.square(part @ solution - wanted).sum())
        if error < best * (1 - _BETTER) - 1e-18:
            best, found = error, np.zeros(4)
            found[list(chosen)] = solution
    return (float(found[0]), float(found[1]), float(found[2]), float(found[3]))


_BETTER = 0.02
"""A set of more columns has to be better by that part."""
_SUBSETS: tuple[tuple[int, ...], ...] = (
    *((0,), (3,), (2,), (1,)),
    *((0, 3), (0, 2), (0, 1), (1, 2), (1, 3), (2, 3)),
    *((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3), (0, 1, 2, 3)),
)
