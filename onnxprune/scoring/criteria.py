"""A criterion is a pure function from rows to scores: rows[u] holds the weights of unit u, scores[u] its worth.

    rows (units, features)  ->  scores (units,)          the lowest scores are cut first

The weights come as they are, with their signs. Walking slots, reducing over members and normalising happen in `scores`;
a criterion knows nothing of graphs. A new one is a decorated function, also from outside the package:

    from onnxprune import criterion

    @criterion("peak", roles=("out",), rowwise=True)
    def peak(rows):
        return abs(rows).max(axis=1)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from onnxprune.errors import UserError
from onnxprune.text.names import suggest

Rows = npt.NDArray[Any]
UnitScores = npt.NDArray[np.float64]
F = TypeVar("F", bound=Callable[..., npt.NDArray[Any]])


@dataclass(frozen=True)
class Criterion:
    """A registered criterion and what it declares about itself."""

    name: str
    """What the user types."""
    function: Callable[..., npt.NDArray[Any]]
    """rows -> scores; with `seeded`, (rows, generator) -> scores."""
    roles: tuple[str, ...]
    """Roles of the weight slots it reads. Empty: it reads none and is called once per group, with rows (units, 0)."""
    ops: tuple[str, ...] | None
    """Only weights that reach one of these op types; None: any."""
    rowwise: bool
    """A promise that each score depends on its own row alone, so that big tensors may come in blocks of rows."""
    seeded: bool
    """Its second argument is a random generator, seeded per group."""
    hint: str
    """What to do about a model in which no group holds what it reads."""

    @property
    def formula(self) -> str:
        """The docstring: the formula and its source."""
        return inspect.getdoc(self.function) or ""


ROLES = ("out", "in", "scale", "shift", "keep")
"""What a weight may do with a channel, see `Slot`."""

CRITERIA: dict[str, Criterion] = {}


def criterion(
    name: str,
    *,
    roles: tuple[str, ...],
    ops: tuple[str, ...] | None = None,
    rowwise: bool = False,
    seeded: bool = False,
    hint: str = "",
) -> Callable[[F], F]:
    """Register the decorated function under `name`; see `Criterion` for what the options promise."""
    if name in CRITERIA:
        raise ValueError(f"criterion {name!r} is registered already")
    for role in roles:
        if role not in ROLES:
            raise ValueError(f"criterion {name!r} cannot read {role!r}: the roles are {', '.join(ROLES)}")

    def register(function: F) -> F:
        CRITERIA[name] = Criterion(name, function, roles, ops, rowwise, seeded, hint)
        return function

    return register


def find(name: str) -> Criterion:
    """The criterion of that name; an unknown one is the user's error."""
    if name in CRITERIA:
        return CRITERIA[name]
    raise UserError(
        f"unknown criterion {name!r}{suggest(str(name), CRITERIA)} (there are: {', '.join(sorted(CRITERIA))})"
    )


@criterion("l1", roles=("out", "in"), rowwise=True)
def l1(rows: Rows) -> UnitScores:
    """sum |w|. Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017."""
    scores: UnitScores = np.abs(rows).sum(axis=1, dtype=np.float64)
    return scores


@criterion("l2", roles=("out", "in"), rowwise=True)
def l2(rows: Rows) -> UnitScores:
    """sqrt(sum w^2), the Euclidean sibling of l1. Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017."""
    squares: UnitScores = np.einsum("uf,uf->u", rows, rows, dtype=np.float64)
    return np.sqrt(squares)


@criterion("fpgm", roles=("out",))
def fpgm(rows: Rows) -> UnitScores:
    """sum over the other units v of ||w_u - w_v||: low for what lies near the geometric median, hence replaceable.

    He et al., Filter Pruning via Geometric Median, CVPR 2019. w and -w are far apart.
    """
    # ||u - v||^2 = u.u + v.v - 2 u.v, tile by tile in float64: memory is three tiles however many units or features,
    # and float32 would lose near neighbours to cancellation.
    units = len(rows)
    squares = np.einsum("uf,uf->u", rows, rows, dtype=np.float64)
    scores = np.zeros(units)
    for a in range(0, units, TILE):
        for b in range(a, units, TILE):
            upper, left = slice(a, min(a + TILE, units)), slice(b, min(b + TILE, units))
            tile = _gram(rows[upper], rows[left])
            tile *= -2.0
            tile += squares[upper, None]
            tile += squares[left]
            np.sqrt(np.maximum(tile, 0.0, out=tile), out=tile)
            if a == b:
                np.fill_diagonal(tile, 0.0)  # rounding would leave 1e-8 of the norm there, and rank by norm
            scores[upper] += tile.sum(axis=1)
            if a != b:
                scores[left] += tile.sum(axis=0)
    return scores


TILE = 1024
"""Units per side of a tile, and features per step of its sum."""


def _gram(x: Rows, y: Rows) -> npt.NDArray[np.float64]:
    """x @ y.T in float64, summed over blocks of features so that no operand is ever converted whole."""
    total = np.zeros((len(x), len(y)))
    for start in range(0, x.shape[1], TILE):
        block = x[:, start : start + TILE].astype(np.float64)
        other = block if y is x else y[:, start : start + TILE].astype(np.float64)
        total += block @ other.T
    return total


@criterion(
    "bn_scale",
    roles=("scale",),
    ops=("BatchNormalization",),
    rowwise=True,
    hint="exporters fold BatchNormalization into Conv; keep it with torch.onnx.export(model.eval(), ..., dynamo=False, "
    "training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False), or with dynamo=True, optimize=False "
    "followed by onnxscript.optimizer.fold_constants",
)
def bn_scale(rows: Rows) -> UnitScores:
    """|gamma| of BatchNormalization.

    Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017.
    """
    scores: UnitScores = np.abs(rows).sum(axis=1, dtype=np.float64)
    return scores


@criterion("random", roles=(), seeded=True)
def random(rows: Rows, generator: np.random.Generator) -> UnitScores:
    """Uniform in [0, 1), the same for the same seed and group name, whatever else the model holds: the baseline."""
    return generator.random(len(rows))
