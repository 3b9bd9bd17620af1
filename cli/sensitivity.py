"""`onnxprune sensitivity`: what each group costs, measured on data."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from onnxprune.accuracy import curves_plot
from onnxprune.accuracy.curves import Sensitivity
from onnxprune.accuracy.curves_json import figures_of
from onnxprune.accuracy.damage import ranked
from onnxprune.accuracy.evaluate import Evaluation
from onnxprune.accuracy.sensitivity import RATIOS, check_ratios, sensitivity
from onnxprune.cli import data_arguments, source
from onnxprune.cli.arguments import (
    Commands,
    Words,
    add_analysis,
    add_dims,
    add_model,
    command,
    file_name,
    finished,
    positive,
    whole,
)
from onnxprune.cli.files import distinct
from onnxprune.cli.progress import Activity, Narrator
from onnxprune.cli.tables import Column, Grid, Part
from onnxprune.cli.talk import Talk
from onnxprune.files import drawing
from onnxprune.files.replacing import check_writable
from onnxprune.files.store import check_apart
from onnxprune.machine.parallel import BACKENDS, check_parallel
from onnxprune.passes import Analyze, Normalize, Score
from onnxprune.pipeline.manager import Pass, PassManager
from onnxprune.scoring.criteria import CRITERIA
from onnxprune.scoring.scores import NORMALIZERS, REDUCERS
from onnxprune.text.figures import noise, percent, plural

_EXAMPLES = """\
examples:
  onnxprune sensitivity                           of the small network shipped
  onnxprune sensitivity model.onnx --data val/ --limit 500 --plot curves.svg
  onnxprune sensitivity model.onnx --data x.npz --jobs 8 -o sensitivity.json
"""


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "sensitivity",
        "[MODEL]",
        "measure on data what cutting each group costs",
        "Cut one group at a time, at several ratios, and measure the accuracy, or without labels the agreement with "
        "the original and the distance of the outputs. What was measured is kept: the same command goes on where it "
        "ended.",
        _EXAMPLES,
    )
    add_model(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=file_name,
        default="sensitivity.json",
        help="file to write, and to go on from if it is there (default: sensitivity.json)",
    )
    parser.add_argument(
        "--ratios",
        metavar="R,R,...",
        type=_ratios,
        default=RATIOS,
        help=f"of each group's units, that are cut (default: {','.join(map(str, RATIOS))})",
    )
    parser.add_argument(
        "--criterion",
        metavar="C",
        type=Words(tuple(sorted(CRITERIA))),
        default="l1",
        help=f"what goes first within a group: {', '.join(sorted(CRITERIA))} (default: l1)",
    )
    parser.add_argument("--seed", metavar="N", type=whole, default=0, help="for the criterion random (default: 0)")
    parser.add_argument(
        "--reduce", choices=REDUCERS, default="mean", help="over the members of a group (default: mean)"
    )
    parser.add_argument(
        "--normalize",
        choices=tuple(NORMALIZERS),
        default="mean",
        help="how members of a group compare: by their mean (default), sum, max, as gaussian or as they are (none)",
    )
    parser.add_argument("--plot", metavar="FILE", type=file_name, help="draw the curves, as .svg, .png or .pdf")
    data_arguments.add(parser)
    work = parser.add_argument_group("work")
    work.add_argument("--jobs", metavar="N", type=positive, default=1, help="measurements at a time (default: 1)")
    work.add_argument("--backend", choices=BACKENDS, help="where they run (default: loky, processes of this machine)")
    which = parser.add_argument_group("which groups (repeatable; see `onnxprune analyze` for the names)")
    for name, meaning in (("include", "only"), ("exclude", "not")):
        which.add_argument(
            f"--{name}",
            metavar="GLOB",
            action="append",
            default=[],
            help=f"{meaning} groups, nodes or initializers of such a name",
        )
    add_analysis(parser)
    add_dims(parser)
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    talk = Talk.of(args)
    path = Path(args.model) if args.model else source.default_path()
    output, plot = Path(args.output), Path(args.plot) if args.plot else None
    files = [output, *([plot] if plot else [])]
    distinct([path, *files])
    for file in files:
        check_writable(file)
    if plot is not None:
        drawing.check(plot)
    request = data_arguments.asked(args, embedded=not args.model)
    check_ratios(args.ratios)
    check_parallel(args.jobs, args.backend)
    score = Score(args.criterion, args.seed, args.reduce, args.normalize)
    score.check()
    with Activity(talk) as activity:
        activity.step("reading")
        given = source.opened(path, args.dim)
        check_apart(given.model, files)
        steps: list[Pass] = [Normalize(), Analyze(args.allow_inexact, args.attention), score]
        state = PassManager(steps, [Narrator(activity, talk)]).run(given.model)
        assert state.coupling is not None
        assert state.scores is not None
        data = data_arguments.opened(request, state.model, given.dims)
        activity.step("measuring what each group costs")
        found = sensitivity(
            state.model,
            state.coupling,
            state.scores,
            data,
            ratios=args.ratios,
            include=args.include,
            exclude=args.exclude,
            path=output,
            jobs=args.jobs,
            backend=args.backend,
            on_progress=lambda done, total: activity.part(done / total),
        )
        if plot is not None:
            activity.step("drawing")
            curves_plot.write(found, plot)
    for note in found.baseline.notes:
        talk.note(f"note: {note}")
    for file in files:
        talk.note(f"wrote {file}")
    talk.result(_document(found, path, output, plot), _parts(found), wrote=files)
    return 0


def _document(found: Sensitivity, path: Path, output: Path, plot: Path | None) -> dict[str, Any]:
    groups = [
        {
            "name": curve.group,
            "units": curve.units,
            "points": [{"ratio": p.ratio, "removed": p.removed, **figures_of(p.figures)} for p in curve.points],
        }
        for curve in ranked(found)
    ]
    return {
        "command": "sensitivity",
        "model": path,
        "output": output,
        "plot": plot,
        "criterion": found.criterion,
        "data": found.spec,
        "measure": found.measure,
        "baseline": figures_of(found.baseline),
        "groups": groups,
        "notes": found.baseline.notes,
    }


def _parts(found: Sensitivity) -> list[Part]:
    ratios = sorted({point.ratio for curve in found.curves for point in curve.points})
    columns = [Column("Group", name=True), Column("Units"), *(Column(f"{100 * ratio:g}%") for ratio in ratios)]
    rows = []
    for curve in ranked(found):
        known = {point.ratio: _figure(found, point.figures) for point in curve.points}
        rows.append([curve.group, f"{curve.units:,}", *(known.get(ratio, "") for ratio in ratios)])
    return [Grid(columns, rows), "", *_meaning(found)]


def _meaning(found: Sensitivity) -> list[str]:
    samples = plural(found.baseline.samples, "sample")
    order = "The most sensitive group comes first."
    if found.measure == "accuracy":
        original = percent(found.baseline.top1 or 0.0)
        return [f"Accuracy on {samples} when that share of a group is cut; the original has {original}. {order}"]
    if found.measure == "agreement":
        return [f"Agreement with the original on {samples} when that share of a group is cut. {order}"]
    return [f"Relative distance from the original's outputs on {samples} when that share of a group is cut. {order}"]


def _figure(found: Sensitivity, figures: Evaluation) -> str:
    if found.measure == "deviation":
        return "" if figures.deviation is None else noise(figures.deviation)
    share = figures.top1 if found.measure == "accuracy" else figures.agreement
    return "" if share is None else percent(share)


def _ratios(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a list of ratios, such as 0.25,0.5") from None
