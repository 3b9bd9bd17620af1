"""Latency of each model in each setting: the median as a dot, a whisker from 10 % to 90 %, a dash at 99 %."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.files.drawing import check, save
from onnxprune.machine.providers import short
from onnxprune.timing.sweep import Setting, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check", "figure", "write"]

_WIDE = 20.0
"""Times that differ by more than this factor need a logarithmic axis."""
_GROUP = 0.7
"""Width of what belongs to one setting; the next one is 1 away."""


def write(found: Sweep, path: Path) -> None:
    """Draw into a file, which appears whole or not at all."""
    check(path)
    save(figure(found), path)


def figure(found: Sweep) -> Figure:
    """The drawing itself, without any window."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.name for each in found.settings for row in each.report.rows))
    width = 3 + max(1.2, 0.35 * len(names)) * len(found.settings)
    drawn = Figure(figsize=(min(width, 30), 4), layout="constrained")
    axes = drawn.subplots()
    for index, name in enumerate(names):
        _series(axes, found, name, _GROUP * ((index + 0.5) / len(names) - 0.5))
    axes.set_xticks(range(len(found.settings)), [_label(each.setting) for each in found.settings])
    axes.set_xlim(-0.5, len(found.settings) - 0.5)
    rows = [row for each in found.settings for row in each.report.rows]
    if max(row.p99_ms for row in rows) > _WIDE * min(row.p10_ms for row in rows):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel("latency in ms: median, 10 % to 90 %, 99 %")
    axes.grid(axis="y", alpha=0.3)
    legend = drawn.legend(loc="outside right upper")
    for text in legend.get_texts():
        text.set_parse_math(False)  # a dollar in a file's name is no formula
    return drawn


def _series(axes: Axes, found: Sweep, name: str, shift: float) -> None:
    """One model in one variant, in all the settings in which it was measured."""
    rows = [(at, row) for at, each in enumerate(found.settings) for row in each.report.rows if row.name == name]
    places = [at + shift for at, _ in rows]
    below = [row.median_ms - row.p10_ms for _, row in rows]
    above = [row.p90_ms - row.median_ms for _, row in rows]
    # the blank: a label that begins with an underscore would be hidden
    bars = axes.errorbar(
        places, [row.median_ms for _, row in rows], [below, above], fmt="o", capsize=3, label=f" {name}"
    )
    axes.plot(places, [row.p99_ms for _, row in rows], "_", color=bars.lines[0].get_color())


def _label(setting: Setting) -> str:
    batch = [] if setting.batch is None else [f"batch {setting.batch}"]
    threads = {0: "default threads", 1: "1 thread"}.get(setting.threads, f"{setting.threads} threads")
    return "\n".join([short(setting.provider), *batch, threads])
