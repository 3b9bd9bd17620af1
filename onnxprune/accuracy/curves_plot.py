"""What each group costs as more of it is cut: a curve per group, the most sensitive ones in colour and by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.accuracy.curves import Sensitivity
from onnxprune.accuracy.damage import ranked
from onnxprune.files.drawing import check, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 10
"""Curves with a colour of their own; more of them could not be told apart."""
_AXES = {
    "accuracy": ("accuracy lost, in points", 100.0),
    "agreement": ("samples judged otherwise than by the original, in %", 100.0),
    "deviation": ("relative distance of the outputs", 1.0),
}


def write(found: Sensitivity, path: Path) -> None:
    """Draw into a file, which appears whole or not at all."""
    check(path)
    save(figure(found), path)


def figure(found: Sensitivity) -> Figure:
    """The drawing itself, without any window."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 4.5), layout="constrained")
    axes = drawn.subplots()
    label, scale = _AXES[found.measure]
    for place, curve in enumerate(ranked(found)):
        shares = [0.0, *(100 * point.removed / curve.units for point in curve.points)]
        values = [0.0, *(scale * found.lost(point.figures) for point in curve.points)]
        if place < NAMED:
            # the blank: a label that begins with an underscore would be hidden
            axes.plot(shares, values, marker="o", markersize=4, label=f" {curve.group}", zorder=NAMED + 2 - place)
        else:
            axes.plot(shares, values, color="0.75", linewidth=1, zorder=1)
    axes.set_xlabel("units of the group that are cut, in %")
    axes.set_ylabel(label)
    axes.set_xlim(0, 100)
    axes.grid(alpha=0.3)
    if found.curves:
        for text in drawn.legend(loc="outside right upper").get_texts():
            text.set_parse_math(False)  # a dollar in a name is no formula
    return drawn
