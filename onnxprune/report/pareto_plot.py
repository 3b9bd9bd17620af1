"""Quality against cost: a dot per model, a square per original, and a line through those that none beats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.files.drawing import check, save
from onnxprune.report.pareto import LABELS, Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check", "figure", "write"]


def write(found: Comparison, path: Path) -> None:
    """Draw into a file, which appears whole or not at all."""
    check(path)
    save(figure(found), path)


def figure(found: Comparison) -> Figure:
    """The drawing itself, without any window."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 5), layout="constrained")
    axes = drawn.subplots()
    runs = list(dict.fromkeys(found.points[at].run for at in found.drawn))
    for run in runs:
        for original, marker in ((True, "s"), (False, "o")):
            places = [
                found.at(at)
                for at in found.drawn
                if found.points[at].run == run and found.points[at].original == original
            ]
            # the blank: a label that begins with an underscore would be hidden
            label = f" {run}" + (", original" if original else "")
            if places:
                axes.plot(*zip(*places, strict=True), marker, color=f"C{runs.index(run) % 10}", label=label)
    line = sorted(found.at(at) for at in found.front)
    if len(line) > 1:
        axes.plot(*zip(*line, strict=True), "-", color="0.6", zorder=1, label=" not beaten in both")
    axes.set_xlabel(LABELS[found.x])
    axes.set_ylabel(LABELS[found.y])
    axes.grid(alpha=0.3)
    for text in drawn.legend(loc="outside right upper").get_texts():
        text.set_parse_math(False)  # a dollar in a name is no formula
    return drawn
