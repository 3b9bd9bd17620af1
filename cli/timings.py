"""What `bench` prints: for each setting the times, the comparison with the first model, and what it allows to say."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.cli.tables import Column, Grid, Part
from onnxprune.machine.providers import short
from onnxprune.text.figures import bindings, count, milliseconds, plural, size
from onnxprune.timing.bench import BenchReport, BenchRow
from onnxprune.timing.rounds import MIN_ROUNDS
from onnxprune.timing.sweep import Measured, Sweep


def parts(found: Sweep, advice: str, *, verbose: bool) -> list[Part]:
    """All settings; `advice` is how to measure longer."""
    several = len(found.settings) > 1
    shown: list[Part] = []
    for index, each in enumerate(found.settings):
        if several:
            shown += [*([""] if index else []), how(each.report), ""]
        shown += _setting(each, advice)
        if not several:
            shown += ["", how(each.report)]
        if verbose:
            shown += _details(each.report)
    notes = [f"{short(name)} is installed but does not start on this machine: left out." for name in found.left_out]
    return [*shown, *([""] if notes else []), *notes]


def how(report: BenchReport) -> str:
    """`120 rounds in turn, 1 thread, CPU, onnxruntime 1.31.1, batch=8.`"""
    threads = plural(report.threads, "thread") if report.threads else "as many threads as onnxruntime likes"
    where = f"{threads}, {short(report.provider)}, onnxruntime {report.onnxruntime}"
    at = f", {bindings(report.dims)}" if report.dims else ""
    return f"{plural(report.rounds, 'round')} in turn, {where}{at}."


def _setting(found: Measured, advice: str) -> list[Part]:
    report = found.report
    first, *others = report.rows
    shown: list[Part] = [_times(found)]
    if others:
        columns = [Column(f"Against {first.name}", name=True), Column("Speed-up"), Column("95% interval")]
        rows = [[row.name, f"{row.speedup:.2f}x", _interval(row), row.verdict] for row in others]
        shown += ["", Grid([*columns, Column("Verdict", name=True)], rows)]
    unsure = [row.name for row in others if row.verdict == "too noisy to tell"]
    said = [f"{each.name} is not measured: {each.reason.rstrip('.')}." for each in found.refused]
    if unsure and report.rounds < MIN_ROUNDS:
        said.append(f"{plural(report.rounds, 'round')} tell nothing: it takes {MIN_ROUNDS} for a 95% interval.")
    elif unsure:
        said.append(
            f"The machine was too noisy to tell whether {_listed(unsure)} faster or slower than {first.name}: measure "
            f"longer ({advice}), with nothing else running."
        )
    drifted = [row.name for row in others if _drifted(first, row)]
    if drifted:
        said.append(
            f"The machine's speed changed on the way, so that the medians do not fit the speed-up of "
            f"{', '.join(drifted)}: the speed-up, which compares within each round, is what counts."
        )
    return [*shown, *([""] if said else []), *said]


def _drifted(first: BenchRow, row: BenchRow) -> bool:
    """Whether the quotient of the medians lies outside of what the rounds say."""
    return not row.speedup_low <= first.median_ms / row.median_ms <= row.speedup_high


def _times(found: Measured) -> Grid:
    rows = found.report.rows
    memory = any(row.peak_memory for row in rows)
    titles = ["Median", "10%", "90%", "99%", "Samples/s", "Params", "File", *(["Memory"] if memory else [])]
    cells = [
        [
            row.name,
            milliseconds(row.median_ms),
            *(milliseconds(value).removesuffix(" ms") for value in (row.p10_ms, row.p90_ms, row.p99_ms)),
            count(row.throughput) if row.throughput >= 100 else f"{row.throughput:.3g}",
            count(row.params),
            size(row.file_bytes),
            *([size(row.peak_memory or 0)] if memory else []),
        ]
        for row in rows
    ]
    cells += [[each.name, *["-"] * len(titles)] for each in found.refused]
    return Grid([Column("Model", name=True), *map(Column, titles)], cells)


def _interval(row: BenchRow) -> str:
    return "none" if row.speedup_low == 0 else f"{row.speedup_low:.2f}x to {row.speedup_high:.2f}x"


def _listed(names: Sequence[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are"


def _details(report: BenchReport) -> list[Part]:
    said: list[Part] = []
    for row in report.rows:
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in row.inputs.items())
        said.append(f"{row.name}: speed-up {row.speedup_p10:.2f}x to {row.speedup_p90:.2f}x; inputs {shapes}")
    return said
