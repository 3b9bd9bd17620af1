"""`onnxprune prune`: from a model to a smaller one, in one go."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from onnxprune.cli import before_after, data_arguments, outcome, reporting, settings
from onnxprune.cli.arguments import (
    Commands,
    add_analysis,
    add_checks,
    add_dims,
    add_model,
    add_output,
    add_threads,
    command,
    file_name,
    finished,
)
from onnxprune.cli.production import job, produce
from onnxprune.cli.progress import Activity
from onnxprune.cli.talk import Talk
from onnxprune.errors import UserError
from onnxprune.passes import Analyze
from onnxprune.report import check as check_report

_EXAMPLES = """\
examples:
  onnxprune prune --ratio 0.3 --criterion fpgm    on the small network shipped
  onnxprune prune model.onnx -o small.onnx --ratio 0.5 --round-to 16
  onnxprune prune model.onnx --target latency=0.5 --normalize latency
  onnxprune prune model.onnx --ratio 0.4 --report small.html
  onnxprune prune model.onnx --max-drop 0.01 --data photos/ --size 224
"""


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "prune",
        "[MODEL]",
        "cut the least important channels out of a model",
        "Score the coupled channels, cut the least important ones out, verify that the result equals the original "
        "with those channels set to zero, measure it, and write it. Nothing is written unless all of that went well.",
        _EXAMPLES,
    )
    add_model(parser)
    add_output(parser)
    settings.add(parser)
    data_arguments.add(parser)
    data_arguments.add_calibration(parser)
    add_analysis(parser)
    parser.add_argument(
        "--plan",
        metavar="FILE",
        type=file_name,
        help="also write what was cut, for `onnxprune apply` and `verify`",
    )
    parser.add_argument(
        "--report", metavar="FILE", type=file_name, help="also write a page with drawings and charts of what was done"
    )
    add_checks(parser)
    add_dims(parser)
    add_threads(parser)
    parser.set_defaults(threads=None)  # what is not given is left to the file
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    talk = Talk.of(args)
    args, notes = settings.completed(args)
    for note in notes:
        talk.note(f"note: {note}")
    chosen = settings.decided(args)
    report = Path(args.report) if args.report else None
    if report is not None:
        check_report()
    todo = job(args, plan=args.plan, also=[report] if report else [])
    if todo.embedded:
        talk.note("no model named: pruning the digits network that is shipped")
    analyze = Analyze(args.allow_inexact, args.attention)
    seen = reporting.Witness()
    makers = [analyze, *chosen.makers(args.verify, args.threads, talk.note)]
    found = produce(todo, makers, args, talk, chosen, watching=[seen])
    unwritten: UserError | None = None
    if report is not None:
        with Activity(talk) as activity:
            try:
                notes = reporting.write_report(report, args, seen, found, activity)
            except UserError as error:  # a disk that is full by now: the model is there all the same
                report, notes, unwritten = None, [], error
        for note in notes:
            talk.note(f"note: {note}")
        if report is not None:
            talk.note(f"wrote {report}")
    parts = before_after.parts(found, verbose=talk.verbose)
    talk.result({"command": "prune", **outcome.document(found), "report": report}, parts, wrote=found.files)
    if unwritten is not None:
        raise unwritten
    return 0
