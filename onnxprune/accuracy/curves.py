"""What cutting each group alone, at several ratios, did on data: the curves that `sensitivity` measures.

    group          25%    50%    75%      accuracy that is lost, or samples that are judged otherwise than by the
    stem.0          0.2    3.4   31.0      original, or the distance of the outputs; see `evaluate`
    stage1.conv    0.0    0.0    1.2

Within a group the criterion says which units go first; how groups compare is what was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxprune.accuracy.evaluate import Evaluation
from onnxprune.text.shown import Shown


@dataclass(frozen=True)
class Point:
    """One group cut to one width."""

    ratio: float
    """Of the group's units, as it was asked for."""
    removed: int
    """Units that this is."""
    figures: Evaluation
    """Of the model without them, compared with the original."""


@dataclass(frozen=True)
class Curve:
    """One group at rising ratios."""

    group: str
    units: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Sensitivity(Shown):
    """What was measured, and on what."""

    model: str
    """The fingerprint of the model's weights."""
    criterion: str
    """By which units go first within a group, with its three options."""
    seed: int
    reduce: str
    normalize: str
    data: str
    """The digest of the data."""
    spec: str
    """Where the data was, for people."""
    baseline: Evaluation
    """Of the original."""
    curves: tuple[Curve, ...]
    """In the order of the groups."""

    @property
    def measure(self) -> str:
        """What counts as damage: `accuracy`, else `agreement`, else `deviation`."""
        if self.baseline.top1 is not None:
            return "accuracy"
        agreed = any(point.figures.agreement is not None for curve in self.curves for point in curve.points)
        return "agreement" if agreed else "deviation"

    def lost(self, figures: Evaluation) -> float:
        """That much of what counts: the accuracy lost, the share judged otherwise, or the distance."""
        if self.measure == "accuracy":
            return (self.baseline.top1 or 0.0) - (figures.top1 or 0.0)
        if self.measure == "agreement":
            return 1.0 - (figures.agreement or 0.0)
        return math.inf if figures.deviation is None else figures.deviation
