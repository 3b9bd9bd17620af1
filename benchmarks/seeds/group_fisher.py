"""Group Fisher's table: each network at the published FLOPs, and what onnxruntime makes of it on a CPU.

    python benchmarks/seeds/group_fisher.py OUT [--rows resnet50-activation,rtmpose_s-activation] [--plot divisors.svg]

ImageNet and COCO are absent, so weights are random (calibrated.py says how) and inputs are noise; accuracies are not
repeated. What is repeated is the structure at the target by their criterion, its gradients taken once, per activation
(`act` there) or per multiply-accumulate (`flops`), for each divisor, which is what widths are multiples of; and the
speed-up, where all divisors and the original are timed in turns. RetinaNet runs at 192 x 256 px, not at 800 x 1333.
What `onnxprune prune` would be told:

    --criterion group_fisher --calib random:8 --compensate none --target macs=0.501 --normalize activation --round-to 8

OUT/<row>.json keeps what was measured; rows that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import table

import onnxprune
from onnxprune.data.sources import Request
from onnxprune.files.drawing import check, save
from onnxprune.passes import Analyze, Apply, Normalize, Score, Select, Verify
from onnxprune.pipeline.manager import PassManager

DIVISORS = (1, 2, 4, 8, 16, 32)
SHOWN = (1, 8, 16)
"""Of these, in the table; all of them are in the drawing."""
CALIBRATED = Path(__file__).parents[1] / "calibrated.py"


@dataclass(frozen=True)
class Row:
    """A line of the table: the shares of FLOPs and parameters that stay, frames per second before and after."""

    network: str
    normalize: str
    share: float
    params: float
    before: float
    after: float
    sizes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.network}-{self.normalize}"

    @property
    def speedup(self) -> float:
        return self.after / self.before


SMALL = ("--size", "height=192", "--size", "width=256")
ROWS = (
    Row("resnet50", "activation", 0.501, 0.637, 55.360, 80.671),
    Row("resnet50", "macs", 0.501, 0.637, 55.360, 78.674),
    Row("mobilenet_v2", "activation", 0.661, 0.906, 419.673, 576.118),
    Row("mobilenet_v2", "macs", 0.661, 0.887, 419.673, 540.105),
    Row("retinanet_r50_fpn", "activation", 0.504, 0.542, 1.095, 1.608, SMALL),
    Row("retinanet_r50_fpn", "macs", 0.504, 0.547, 1.095, 1.609, SMALL),
    Row("rtmpose_s", "activation", 0.500, 0.625, 196, 268),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", default=",".join(row.name for row in ROWS), help="comma-separated; default: all")
    parser.add_argument("--samples", type=int, default=8, help="of noise, for the gradients (default: 8)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of timing, for each row (default: 30)")
    parser.add_argument("--plot", type=Path, help="draw speed-ups by divisor there")
    options = parser.parse_args()
    if options.plot:
        check(options.plot)
    options.out.mkdir(parents=True, exist_ok=True)
    found = {row: measured(row, options) for row in ROWS if row.name in options.rows.split(",")}
    print(text(found))
    if options.plot:
        draw(found, options.plot)


def measured(row: Row, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What stays and how fast it is, for each divisor."""
    note = options.out / f"{row.name}.json"
    if not note.exists():
        original = options.out / f"{row.network}.onnx"
        if not original.exists():
            subprocess.run([sys.executable, CALIBRATED, row.network, original, *row.sizes], check=True)
        found = swept(row, original, options)
        note.write_text(json.dumps(found, indent=1) + "\n")
    result: list[dict[str, Any]] = json.loads(note.read_text())
    return result


def swept(row: Row, original: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    criterion = Score("group_fisher", data=Request(f"random:{options.samples}", batch=2))
    scored = PassManager([Normalize(), Analyze(), criterion]).run(original)
    before = onnxprune.cost(scored.model)
    found, files = [], [original]
    for divisor in DIVISORS:
        select = Select(targets=(f"macs={row.share}",), per=row.normalize, round_to=divisor)
        state = scored
        for step in (select, Apply(), Verify()):
            state = step.run(state)
        after = onnxprune.cost(state.model)
        assert state.verification is not None
        files.append(options.out / f"{row.name}-{divisor}.onnx")
        onnxprune.save(state.model, files[-1])
        shares = {key: getattr(after, key) / getattr(before, key) for key in ("macs", "params")}
        found.append({"divisor": divisor, **shares, "error": state.verification.error})
    report = onnxprune.bench(files, names=[file.stem for file in files], seconds=options.seconds)
    for each, timed in zip(found, report.rows[1:], strict=True):
        each |= {"speedup": timed.speedup, "low": timed.speedup_low, "high": timed.speedup_high}
    return found


def text(found: dict[Row, list[dict[str, Any]]]) -> str:
    """As the documentation has it."""
    head = ["network", "importance per", "MACs stay", "published", "parameters stay", "published", "deviation"]
    head += [f"speed-up, divisor {divisor}" for divisor in SHOWN]
    lines = []
    for row, each in found.items():
        one, *_ = (entry for entry in each if entry["divisor"] == SHOWN[-1])
        line = [row.network, row.normalize, f"{one['macs']:.1%}", f"{row.share:.1%}", f"{one['params']:.1%}"]
        line += [f"{row.params:.1%}", f"{max(entry['error'] for entry in each):.0e}"]
        line += [f"{entry['speedup']:.2f}" for entry in each if entry["divisor"] in SHOWN]
        lines.append([*(cell.replace("%", " %") for cell in line), f"{row.speedup:.2f}"])
    return table([*head, "published"], lines)


def draw(found: dict[Row, list[dict[str, Any]]], path: Path) -> None:
    """A line for each row of the table; what was published as a dashed one of the same colour."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 4.5), layout="constrained")
    axes = drawn.subplots()
    for row, each in found.items():
        divisors = [entry["divisor"] for entry in each]
        (line,) = axes.plot(divisors, [entry["speedup"] for entry in each], marker="o", label=row.name)
        axes.axhline(row.speedup, color=line.get_color(), linestyle="--", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(DIVISORS, [str(divisor) for divisor in DIVISORS])
    axes.set_xlabel("widths are multiples of")
    axes.set_ylabel("speed-up (dashed: published)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    drawn.legend(loc="outside right upper")
    save(drawn, path)


if __name__ == "__main__":
    main()
