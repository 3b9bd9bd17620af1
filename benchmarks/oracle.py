"""Masked equivalence over many files: each pruned model must equal its original with the cut slices set to zero.

Each row is one model x criterion x ratio x scope: what is kept, the relative error between pruned and masked model,
and how far the masking itself moved the output (`moved`: without it a small error would prove nothing).

    python benchmarks/zoo.py models
    python benchmarks/oracle.py models/legacy models/dynamo --json oracle.json [--csv oracle.csv]

With --json the rows are written after each model, and models that are there already are not run again. The exit
status is 1 if any row failed.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import child

CRITERIA = ("l1", "l2", "fpgm", "bn_scale", "random")
RATIOS = (0.3, 0.5)
SCOPES = ("local", "global")


@dataclass(frozen=True)
class Row:
    """One line of the table; numbers are missing where there is a note."""

    model: str
    exporter: str
    """The folder's name: zoo.py writes one folder for each."""
    criterion: str
    ratio: float
    scope: str
    macs_kept: float | None = None
    params_kept: float | None = None
    error: float | None = None
    moved: float | None = None
    seconds: float | None = None
    """Score, select, apply and verify; the analysis is done once for all rows of a model."""
    analysis_seconds: float | None = None
    ok: bool = False
    note: str = ""


def rows(path: Path, criteria: list[str], ratios: list[float], scopes: list[str]) -> Iterator[Row]:
    """Run every combination on one file."""
    import onnxprune

    start = time.perf_counter()
    model = onnxprune.load(path)
    coupling = onnxprune.analyze(model)
    analysis_seconds = time.perf_counter() - start
    before = onnxprune.cost(model)
    for criterion, ratio, scope in itertools.product(criteria, ratios, scopes):
        start = time.perf_counter()
        try:
            scores = onnxprune.score(model, coupling, criterion)
            plan = onnxprune.select(coupling, scores, ratio=ratio, scope=scope)
            pruned = onnxprune.apply(model, plan)
            verification = onnxprune.verify(model, pruned, plan)
        except onnxprune.UserError as error:
            # Network slimming needs the scales of BatchNormalization; where there is none, saying so is the right
            # answer.
            expected = criterion == "bn_scale" and "BatchNormalization" in str(error)
            note = "no BN" if expected else " ".join(f"{type(error).__name__}: {error}".split())
            yield Row(path.stem, path.parent.name, criterion, ratio, scope, ok=expected, note=note)
            continue
        seconds = time.perf_counter() - start
        after = onnxprune.cost(pruned)
        yield Row(
            path.stem,
            path.parent.name,
            criterion,
            ratio,
            scope,
            macs_kept=after.macs / before.macs,
            params_kept=after.params / before.params,
            error=verification.error,
            moved=verification.moved,
            seconds=seconds,
            analysis_seconds=analysis_seconds,
            ok=verification.ok,
            note="; ".join(verification.notes),
        )


HEADER = (
    f"{'model':30s} {'exporter':10s} {'criterion':9s} {'ratio':>5s} {'scope':6s} "
    f"{'MACs':>6s} {'params':>6s} {'error':>8s} {'moved':>8s} {'seconds':>7s}"
)


def line(row: Row) -> str:
    """One row of the table; a failed one is marked at its end."""
    said = f"{row.model:30s} {row.exporter:10s} {row.criterion:9s} {row.ratio:5.2f} {row.scope:6s} "
    if row.error is None or row.macs_kept is None or row.params_kept is None:
        said += row.note
    else:
        said += f"{100 * row.macs_kept:4.0f} % {100 * row.params_kept:4.0f} % "
        said += f"{row.error:8.1e} {row.moved:8.1e} {row.seconds:7.2f}"
    return said if row.ok else f"{said}  FAILED {row.note if row.error is not None else ''}".rstrip()


def run_file(path: Path, options: argparse.Namespace) -> list[Row]:
    """All rows of one file, computed in a process of its own."""
    command = [sys.executable, __file__, str(path), "--one", "--criteria", options.criteria]
    command += ["--ratios", options.ratios, "--scopes", options.scopes]
    done = child.run(command, memory_gib=options.memory, timeout=options.timeout)
    found = [Row(**json.loads(text)) for text in done.stdout.splitlines() if text.startswith("{")]
    if done.status:
        found.append(Row(path.stem, path.parent.name, "-", 0.0, "-", note=done.failure))
    return found


def read(path: Path | None) -> list[Row]:
    """The rows of an earlier run."""
    if path is None or not path.exists():
        return []
    return [Row(**entry) for entry in json.loads(path.read_text())]


def write(found: list[Row], json_path: Path | None, csv_path: Path | None) -> None:
    """Replace both files; an interrupted run leaves the earlier ones."""
    if json_path:
        partial = json_path.with_name(f".{json_path.name}.partial")
        partial.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")
        partial.replace(json_path)
    if csv_path:
        with csv_path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in found)


def summary(found: list[Row]) -> str:
    """What all rows together say."""
    measured = [row for row in found if row.error is not None]
    failed = sum(not row.ok for row in found)
    said = f"{len(found)} rows, {len({(row.model, row.exporter) for row in found})} files, {failed} failed"
    if measured:
        worst = max(measured, key=lambda row: row.error or 0.0)
        least = min(measured, key=lambda row: row.moved or 0.0)
        said += f"; largest error {worst.error:.1e} ({label(worst)}); least moved {least.moved:.1e} ({label(least)})"
    return said


def label(row: Row) -> str:
    """Which row it is."""
    return f"{row.exporter}/{row.model}, {row.criterion} {row.ratio} {row.scope}"


def main() -> int:
    """Run what has not been run yet, one file after the other."""
    parser = argparse.ArgumentParser(description="Masked equivalence over many files.")
    parser.add_argument("paths", type=Path, nargs="+", help=".onnx files, or folders of them")
    parser.add_argument("--criteria", default=",".join(CRITERIA))
    parser.add_argument("--ratios", default=",".join(map(str, RATIOS)))
    parser.add_argument("--scopes", default=",".join(SCOPES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows there, and continue from there")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument(
        "--memory", type=float, default=12.0, metavar="GIB", help="address space for each model (default 12)"
    )
    parser.add_argument("--timeout", type=float, default=1800.0, metavar="S", help="for each model (default 1800)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        criteria, scopes = options.criteria.split(","), options.scopes.split(",")
        for row in rows(options.paths[0], criteria, [float(ratio) for ratio in options.ratios.split(",")], scopes):
            print(json.dumps(asdict(row)), flush=True)
        return 0
    files = [file for path in options.paths for file in (sorted(path.glob("*.onnx")) if path.is_dir() else [path])]
    if not files:
        parser.error("no .onnx files there")
    wanted = set(
        itertools.product(options.criteria.split(","), map(float, options.ratios.split(",")), options.scopes.split(","))
    )
    found = read(options.json)
    print(HEADER)
    for file in files:
        file = file.resolve()
        old = [row for row in found if (row.model, row.exporter) == (file.stem, file.parent.name)]
        if wanted <= {(row.criterion, row.ratio, row.scope) for row in old}:
            continue
        found = [row for row in found if row not in old]
        new = run_file(file, options)
        found += new
        print("\n".join(line(row) for row in new), flush=True)
        write(found, options.json, options.csv)
    print(summary(found))
    return int(any(not row.ok for row in found))


if __name__ == "__main__":
    sys.exit(main())
