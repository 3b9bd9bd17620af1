"""The weights with which a layer comes closest to wanted outputs, from sums over rows.

    minimise  mean |y - W x - b|^2 + r |W - W0|^2        W = (C + r W0) (G + r)^-1

G is the covariance of the rows x, C that of y and x, W0 the weights as they are; the mean goes into b where there is a
bias. The ridge r is measured in units of G's mean diagonal. It is not a matter of taste: a quarter of the samples is
kept apart, and of a few strengths, or of leaving everything as it is, the one with the least error there is taken; then
the system is solved once more with all rows. So a layer never gets worse on what it was not fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Sums:
    """Of rows x and wanted outputs y, per group: (groups, rows, features) and (groups, rows, outputs)."""

    def __init__(self, groups: int, features: int, outputs: int) -> None:
        self.count = 0
        self.x = np.zeros((groups, features))
        self.y = np.zeros((groups, outputs))
        self.xx = np.zeros((groups, features, features))
        self.yx = np.zeros((groups, outputs, features))
        self.yy = np.zeros((groups, outputs))

    def add(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Some more rows; products in float32, sums in float64."""
        self.count += x.shape[1]
        self.x += x.sum(axis=1, dtype=np.float64)
        self.y += y.sum(axis=1, dtype=np.float64)
        turned = x.transpose(0, 2, 1)
        self.xx += turned @ x
        self.yx += y.transpose(0, 2, 1) @ x
        self.yy += np.square(y, dtype=np.float64).sum(axis=1)

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        groups, outputs, features = self.yx.shape
        both = Sums(groups, features, outputs)
        both.count = self.count + other.count
        for name in ("x", "y", "xx", "yx", "yy"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def error(self, weight: Floats, bias: Floats) -> float:
        """mean |y - W x - b|^2, summed over groups and outputs."""
        n = max(self.count, 1)
        fit = np.einsum("gof,gof->go", weight @ self.xx, weight) - 2 * np.einsum("gof,gof->go", weight, self.yx)
        shift = 2 * bias * (np.einsum("gof,gf->go", weight, self.x) - self.y) + n * bias**2
        return float((self.yy + fit + shift).sum() / n)

    @property
    def power(self) -> float:
        """mean |y - mean y|^2."""
        n = max(self.count, 1)
        return float((self.yy / n - (self.y / n) ** 2).sum())


@dataclass(frozen=True, eq=False)
class Solution:
    """What was found for one layer."""

    weight: Floats
    bias: Floats
    before: float
    """The error of the weights as they were, relative to the power of the wanted outputs, on rows kept apart."""
    after: float
    """Likewise, of the weights that were found."""


def solved(fit: Sums, check: Sums, weight: Floats, bias: Floats, *, biased: bool) -> Solution:
    """The best weights, and the bias where there is one to change."""
    power = max(check.power, 1e-30)
    as_it_was = check.error(weight, bias)
    best, how = as_it_was, 0.0
    for ridge in RIDGES:
        error = check.error(*_ridge(fit, weight, bias, ridge, biased=biased))
        if np.isfinite(error) and error < best:
            best, how = error, ridge
    if not how:
        return Solution(weight, bias, as_it_was / power, as_it_was / power)
    found = _ridge(fit.plus(check), weight, bias, how, biased=biased)
    return Solution(*found, as_it_was / power, best / power)


def _ridge(sums: Sums, weight: Floats, bias: Floats, ridge: float, *, biased: bool) -> tuple[Floats, Floats]:
    n = max(sums.count, 1)
    x, y, xx, yx = sums.x / n, sums.y / n, sums.xx / n, sums.yx / n
    if biased:
        xx = xx - x[:, :, None] * x[:, None, :]
        yx = yx - y[:, :, None] * x[:, None, :]
    else:
        yx = yx - bias[:, :, None] * x[:, None, :]
    diagonal = np.einsum("gff->gf", xx)
    strength = ridge * diagonal.mean(axis=1) + 1e-12 * diagonal.max(initial=0.0) + 1e-30
    system = xx + strength[:, None, None] * np.eye(xx.shape[1])
    wanted = yx + strength[:, None, None] * weight
    found = np.linalg.solve(system, wanted.transpose(0, 2, 1)).transpose(0, 2, 1)
    return found, (y - np.einsum("gof,gf->go", found, x)) if biased else bias
