"""Tables for notebooks: for each kind of result, a line that sums it up and the rows that people look at first.

Coupling      a row per group            Verification   what was found
Plan          a row per group cut        BenchReport    a row per model
Cost, Model   what there is              Evaluation     a row per figure
Profile       a row per kernel           Sensitivity    a row per group, a column per ratio
Scores        a row per group            Sweep          a row per model and setting
Report        a row per stage of a pipeline
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from html import escape

import numpy as np

from onnxprune.accuracy.curves import Sensitivity
from onnxprune.accuracy.damage import ranked
from onnxprune.accuracy.evaluate import Evaluation
from onnxprune.analysis.coupling import Coupling
from onnxprune.checking.verify import TOLERANCE, Verification
from onnxprune.counting.cost import Cost
from onnxprune.cutting.plan import Plan
from onnxprune.files.model import Model
from onnxprune.pipeline.running import Report
from onnxprune.scoring.scores import Scores
from onnxprune.targets.profile import Profile
from onnxprune.text.figures import bindings, count, milliseconds, noise, percent, plural, size, tally
from onnxprune.text.labels import printable
from onnxprune.timing.bench import BenchReport
from onnxprune.timing.sweep import Sweep

MOST = 20
"""Rows that are shown."""
LONGEST = 80
"""Characters of a cell."""


@dataclass(frozen=True)
class Table:
    """A line about the whole, names of columns, rows."""

    caption: str
    head: tuple[str, ...]
    rows: Sequence[Sequence[str]]


def html(result: object) -> str:
    """The table of a result, escaped."""
    found = table(result)
    head = "".join(f'<th scope="col" style="text-align:left">{_cell(name)}</th>' for name in found.head)
    rows = [
        "<tr>" + "".join(f'<td style="text-align:left">{_cell(text)}</td>' for text in row) + "</tr>"
        for row in found.rows[:MOST]
    ]
    more = len(found.rows) - MOST
    if more > 0:
        rows.append(f'<tr><td colspan="{len(found.head)}" style="text-align:left">and {more:,} more</td></tr>')
    caption = f'<caption style="text-align:left">{_cell(found.caption, 300)}</caption>'
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _cell(text: str, most: int = LONGEST) -> str:
    text = printable(text)
    return escape(text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 :]}")


@singledispatch
def table(result: object) -> Table:
    """What to show of it."""
    raise TypeError(f"there is no table of {type(result).__name__}")


@table.register
def _(found: Coupling) -> Table:
    units = sum(group.size for group in found.groups)
    frozen = sum(item.size for item in found.frozen)
    unknown = tally(found.unknown_ops)
    return Table(
        f"{plural(len(found.groups), 'group')} of coupled channels, {plural(units, 'unit')}; "
        f"{plural(frozen, 'channel')} frozen{f'; without a rule: {unknown}' if unknown else ''}",
        ("group", "units", "members", "operators", ""),
        [
            (g.name, f"{g.size:,}", str(len(g.weights)), ", ".join(g.ops), "inexact" if g.inexact else "")
            for g in found.groups
        ],
    )


@table.register
def _(found: Scores) -> Table:
    rated = [(name, np.asarray(values, float)) for name, values in found.by_group.items() if len(values)]
    compare = "between groups" if found.comparable else "within a group"
    return Table(
        f"scores of {plural(len(rated), 'group')} by {found.criterion}, to be compared {compare}; the lowest go first",
        ("group", "units", "lowest", "median", "highest"),
        [
            (name, f"{len(values):,}", *(f"{of(values):.3g}" for of in (np.min, np.median, np.max)))
            for name, values in rated
        ],
    )


@table.register
def _(found: Plan) -> Table:
    if not found.groups:
        rows = [(cut.group, "", f"{len(cut.index):,} positions") for cut in found.cuts]
        return Table(plural(len(found.cuts), "cut"), ("group", "units", "removed"), rows)
    cut = [group for group in found.groups if group.removed]
    units, removed = (sum(values) for values in zip(*((g.units, g.removed) for g in found.groups), strict=True))
    return Table(
        f"{plural(removed, 'unit')} of {units:,} go, from {len(cut)} of {plural(len(found.groups), 'group')}",
        ("group", "units", "removed", "kept"),
        [(g.name, f"{g.units:,}", f"{g.removed:,}", f"{g.units - g.removed:,}") for g in cut],
    )


@table.register
def _(found: Verification) -> Table:
    verdict = "not comparable" if found.inexact else "passed" if found.ok else "failed"
    rows = [
        ("error against the masked original", _noise(found.error), f"at most {TOLERANCE:g}"),
        ("moved by masking", _noise(found.moved), ""),
        ("deviation from the original", _noise(found.deviation), ""),
        *(("note", note, "") for note in found.notes),
    ]
    return Table(f"verification ({found.mode}): {verdict}", ("", "", ""), [row for row in rows if row[1]])


def _noise(value: float | None) -> str:
    return "" if value is None else noise(value)


@table.register
def _(found: BenchReport) -> Table:
    threads = plural(found.threads, "thread") if found.threads else "default threads"
    sizes = f", {bindings(found.dims)}" if found.dims else ""
    return Table(
        f"{plural(found.rounds, 'round')} on {found.provider}, {threads}{sizes}",
        ("model", "median", "10 % to 90 %", "speed-up", "verdict", "file"),
        [
            (
                row.name,
                milliseconds(row.median_ms),
                f"{milliseconds(row.p10_ms)} to {milliseconds(row.p90_ms)}",
                f"{row.speedup:.2f}",
                row.verdict,
                size(row.file_bytes),
            )
            for row in found.rows
        ],
    )


@table.register
def _(found: Sweep) -> Table:
    return Table(
        f"{plural(len(found.settings), 'setting')}, the models of each measured in turns",
        ("model", "provider", "threads", "sizes", "median", "speed-up", "verdict"),
        [
            (
                row.name,
                each.report.provider,
                str(each.report.threads or "default"),
                bindings(each.report.dims),
                milliseconds(row.median_ms),
                f"{row.speedup:.2f}",
                row.verdict,
            )
            for each in found.settings
            for row in each.report.rows
        ],
    )


@table.register
def _(found: Evaluation) -> Table:
    shares = (("accuracy", found.top1), ("top-5 accuracy", found.top5), ("agreement", found.agreement))
    numbers = (("deviation", found.deviation), ("cosine", found.cosine), ("SQNR in dB", found.sqnr_db))
    rows = [(name, percent(value)) for name, value in shares if value is not None]
    rows += [(name, f"{value:.4g}") for name, value in (*numbers, ("metric", found.metric)) if value is not None]
    rows += [("note", note) for note in found.notes]
    return Table(f"on {plural(found.samples, 'sample')}", ("", ""), rows)


@table.register
def _(found: Cost) -> Table:
    rows = [("parameters", count(found.params)), ("MACs", count(found.macs)), ("weights", size(found.bytes))]
    rows += [("nodes not counted", f"{len(found.unknown):,}")] if found.unknown else []
    rows += [("parameters in bodies, not counted", count(found.inside))] if found.inside else []
    return Table(f"one run at {bindings(found.dims)}" if found.dims else "one run", ("", ""), rows)


@table.register
def _(found: Model) -> Table:
    ends = [("input", item.name) for item in found.graph.input] + [("output", item.name) for item in found.graph.output]
    return Table(
        f"{found.path.name if found.path else 'model'}: {plural(len(found.graph.node), 'node')}, "
        f"{plural(len(found.weights), 'weight')} in {size(found.nbytes)}, opset {found.opset}",
        ("", "name"),
        ends,
    )


@table.register
def _(found: Profile) -> Table:
    slowest = sorted(found.kernels, key=lambda kernel: -kernel.microseconds)
    return Table(
        f"{milliseconds(found.milliseconds)} a run; the slowest of {plural(len(slowest), 'kernel')}",
        ("kernel", "operator", "time", "MACs", "groups"),
        [(k.name, k.op, milliseconds(k.microseconds / 1000), count(k.macs), ", ".join(k.groups)) for k in slowest],
    )


@table.register
def _(found: Report) -> Table:
    rows = []
    for stage in found.stages:
        figures, seconds = stage.figures, f"{stage.seconds:.1f} s"
        if figures is None:
            rows.append((stage.name, "", "", "", "", seconds))
            continue
        speed = "" if figures.speedup is None else f"{figures.speedup:.2f}"
        top1 = figures.evaluation.top1 if figures.evaluation else None
        accuracy = "" if top1 is None else percent(top1)
        rows.append((stage.name, count(figures.params), count(figures.macs), speed, accuracy, seconds))
    over = "" if found.done else ", not over"
    return Table(
        f"{found.name}: {plural(len(found.stages), 'stage')} in {found.seconds:.1f} s{over}",
        ("stage", "params", "MACs", "speed-up", "accuracy", "time"),
        rows,
    )


@table.register
def _(found: Sensitivity) -> Table:
    ratios = sorted({point.ratio for curve in found.curves for point in curve.points})
    rows = []
    for curve in ranked(found):
        lost = {point.ratio: found.lost(point.figures) for point in curve.points}
        rows.append((curve.group, f"{curve.units:,}", *(f"{lost[r]:.3g}" if r in lost else "" for r in ratios)))
    return Table(
        f"{found.measure} lost when that share of a group is cut, on {found.spec}; the most sensitive first",
        ("group", "units", *(percent(ratio) for ratio in ratios)),
        rows,
    )
