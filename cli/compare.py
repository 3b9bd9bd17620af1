"""`onnxprune compare`: what several runs came to, side by side and as a plot of quality against cost."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxprune.cli.arguments import Commands, command, file_name, finished
from onnxprune.cli.files import distinct
from onnxprune.cli.tables import Column, Grid, Part
from onnxprune.cli.talk import Talk
from onnxprune.errors import UserError
from onnxprune.files.replacing import check_writable, write_text
from onnxprune.report import check as check_report
from onnxprune.report import comparison, pareto_plot
from onnxprune.report.pareto import Comparison, compare
from onnxprune.report.runs import COSTS, FIGURES, QUALITIES, read_runs
from onnxprune.text.figures import count, milliseconds, noise, percent, size

_EXAMPLES = """\
examples:
  onnxprune prune m.onnx --ratio 0.3 --data x.npz --json > a.json
  onnxprune prune m.onnx --ratio 0.5 --data x.npz --json > b.json
  onnxprune compare a.json b.json --html compare.html
  onnxprune compare runs/l1 runs/fpgm --plot pareto.png --x macs
"""

_SHOWN: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "params": ("Params", count),
    "macs": ("MACs", count),
    "bytes": ("Size", size),
    "latency": ("Latency", milliseconds),
    "speedup": ("Speed", lambda value: f"{value:.2f}x"),
    "accuracy": ("Accuracy", percent),
    "metric": ("Metric", lambda value: f"{value:.4g}"),
    "agreement": ("Agreement", percent),
    "deviation": ("Deviation", noise),
}


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "compare",
        "RUN [RUN ...]",
        "hold several runs against each other",
        "Read what runs came to, and show which of their models are worth having: those that no other beats in both "
        "what they cost and how good they are. A run is a file that prune, apply or bench wrote with --json, or the "
        "folder of a pipeline.",
        _EXAMPLES,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=file_name, help="JSON file, or folder with summary.json")
    costs = ", ".join((*COSTS, "speedup"))
    parser.add_argument("--x", metavar="FIGURE", help=f"what a model costs: {costs} (default: what most have)")
    parser.add_argument("--y", metavar="FIGURE", help=f"how good it is: {', '.join(QUALITIES)} (likewise)")
    parser.add_argument("--html", metavar="FILE", type=file_name, help="write a page with the plot and the table")
    parser.add_argument("--plot", metavar="FILE", type=file_name, help="draw it, as .svg, .png or .pdf")
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    talk = Talk.of(args)
    files = [Path(name) for name in (args.html, args.plot) if name]
    distinct([*files, *(Path(name) for name in args.runs)] if files else [])
    for file in files:
        check_writable(file)
    if args.html:
        check_report()
    if args.plot:
        pareto_plot.check(Path(args.plot))
    found = compare(read_runs(args.runs), args.x, args.y)
    if files and not found.y:
        raise UserError(f"there is nothing to draw: {found.notes[0]}")
    if args.html:
        write_text(Path(args.html), comparison.page(found, args.typed))
    if args.plot:
        pareto_plot.write(found, Path(args.plot))
    for note in found.notes:
        talk.note(f"note: {note}")
    for file in files:
        talk.note(f"wrote {file}")
    talk.result(_document(found), _parts(found), wrote=files)
    return 0


def _document(found: Comparison) -> dict[str, Any]:
    points = [
        {"run": p.run, "name": p.name, "original": p.original, "front": at in found.front, **p.figures}
        for at, p in enumerate(found.points)
    ]
    return {"command": "compare", "x": found.x, "y": found.y or None, "points": points, "notes": found.notes}


def _parts(found: Comparison) -> list[Part]:
    names = [name for name in FIGURES if any(name in point.figures for point in found.points)]
    for name, other in (("bytes", "params"), ("deviation", "agreement")):
        if name in names and other in names and name not in (found.x, found.y):
            names.remove(name)  # 80 columns
    columns = [Column("Run", name=True), Column("Model", name=True), *(Column(_SHOWN[name][0]) for name in names)]
    rows = [
        [
            point.run,
            point.name + (" *" if at in found.front else ""),
            *(_SHOWN[name][1](point.figures[name]) if name in point.figures else "" for name in names),
        ]
        for at, point in enumerate(found.points)
    ]
    said = f"* not beaten in both {found.x} and {found.y}" if found.y else ""
    return [Grid(columns, rows), *(["", said] if said else [])]
