"""Scores that compare across groups, made of measured damage.

The criterion ranks the units of a group; a measured curve says what the first k of that ranking cost together. The k-th
unit gets what the curve rises by between k - 1 and k:

    damage  |              o          measured at k = 4, 8, 12 (·); 0 at 0; straight in between; beyond, all is lost
            |            ·            with the last unit (o), unless it is as steep already: what nobody measured is
            |        ·                not taken for harmless
            |    ·
            +----------------- k

A curve is made convex first (slopes that fall are averaged with those before, by pool adjacent violators), so that the
ranking stays: no unit is cheaper than one that goes before it. Damage is the accuracy lost, else the share of samples
judged otherwise, else the distance of the outputs; a little of the distance is added to the first two, for where they
do not move. A group that was not measured is taken for the median of those that were: at the same share of its units,
the median of their rises.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from onnxprune.accuracy.curves import Curve, Sensitivity
from onnxprune.accuracy.evaluate import Evaluation
from onnxprune.errors import OtherRun
from onnxprune.scoring.criteria import UnitScores
from onnxprune.scoring.scores import Scores

Rises = NDArray[np.float64]

TIE = 1e-4
"""How much a distance as large as the outputs themselves counts, beside accuracy or agreement: half of this."""
FAR = 1e9
"""A distance that is infinite, of an original whose outputs are all zero."""


def rescored(scores: Scores, found: Sensitivity) -> Scores:
    """The same ranking within each group; between groups, measured damage decides."""
    if scores.criterion != found.criterion:
        raise OtherRun(
            f"the sensitivity was measured with criterion {found.criterion!r}, and units are ranked by "
            f"{scores.criterion!r}: use the same for both"
        )
    measured: dict[str, Rises] = {}
    for curve in found.curves:
        if curve.group in scores.by_group and curve.points:
            units = len(scores.by_group[curve.group])
            if units != curve.units:
                raise OtherRun(
                    f"the sensitivity was measured on another model, or with other options of analysis: group "
                    f"{curve.group!r} had {curve.units} units and has {units}"
                )
            measured[curve.group] = rises(found, curve)
    if not measured:
        raise OtherRun("the sensitivity was measured on other groups than those of this model")
    by_group = {
        name: _placed(own, measured[name] if name in measured else _typical(list(measured.values()), len(own)))
        for name, own in scores.by_group.items()
    }
    return replace(scores, by_group=MappingProxyType(by_group))


def damage(found: Sensitivity, figures: Evaluation) -> float:
    """What a measurement counts as."""
    lost = max(0.0, found.lost(figures))
    if found.measure == "deviation":
        return min(lost, FAR)
    distance = math.inf if figures.deviation is None else figures.deviation
    return lost + TIE * (1 - 1 / (1 + distance))


def ranked(found: Sensitivity) -> list[Curve]:
    """The most sensitive group first: the one that costs most for each of its units, as far as it was measured."""
    return sorted(found.curves, key=lambda curve: -curve.units * float(_measured(found, curve).mean()))


def rises(found: Sensitivity, curve: Curve) -> Rises:
    """What each unit costs, in the order in which they go."""
    known = _measured(found, curve)
    beyond = curve.units - len(known)
    if not beyond:
        return known
    steep = max(float(known[-1]), (_worst(found) - float(known.sum())) / beyond)
    return np.concatenate([known, np.full(beyond, steep)])


def _measured(found: Sensitivity, curve: Curve) -> Rises:
    """The rises up to the last point."""
    knots = {0: 0.0} | {point.removed: damage(found, point.figures) for point in curve.points}
    ks = np.array(sorted(knots))
    widths = np.diff(ks)
    return np.repeat(_convex(np.diff([knots[k] for k in ks.tolist()]) / widths, widths), widths)


def _worst(found: Sensitivity) -> float:
    """What it counts as if nothing is left of the model: no hit, no agreement, a distance as large as the outputs."""
    return (found.baseline.top1 or 0.0) if found.measure == "accuracy" else 1.0


def _convex(slopes: Rises, widths: NDArray[np.int64]) -> Rises:
    """The nearest slopes that never fall: neighbours that do are replaced by their weighted mean."""
    pools: list[tuple[float, int, int]] = []
    for slope, width in zip(slopes.tolist(), widths.tolist(), strict=True):
        pools.append((slope, width, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, m, i), (b, n, j) = pools[-2:]
            pools[-2:] = [((a * m + b * n) / (m + n), m + n, i + j)]
    return np.repeat([slope for slope, _, _ in pools], [count for _, _, count in pools])


def _placed(own: UnitScores, rise: Rises) -> UnitScores:
    """The rises in the order of the criterion's ranking; equal ones a hair apart, lest ties be broken another way."""
    rising = np.empty(len(own))
    last = -np.inf
    for k, value in enumerate(rise.tolist()):
        last = max(value, np.nextafter(last, np.inf)) if k else value
        rising[k] = last
    placed = np.empty(len(own))
    placed[np.argsort(own, kind="stable")] = rising
    placed.flags.writeable = False
    return placed


def _typical(every: list[Rises], units: int) -> Rises:
    """The median of the measured groups, at the same share of their units."""
    shares = (np.arange(units) + 0.5) / units
    found: Rises = np.median([rise[(shares * len(rise)).astype(int)] for rise in every], axis=0)
    return found
