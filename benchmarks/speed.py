"""What budgets give on the clock: pruned networks against their originals, interleaved, as `onnxprune` makes them.

Two questions. After `--target macs=0.5`, how much of the ideal speed-up, original MACs over MACs left, is there? And
after `--target latency=0.5`, how near is the time to half, measured anew? Each case is one `onnxprune prune`, with
defaults but for the options that the table names, and all cases of a network run against its original in turn in one
`onnxprune bench`: speed-ups are medians of the rounds' ratios, with their 95 % interval.

    python benchmarks/speed.py OUT [--models resnet50] [--threads 1,2] [--only '*macs=0.5*'] [--json speed.json]

OUT keeps the networks (speed_models.py makes them) and the pruned ones. With --json every result is added to that file,
and what is there is not run again. A case that fails is a row that says why. A target that exact cuts cannot reach is
tried again with `--allow-inexact`, and the row says so. The interval means little while other programs are running.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import child
import speed_models

INEXACT = "--allow-inexact"
CLOSE = 0.05
"""A latency target counts as held where the time is within that part of it."""
MMRAZOR = {
    ("resnet50", "macs=0.5"): 1.46,
    ("mobilenet_v2", "macs=0.66"): 1.37,
    ("retinanet_r50_fpn", "macs=0.5"): 1.47,
    ("rtmpose_s", "macs=0.5"): 1.37,
}
"""Speed-ups that mmrazor publishes for group Fisher pruning: onnxruntime on the CPU of an i7-11700."""
WORK = {
    "mobilenet_v2": ("macs=0.66", "macs=0.5"),
    "rtmpose_s": ("macs=0.5",),
    "resnet50": ("macs=0.5", "macs=0.3"),
    "retinanet_r50_fpn": ("macs=0.5",),
}
TIME = ("mobilenet_v2", "efficientnet_b0", "resnet50", "densenet121", "yolov8_s", "bert_base", "vit_b_16")
PLAIN, PER_TIME = "", "--normalize latency"
WAYS = (PLAIN, PER_TIME, "--scope global", "--round-to 1")


@dataclass(frozen=True)
class Case:
    """One pruned network, and what was measured of it."""

    model: str
    target: str
    """One or more, joined by a plus sign."""
    options: str
    threads: int
    macs_left: float | None = None
    """As a part of the original's."""
    speedup: float | None = None
    low: float | None = None
    """Of the speed-up's interval."""
    high: float | None = None
    note: str = ""
    """What went wrong."""

    @property
    def key(self) -> tuple[str, str, int]:
        """Of the case, whatever was found."""
        return (self.model, f"{self.target} {self.options.replace(INEXACT, '').strip()}".strip(), self.threads)

    def file(self, out: Path) -> Path:
        """Where its model is kept."""
        words = "_".join([*self.target.split("+"), *self.options.replace("--", "").split()])
        return out / "pruned" / f"{self.model}-{words}-{self.threads}.onnx"


def cases(models: Iterable[str], threads: Iterable[int], only: str) -> Iterator[Case]:
    """All that were asked for; the pattern is held against 'model target options'."""
    for count in threads:
        for model in models:
            works = WORK.get(model, ())
            found = [Case(model, target, way, count) for target in works for way in WAYS]
            found += [Case(model, f"{work}+{work.replace('macs', 'latency')}", PER_TIME, count) for work in works]
            if model in TIME:
                found += [Case(model, "latency=0.5", way, count) for way in (PLAIN, PER_TIME)]
            yield from (case for case in found if fnmatch.fnmatch(" ".join(case.key[:2]), only))


def prune(case: Case, model: Path, out: Path) -> Case:
    """Make the case's file; what is there already is taken."""
    file = case.file(out)
    told = file.with_suffix(".json")
    if not told.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        done = child.run(_command(case, model, file))
        if "cannot be reached" in done.stderr and INEXACT not in case.options:
            return prune(replace(case, options=f"{case.options} {INEXACT}".strip()), model, out)
        if done.status:
            return replace(case, note=done.failure)
        told.write_text(done.stdout)
    found = json.loads(told.read_text())
    return replace(case, macs_left=found["after"]["macs"] / found["before"]["macs"])


def _command(case: Case, model: Path, file: Path) -> list[str | Path]:
    command: list[str | Path] = [sys.executable, "-m", "onnxprune", "prune", model, "-o", file, "--no-bench", "--json"]
    for target in case.target.split("+"):
        command += ["--target", target]
    return [*command, *case.options.split(), "--threads", str(case.threads)]


def bench(group: list[Case], model: Path, out: Path, seconds: float) -> list[Case]:
    """All cases that have a file against the original, in turn."""
    made = [case for case in group if not case.note]
    if not made:
        return group
    files = [case.file(out) for case in made]
    command = [sys.executable, "-m", "onnxprune", "bench", model, *files, "--json"]
    command += ["--threads", str(made[0].threads), "--seconds", str(seconds * (1 + len(made)))]
    done = child.run(command)
    if done.status:
        return [case if case.note else replace(case, note=done.failure) for case in group]
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"][1:]
    timed = [
        replace(case, speedup=row["speedup"], low=row["speedup_low"], high=row["speedup_high"])
        for case, row in zip(made, rows, strict=True)
    ]
    return [*timed, *(case for case in group if case.note)]


def table(found: Iterable[Case]) -> str:
    """Both tables, as Markdown."""
    work, time = [], []
    for case in found:
        start = [case.model, str(case.threads), case.target.replace("+", ", "), case.options or "defaults"]
        if case.speedup is None or case.macs_left is None:
            (work if "macs" in case.target else time).append([*start, case.note])
            continue
        speed = [f"{case.speedup:.2f}x", f"{case.low:.2f} to {case.high:.2f}"]
        left = f"{case.macs_left:.1%}"
        if "macs" in case.target:
            known = MMRAZOR.get((case.model, case.target))
            whole = [f"{1 / case.macs_left:.2f}x", *speed, f"{case.speedup * case.macs_left:.2f}"]
            work.append([*start, left, *whole, f"{known:.2f}x" if known else ""])
        else:
            share, asked = 1 / case.speedup, float(case.target.partition("=")[2])
            held = "yes" if abs(share / asked - 1) <= CLOSE else "no"
            time.append([*start, left, *speed, f"{share:.3f}", held])
    first = ["network", "threads", "target", "options", "MACs left"]
    return "\n\n".join(
        _markdown(head, rows)
        for head, rows in (
            ([*first, "ideal", "speed-up", "95 %", "of ideal", "mmrazor"], work),
            ([*first, "speed-up", "95 %", "time left", "within 5 %"], time),
        )
        if rows
    )


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    whole = [head, ["---"] * len(head), *(row + [""] * (len(head) - len(row)) for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in whole)


def read(path: Path | None) -> list[Case]:
    """The results of an earlier run."""
    if path is None or not path.exists():
        return []
    return [Case(**entry) for entry in json.loads(path.read_text())]


def write(found: list[Case], path: Path | None) -> None:
    """Replace the file; an interrupted run leaves the earlier one."""
    if path is not None:
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps([asdict(case) for case in found], indent=1) + "\n")
        partial.replace(path)


def main() -> int:
    """Prune, measure and print."""
    parser = argparse.ArgumentParser(description="Speed-ups and latencies of pruned networks.")
    parser.add_argument("out", type=Path)
    networks = tuple(speed_models.networks())
    parser.add_argument("--models", default=",".join(networks), help="comma-separated; default: all")
    parser.add_argument("--threads", default="1,2", help="comma-separated; default: 1,2")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cases whose 'model target options' match")
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring, for each model (default: 10)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    wanted = options.models.split(",")
    if unknown := sorted(set(wanted) - set(networks)):
        parser.error(f"unknown model: {', '.join(unknown)}; known: {', '.join(networks)}")
    asked = [*cases([name for name in networks if name in wanted], map(int, options.threads.split(",")), options.only)]
    found = read(options.json)
    known = {case.key for case in found}
    groups: dict[tuple[int, str], list[Case]] = {}
    for case in asked:
        if case.key not in known:
            groups.setdefault((case.threads, case.model), []).append(case)
    for (threads, name), group in groups.items():
        print(f"{name}, threads: {threads} ...", file=sys.stderr, flush=True)
        model = speed_models.write(name, options.out / "models")
        found += bench([prune(case, model, options.out) for case in group], model, options.out, options.seconds)
        write(found, options.json)
    keys = {case.key for case in asked}
    shown = [case for case in found if case.key in keys]
    print(table(shown))
    return int(any(case.note for case in shown))


if __name__ == "__main__":
    sys.exit(main())
