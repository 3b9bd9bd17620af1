"""The page of `compare`: a plot of quality against cost, and every figure in a table."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence

from onnxprune.report import charts
from onnxprune.report.gather import versions
from onnxprune.report.pareto import LABELS, Comparison
from onnxprune.report.render import rendered
from onnxprune.report.runs import FIGURES
from onnxprune.text.figures import count, milliseconds, noise, percent, size

_SHOWN: Mapping[str, Callable[[float], str]] = {
    "params": count,
    "macs": count,
    "bytes": size,
    "latency": milliseconds,
    "speedup": lambda value: f"{value:.2f}\N{MULTIPLICATION SIGN}",
    "accuracy": percent,
    "agreement": percent,
    "metric": lambda value: f"{value:.4g}",
    "deviation": noise,
}
_HEADS = {"macs": "MACs", "params": "parameters", "speedup": "speed-up"}


def page(found: Comparison, typed: Sequence[str] = ()) -> str:
    """The whole file. `typed`: the command's arguments."""
    names = [name for name in FIGURES if any(name in point.figures for point in found.points)]
    rows = [
        (
            point,
            at in found.front,
            [_SHOWN[name](point.figures[name]) if name in point.figures else "" for name in names],
        )
        for at, point in enumerate(found.points)
    ]
    return rendered(
        "compare.html.j2",
        found=found,
        chart=charts.pareto(found),
        heads=[_HEADS.get(name, name) for name in names],
        rows=rows,
        runs=list(dict.fromkeys(point.run for point in found.points)),
        labels=LABELS,
        command=shlex.join(["onnxprune", *typed]) if typed else "",
        versions=versions(),
    )
