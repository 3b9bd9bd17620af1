"""`onnxprune apply`: a plan made earlier, for this model or for its finetuned sibling."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from onnxprune.cli import before_after, outcome
from onnxprune.cli.arguments import (
    Commands,
    add_checks,
    add_dims,
    add_inexact,
    add_output,
    add_threads,
    command,
    file_name,
    finished,
)
from onnxprune.cli.production import job, produce
from onnxprune.cli.talk import Talk
from onnxprune.passes import LoadPlan

_EXAMPLES = """\
examples:
  onnxprune prune model.onnx --ratio 0.3 --plan plan.json
  onnxprune apply finetuned.onnx plan.json -o small.onnx
"""


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "apply",
        "MODEL PLAN",
        "cut a model by a plan",
        "Cut a model by a plan that was made earlier; the plan holds no weights, so it fits a finetuned model as well. "
        "The result is verified, measured and written as by `onnxprune prune`.",
        _EXAMPLES,
    )
    parser.add_argument("model", metavar="MODEL", type=file_name, help="ONNX file")
    parser.add_argument("plan", metavar="PLAN", type=file_name, help="JSON file written by `onnxprune prune --plan`")
    add_output(parser)
    add_inexact(parser)
    add_checks(parser)
    add_dims(parser)
    add_threads(parser)
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    talk = Talk.of(args)
    plan = Path(args.plan)
    found = produce(job(args, given=[plan]), [LoadPlan(plan, args.allow_inexact)], args, talk)
    parts = before_after.parts(found, verbose=talk.verbose)
    talk.result({"command": "apply", **outcome.document(found)}, parts, wrote=found.files)
    return 0
