"""The weights with which a layer comes closest to wanted outputs, from rows of what it reads and what it should make.

    minimise  mean |y - W x - b|^2 + r |W - W0|^2        W0: the weights as they are; r: the ridge

The mean goes into b where there is a bias. With z = y - W0 x - b, all centred, both of these are the minimum:

    W = W0 + E[z x'] (E[x x'] + r)^-1                    many rows: sums over rows are kept, a system of features
    W = W0 + Z' (X X' + n r)^-1 X                        few rows: they are kept themselves, a system of rows

The ridge is measured in units of the mean variance of x. It is not a matter of taste: a quarter of the rows is kept
apart, and for each group of a few strengths, or of leaving everything as it is, the one with the least error there is
taken; then the system is solved once more with all rows. So a layer does not get worse on what it was not fitted to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Nearest = Callable[[Floats], tuple[Floats, Floats]]
"""From a ridge for each group to weight (groups, outputs, features) and bias (groups, outputs)."""

RIDGES = (1e-8, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
EXACT = 1e-12
"""An error below this share of what is wanted is none: outputs are floats of 24 bits."""
BLOCK = 1 << 23
"""Numbers that are made float64 at once, about."""
_LEAST = float(np.finfo(np.float64).tiny)


class Evidence(Protocol):
    """Rows x (groups, rows, features) and wanted outputs y (groups, rows, outputs)."""

    count: int
    """Rows so far."""

    def add(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Some more rows."""

    def absorb(self, other: Self) -> None:
        """All rows of the other; that must not be used any more."""

    def power(self) -> Floats:
        """mean |y|^2 of each group."""

    def spread(self) -> Floats:
        """mean |y - mean y|^2 of each group."""

    def error(self, weight: Floats, bias: Floats) -> Floats:
        """mean |y - W x - b|^2 of each group."""

    def nearest(self, weight: Floats, bias: Floats, free: Flags, *, biased: bool) -> Nearest:
        """The least squares from these weights on; outputs that are not free keep theirs."""


def evidence(x: NDArray[Any], y: NDArray[Any], *, rows: int) -> Evidence:
    """Nothing yet, for about so many rows that look like these."""
    groups, _, features = x.shape
    return (Samples if rows <= features else Sums)(groups, features, y.shape[2])


class Sums:
    """Of many rows."""

    def __init__(self, groups: int, features: int, outputs: int) -> None:
        self.count = 0
        self.x = np.zeros((groups, features))
        self.y = np.zeros((groups, outputs))
        self.xx = np.zeros((groups, features, features))
        self.yx = np.zeros((groups, outputs, features))
        self.yy = np.zeros((groups, outputs))

    def add(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Some more rows."""
        self.count += x.shape[1]
        step = max(1, BLOCK // (x.shape[0] * x.shape[2]))
        for start in range(0, x.shape[1], step):
            a, b = (each[:, start : start + step].astype(np.float64) for each in (x, y))
            self.x += a.sum(axis=1)
            self.y += b.sum(axis=1)
            self.xx += a.transpose(0, 2, 1) @ a
            self.yx += b.transpose(0, 2, 1) @ a
            self.yy += np.square(b).sum(axis=1)

    def absorb(self, other: Sums) -> None:
        """All rows of the other."""
        self.count += other.count
        for own, more in ((self.x, other.x), (self.y, other.y), (self.yy, other.yy)):
            own += more
        self.xx += other.xx
        self.yx += other.yx

    def power(self) -> Floats:
        """mean |y|^2 of each group."""
        return np.asarray(self.yy.sum(axis=1) / max(self.count, 1))

    def spread(self) -> Floats:
        """mean |y - mean y|^2 of each group."""
        n = max(self.count, 1)
        return np.asarray(np.maximum(self.yy / n - (self.y / n) ** 2, 0.0).sum(axis=1))

    def error(self, weight: Floats, bias: Floats) -> Floats:
        """mean |y - W x - b|^2 of each group."""
        fit = np.einsum("gof,gof->g", weight @ self.xx - 2 * self.yx, weight)
        shift = bias * (2 * np.einsum("gof,gf->go", weight, self.x) - 2 * self.y + self.count * bias)
        return np.asarray((fit + (self.yy + shift).sum(axis=1)) / max(self.count, 1))

    def nearest(self, weight: Floats, bias: Floats, free: Flags, *, biased: bool) -> Nearest:
        """The least squares from these weights on."""
        n = max(self.count, 1)
        x, y = self.x / n, self.y / n
        # covariances where the bias takes up the means, second moments of what the fixed bias leaves else
        off, to = (x, y) if biased else (np.zeros_like(x), np.zeros_like(y))
        system = self.xx / n
        system -= off[:, :, None] * off[:, None, :]
        left = bias if not biased else np.zeros_like(bias)
        wanted = self.yx / n - to[:, :, None] * off[:, None, :] - left[:, :, None] * x[:, None, :]
        wanted -= weight @ system
        wanted[~free] = 0.0
        diagonal = np.einsum("gff->gf", system)
        plain, unit = diagonal.copy(), _unit(diagonal.mean(axis=1))

        def solve(ridge: Floats) -> tuple[Floats, Floats]:
            diagonal[...] = plain + (ridge * unit)[:, None]
            found = weight + np.linalg.solve(system, wanted.transpose(0, 2, 1)).transpose(0, 2, 1)
            return found, y - np.einsum("gof,gf->go", found, x) if biased else bias

        return solve


class Samples:
    """Few rows of many features, as they are."""

    def __init__(self, groups: int, features: int, outputs: int) -> None:
        self.count = 0
        self._x: list[NDArray[Any]] = [np.zeros((groups, 0, features), np.float32)]
        self._y: list[NDArray[Any]] = [np.zeros((groups, 0, outputs), np.float32)]

    def add(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Some more rows."""
        self.count += x.shape[1]
        self._x.append(x)
        self._y.append(y)

    def absorb(self, other: Samples) -> None:
        """All rows of the other."""
        self.count += other.count
        self._x += other._x
        self._y += other._y

    def _all(self) -> tuple[Floats, Floats]:
        x, y = (np.concatenate(each, axis=1, dtype=np.float64) for each in (self._x, self._y))
        return x, y

    def power(self) -> Floats:
        """mean |y|^2 of each group."""
        _, y = self._all()
        return np.asarray(np.square(y).sum(axis=(1, 2)) / max(self.count, 1))

    def spread(self) -> Floats:
        """mean |y - mean y|^2 of each group."""
        _, y = self._all()
        n = max(self.count, 1)
        return np.asarray(np.square(y - y.sum(axis=1, keepdims=True) / n).sum(axis=(1, 2)) / n)

    def error(self, weight: Floats, bias: Floats) -> Floats:
        """mean |y - W x - b|^2 of each group."""
        x, y = self._all()
        gap = y - x @ weight.transpose(0, 2, 1) - bias[:, None, :]
        return np.asarray(np.square(gap).sum(axis=(1, 2)) / max(self.count, 1))

    def nearest(self, weight: Floats, bias: Floats, free: Flags, *, biased: bool) -> Nearest:
        """The least squares from these weights on."""
        n = max(self.count, 1)
        x, y = self._all()
        mean_x, mean_y = x.sum(axis=1) / n, y.sum(axis=1) / n
        gap = y - x @ weight.transpose(0, 2, 1) - bias[:, None, :]
        if biased:
            x -= mean_x[:, None, :]
            gap -= gap.sum(axis=1, keepdims=True) / n
        gap *= free[:, None, :]
        products = x @ x.transpose(0, 2, 1)
        unit = _unit(np.einsum("gnn->g", products) / x.shape[2])
        eye = np.eye(self.count)

        def solve(ridge: Floats) -> tuple[Floats, Floats]:
            system = products + (ridge * unit)[:, None, None] * eye
            found = weight + np.linalg.solve(system, gap).transpose(0, 2, 1) @ x
            return found, mean_y - np.einsum("gof,gf->go", found, mean_x) if biased else bias

        return solve


def _unit(scale: Floats) -> Floats:
    """What a ridge of 1 is; where x is always the same any will do, as nothing can be learned."""
    return np.where(scale > _LEAST, scale, 1.0)


@dataclass(frozen=True, eq=False)
class Solution:
    """What was found for one layer."""

    weight: Floats
    bias: Floats
    before: float
    """The error of the weights as they were, relative to the variance of the wanted outputs, on rows kept apart."""
    after: float
    """Likewise, of the weights that were found; not less than before: they are left as they were."""


def solved(
    fit: Evidence, check: Evidence, weight: Floats, bias: Floats, *, biased: bool, free: Flags | None = None
) -> Solution:
    """The best weights, and the bias where there is one to change; `fit` and `check` are used up."""
    free = np.ones(bias.shape, bool) if free is None else free
    spread = float(check.spread().sum())
    before = check.error(weight, bias)
    best, chosen = before.copy(), np.zeros(len(before))
    searched = before > EXACT * check.power()
    if fit.count and searched.any():
        nearest = fit.nearest(weight, bias, free, biased=biased)
        last = np.full(len(before), np.inf)
        for ridge in RIDGES:
            error = check.error(*nearest(np.full(len(before), ridge)))
            better = searched & (error < best)
            best[better], chosen[better] = error[better], ridge
            # from where it rises on it only goes back to where it was
            searched &= (error <= last) | (chosen == 0)
            last = error
            if not searched.any():
                break
    # wanted outputs that are always the same have no spread
    whole = spread or float(before.sum()) or 1.0
    if chosen.any():
        fit.absorb(check)
        found = fit.nearest(weight, bias, free, biased=biased)(np.where(chosen > 0, chosen, 1.0))
        left = chosen == 0
        weight, bias = np.where(left[:, None, None], weight, found[0]), np.where(left[:, None], bias, found[1])
    return Solution(weight, bias, float(before.sum()) / whole, float(best.sum()) / whole)
