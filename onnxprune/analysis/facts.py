"""The exact facts that a rule may state about ids, and nothing else.

An id is one position along one axis of one tensor. Id 0 stands for every position that can never be cut (batch,
pixels, time steps). A rule receives the axes of a node's inputs and returns those of its outputs; on the way it may

    tie      these ids live or die together
    freeze   these ids cannot go, for this reason
    inexact  these ids can go, but what stays then computes something else
    product  this axis is the row-major product of those axes: only whole rows or whole columns can go
    prefer   of such factors, cut along this one (attention heads)
    role     what a weight does with these ids

Facts only collects; `solve` draws the conclusions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.analysis.coupling import Indices
from onnxprune.graph.sizes import product

NOBODY = np.zeros(1, np.int64)
LONGEST = 1 << 26
"""Axes with more positions are not followed: a file may claim any length."""


@dataclass(frozen=True, eq=False)
class Axis:
    """The ids along one axis of one value."""

    size: int | str
    """Its length, or the name of a length that is only known at run time."""
    ids: Indices
    """One id for each position; empty where the length is not known, for nothing on such an axis can be cut."""
    zero: bool = False
    """In the masked model the cut positions hold exact zeros here."""
    factors: tuple[Axis, ...] = ()
    """Of an axis like batch * heads, whose length is only known at run time: what it was merged from. Then `ids` are
    those of the one factor that can be cut."""

    @property
    def fixed(self) -> bool:
        """No position of it can ever be cut."""
        return self.ids.size == 0 or self.ids.strides == (0,) or not self.ids.any()

    def with_zero(self, zero: bool) -> Axis:
        return self if self.zero == zero else replace(self, zero=zero)


def fixed(size: int | str) -> Axis:
    """An axis that can never be cut; takes no memory whatever its length."""
    if isinstance(size, str) or size > LONGEST:
        return Axis(size, NOBODY[:0])
    return Axis(size, np.broadcast_to(NOBODY[0], (size,)))


@dataclass(frozen=True, eq=False)
class Product:
    """`whole` is the row-major product of `factors`; exactly one of them may carry a cut."""

    whole: Indices
    factors: tuple[Indices, ...]
    node: int


@dataclass(eq=False)
class Facts:
    """The facts stated so far, each with the node that stated it."""

    node: int = -1
    """Index of the node whose rule is speaking."""
    count: int = 1
    ties: list[tuple[Indices, Indices]] = field(default_factory=list)
    frozen: list[tuple[Indices, str, str, int]] = field(default_factory=list)
    inexacts: list[tuple[Indices, str, str, int]] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    preferred: list[Indices] = field(default_factory=list)
    accounted: list[Indices] = field(default_factory=list)
    """Ids that end here on purpose: they were summed over, say."""
    copies: list[Indices] = field(default_factory=list)
    """Positions that only repeat another one; of two factors the other is cut."""
    roles: list[tuple[Indices, str, int]] = field(default_factory=list)
    _names: itertools.count[int] = field(default_factory=itertools.count)

    def fresh(self, size: int, zero: bool = True) -> Axis:
        """An axis of new ids. A single position cannot be cut: nothing would be left."""
        if size <= 1 or size > LONGEST:
            return fixed(size)
        first = self.count
        self.count += size
        return Axis(size, np.arange(first, self.count, dtype=np.int64), zero)

    def open(self) -> Axis:
        """An axis of unknown length."""
        return fixed(f"?{next(self._names)}")

    def copied(self, size: int) -> Axis:
        """An axis along which one position is repeated."""
        axis = self.fresh(size, zero=False)
        if not axis.fixed:
            self.copies.append(axis.ids)
        return axis

    def tie(self, *axes: Axis, zero: bool | None = None) -> Axis:
        """All of equal length, position by position. The result holds zeros where every one of them does."""
        if any(axis.factors for axis in axes) and len({tuple(f.size for f in axis.factors) for axis in axes}) > 1:
            self.freeze_all(axes, "dynamic-size", "meets an axis whose length is only known at run time")
            return fixed(axes[0].size)
        ids = axes[0].ids
        for other in axes[1:]:
            ids = self._pair(ids, other.ids)
        known = [axis.size for axis in axes if isinstance(axis.size, int)]
        size = known[0] if known else axes[0].size
        keeps = all(axis.zero for axis in axes) if zero is None else zero
        return fixed(size) if ids.size == 0 else Axis(size, ids, keeps, axes[0].factors)

    def _pair(self, a: Indices, b: Indices) -> Indices:
        if a.size != b.size:
            self._fix(a, "its length is only known at run time where it meets another axis", "dynamic-size")
            self._fix(b, "its length is only known at run time where it meets another axis", "dynamic-size")
            return a[:0]
        if a is b:
            self.accounted.append(a)
            return a
        both = (a != 0) & (b != 0)
        if both.any():
            self.ties.append((a[both], b[both]))
        lonely = (a == 0) != (b == 0)
        if lonely.any():
            alone = np.where(a == 0, b, a)[lonely]
            self._fix(
                alone, "meets positions that cannot be cut (input, batch, spatial or constant axis)", "fixed-axis"
            )
            return np.where(both, a, 0)
        return a

    def _fix(self, ids: Indices, sentence: str, code: str) -> None:
        if ids.size and ids.any():
            self.frozen.append((ids[ids != 0], code, sentence, self.node))

    def freeze(self, axis: Axis, code: str, sentence: str) -> Axis:
        """Return the axis as one that cannot be cut."""
        self._fix(axis.ids, sentence, code)
        return fixed(axis.size)

    def account(self, axis: Axis) -> None:
        """The axis ends here, and its cut positions leave nothing behind."""
        self.accounted.append(axis.ids)

    def freeze_all(self, axes: Sequence[Axis] | None, code: str, sentence: str) -> None:
        for axis in axes or ():
            self.freeze(axis, code, sentence)

    def inexact(self, axis: Axis, code: str, sentence: str) -> Axis:
        if not axis.fixed:
            self.inexacts.append((axis.ids[axis.ids != 0], code, sentence, self.node))
        return axis

    def prefer(self, axis: Axis) -> None:
        if not axis.fixed:
            self.preferred.append(axis.ids[axis.ids != 0])

    def role(self, axis: Axis, role: str) -> None:
        if not axis.fixed:
            self.roles.append((axis.ids, role, self.node))

    def merge(self, axes: Sequence[Axis]) -> Axis:
        """The row-major product of several axes as one axis."""
        if len(axes) == 1:
            return axes[0]
        axes = [factor for axis in axes for factor in axis.factors or (axis,)]
        alive = [axis for axis in axes if not axis.fixed]
        sizes = [axis.size for axis in axes]
        if any(isinstance(size, str) for size in sizes):
            if len(alive) == 1:
                return Axis(str(product(sizes)), alive[0].ids, alive[0].zero, tuple(axes))
            self.freeze_all(alive, "dynamic-reshape", "is merged with an axis whose length is only known at run time")
            return self.open()
        lengths = [int(size) for size in sizes]
        total = int(np.prod(lengths, dtype=np.int64))
        if not alive or total > LONGEST:
            self.freeze_all(alive, "too-long", "is part of an axis too long to follow")
            return fixed(total)
        zero = all(axis.zero for axis in alive)
        if len(alive) == 1:
            at = next(i for i, axis in enumerate(axes) if axis is alive[0])
            inner = int(np.prod(lengths[at + 1 :], dtype=np.int64))
            outer = int(np.prod(lengths[:at], dtype=np.int64))
            return Axis(total, np.tile(np.repeat(alive[0].ids, inner), outer), zero)
        whole = self.fresh(total, zero)
        self.products.append(Product(whole.ids.reshape(lengths), tuple(axis.ids for axis in axes), self.node))
        return whole

    def split(self, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
        """The factors of one axis that is the row-major product of `sizes`."""
        if axis.fixed:
            return [fixed(size) for size in sizes]
        grid = axis.ids.reshape(tuple(sizes))
        at = _carrier(grid)
        if at is not None:
            line = np.moveaxis(grid, at, 0).reshape(sizes[at], -1)[:, 0]
            return [Axis(size, line, axis.zero) if i == at else fixed(size) for i, size in enumerate(sizes)]
        factors = [self.fresh(size, axis.zero) for size in sizes]
        self.products.append(Product(grid, tuple(factor.ids for factor in factors), self.node))
        return factors


def _carrier(grid: Indices) -> int | None:
    """The one dimension along which the ids of a grid change, if all others only repeat them."""
    for at in range(grid.ndim):
        lines = np.moveaxis(grid, at, 0).reshape(grid.shape[at], -1)
        if grid.shape[at] > 1 and (lines == lines[:, :1]).all():
            return at
    return None
