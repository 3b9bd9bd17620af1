"""onnxprune, Torch-Pruning and onnxsim on the same networks: what each reaches, what it takes, what comes out.

    python benchmarks/peers.py OUT [--networks resnet18,unet] [--ratio 0.5] [--rounds 3]
    python benchmarks/peers.py OUT --networks "" --trained NET.onnx [NET.onnx ...] --data DATA --calib CALIB

The first table: networks with random weights, half of every group gone. Every tool starts in a process of its own
(peer_tools.py) for each round, in turns; what is shown are medians of processor time, on one thread, and the largest
peak of memory.

    reached      the share of the MACs in layers that lost something
    MACs left    counted by `onnxprune.cost` in the written file
    inside       seconds of pruning alone
    whole        of the process, from its start to the written file; in parentheses: verified, which no other tool does
    error        largest difference from the original with what was cut set to zero (peer_oracle.py, which asks files)
    speed-up     in onnxruntime, one thread, measured in turns with the original and with each other

The second, with --trained: files of `onnxprune zoo train`, at the same MACs, their accuracy as cut and after what each
tool can do about it without training. Both are there in one run where both are asked for. A tool that fails has a row
with the message it gave. OUT/peers.json keeps what was measured, and an interrupted run goes on.

Needs the extra `benchmarks`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import child
import peer_networks
import peer_oracle
import peer_tools
from seeds.command_line import table

import onnxprune

TOOLS = {
    "onnxprune": ["onnxprune"],
    "onnxprune, aligned": ["onnxprune", "--aligned"],
    "Torch-Pruning": ["torch-pruning"],
    "onnxsim": ["onnxsim"],
}
"""What is printed, and what peer_tools.py is called with."""
CHECKED = "onnxprune, checked"
AT_MACS = (
    ("onnxprune", "l2"),
    ("onnxprune", "obs"),
    ("torch-pruning", "l2"),
    ("torch-pruning", "fpgm"),
    ("torch-pruning", "bn_scale"),
    ("onnxsim", "l2"),
)
"""Tools and criteria of the second table."""
MEMORY_GIB = 12


@dataclass
class Row:
    """One tool on one network."""

    network: str
    tool: str
    criterion: str = "l2"
    macs: float | None = None
    """Asked for; None: a ratio was."""
    inside: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    peak: int = 0
    kept: float | None = None
    reached: float | None = None
    error: float | None = None
    speedup: float | None = None
    accuracy: list[float] = field(default_factory=list)
    """Of the original, as cut, and made up."""
    note: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--networks", default=",".join(peer_networks.RANDOM), help="with random weights; default: all")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing the files of a network (default: 20)")
    parser.add_argument("--trained", type=Path, nargs="*", default=[])
    parser.add_argument("--macs", default="0.5", help="comma-separated, for the trained ones (default: 0.5)")
    parser.add_argument("--data", help="with labels")
    parser.add_argument("--calib", help="without")
    parser.add_argument("--samples", type=int, default=1024, help="of the calibration data (default: 1024)")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="S", help="for each process (default: 300)")
    options = parser.parse_args()
    if options.trained and not (options.data and options.calib):
        parser.error("--trained takes --data and --calib")
    options.out.mkdir(parents=True, exist_ok=True)
    rows = read(options.out)
    done = {(row.network, row.macs) for row in rows}
    for name in filter(None, options.networks.split(",")):
        if (name, None) not in done:
            rows += at_ratio(peer_networks.RANDOM[name], options)
            write(rows, options.out)
    for path in options.trained:
        for macs in map(float, options.macs.split(",")):
            if (path.stem, macs) not in done:
                rows += at_macs(path, macs, options)
                write(rows, options.out)
    print(first([row for row in rows if row.macs is None]))
    if second_rows := [row for row in rows if row.macs is not None]:
        print(f"\n{second(second_rows)}")


def at_ratio(network: peer_networks.Network, options: argparse.Namespace) -> list[Row]:
    """All tools on one network, round after round."""
    original = options.out / f"{network.name}.onnx"
    if not original.exists():
        network.export(*network.module(None), original)
    rows = {tool: Row(network.name, tool) for tool in TOOLS}
    checked = Row(network.name, CHECKED)
    for _ in range(options.rounds):
        for tool, row in rows.items():
            if not row.note:
                prune(row, [*TOOLS[tool], "--ratio", str(options.ratio)], original, options)
        prune(checked, ["onnxprune", "--ratio", str(options.ratio), "--verify"], original, options)
    examine([*rows.values()], original, options)
    return [*rows.values(), checked]


def at_macs(path: Path, macs: float, options: argparse.Namespace) -> list[Row]:
    """All tools and criteria on one trained network, once."""
    network = peer_networks.trained(path.stem)
    original = options.out / f"{path.stem}.onnx"
    if not original.exists():
        network.export(*network.module(path), original)
    rows = [Row(path.stem, tool, criterion, macs) for tool, criterion in AT_MACS]
    for row in rows:
        asked = ["--macs", str(macs), "--criterion", row.criterion, "--trained", str(path), "--calib", options.calib]
        prune(row, [row.tool, *asked, "--samples", str(options.samples)], original, options)
        if row.note:
            continue
        cut = file_of(row, options.out)
        row.accuracy = [accuracy(file, options.data) for file in (original, cut, peer_tools.made_up(cut))]
    examine(rows, original, options)
    return rows


def file_of(row: Row, out: Path) -> Path:
    """Where a tool writes."""
    at = "" if row.macs is None else f"-{row.criterion}-{row.macs:g}"
    return out / f"{row.network}-{row.tool.replace(', ', '-')}{at}.onnx"


def prune(row: Row, arguments: list[str], original: Path, options: argparse.Namespace) -> None:
    """Once; what it took goes into the row, or what it said instead."""
    tool, *more = arguments
    command = [sys.executable, "-W", "ignore", peer_tools.__file__, tool, original, file_of(row, options.out)]
    command += ["--network", row.network, *more]
    ended = child.run(command, memory_gib=MEMORY_GIB, timeout=options.timeout, threads=1)
    if ended.status:
        row.note = ended.failure
        return
    row.inside.append(json.loads(ended.last_line)["inside"])
    row.whole.append(ended.cpu_seconds)
    row.peak = max(row.peak, ended.peak_rss)


def examine(rows: list[Row], original: Path, options: argparse.Namespace) -> None:
    """What is in the files, whether it is right, and how fast it runs."""
    total = onnxprune.cost(onnxprune.load(original))
    runs: list[Row] = []
    for row in rows:
        cut = file_of(row, options.out)
        if row.note:
            continue
        whole = cut.with_suffix(".whole.onnx") if row.tool == "onnxsim" else original
        try:
            before, after = (onnxprune.cost(onnxprune.load(path)) for path in (whole, cut))
            row.kept = after.macs / total.macs
            lost = [name for name, macs in before.by_node.items() if after.by_node.get(name, macs) < macs]
            row.reached = sum(before.by_node[name] for name in lost) / before.macs
            row.error = peer_oracle.compare(whole, cut).error
        except peer_oracle.Incomparable as reason:
            row.note = str(reason)
        except Exception as error:  # noqa: BLE001  a peer's file may fail in any way, and so may ours
            row.note = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            continue
        runs.append(row)
    files = [original, *(file_of(row, options.out) for row in runs)]
    report = onnxprune.bench(files, names=[str(place) for place in range(len(files))], seconds=options.seconds)
    for row, timed in zip(runs, report.rows[1:], strict=True):
        row.speedup = timed.speedup


def accuracy(path: Path, data: str) -> float:
    model = onnxprune.load(path)
    found = onnxprune.evaluate(model, onnxprune.open_data(data, model, batch=200)).top1
    assert found is not None, "the data has no labels"
    return found


def first(rows: list[Row]) -> str:
    """Networks with random weights, as the documentation has it."""
    checked = {row.network: row for row in rows if row.tool == CHECKED}
    lines = []
    for row in rows:
        if row.tool == CHECKED:
            continue
        times = [f"{statistics.median(taken):.1f}" if taken else "" for taken in (row.inside, row.whole)]
        if row.tool == "onnxprune" and checked[row.network].whole:
            times[1] += f" ({statistics.median(checked[row.network].whole):.1f})"
        peak = f"{row.peak / 1e9:.2f}" if row.peak else ""
        lines.append([row.network, row.tool, *figures(row), *times, peak, row.note.replace("|", "/")])
    head = ["network", "tool", "reached", "MACs left", "error", "speed-up", "inside s", "whole s", "peak GB", "said"]
    return table(head, lines)


def second(rows: list[Row]) -> str:
    """Trained networks at the same MACs, likewise."""
    lines = []
    for row in rows:
        shown = [f"{100 * part:.1f} %" for part in row.accuracy] or ["", "", ""]
        lines.append([row.network, row.tool, row.criterion, *figures(row), *shown, row.note.replace("|", "/")])
    head = ["network", "tool", "criterion", "reached", "MACs left", "error", "speed-up"]
    return table([*head, "before", "as cut", "made up for", "said"], lines)


def figures(row: Row) -> list[str]:
    shares = ["" if part is None else f"{100 * part:.0f} %" for part in (row.reached, row.kept)]
    error = "" if row.error is None else f"{row.error:.0e}"
    return [*shares, error, "" if row.speedup is None else f"{row.speedup:.2f}"]


def read(out: Path) -> list[Row]:
    path = out / "peers.json"
    return [Row(**entry) for entry in json.loads(path.read_text())] if path.exists() else []


def write(rows: list[Row], out: Path) -> None:
    path = out / "peers.json"
    partial = path.with_name(".peers.json")
    entries: list[dict[str, Any]] = [asdict(row) for row in rows]
    partial.write_text(json.dumps(entries, indent=1) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    main()
