"""`onnxprune verify`: is this file really that one, pruned by this plan?"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import onnxprune
from onnxprune.checking.verify import MODES, TOLERANCE, Verification
from onnxprune.cli import outcome
from onnxprune.cli.arguments import Commands, add_dims, add_inexact, add_threads, command, file_name, finished
from onnxprune.cli.progress import Activity
from onnxprune.cli.source import opened
from onnxprune.cli.tables import Column, Grid, Part
from onnxprune.cli.talk import Talk
from onnxprune.cutting import plan_json
from onnxprune.cutting.plan import check
from onnxprune.graph.shapes import infer
from onnxprune.text.figures import bindings, noise, plural

_EXAMPLES = """\
example:
  onnxprune verify model.onnx small.onnx --plan plan.json && echo equal
"""


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "verify",
        "ORIGINAL PRUNED --plan PLAN",
        "check a pruned model against its original",
        "Run the pruned model and the original whose cut channels are set to zero on the same inputs, and compare. "
        "Exit code 0: they agree to float noise; 3: they do not.",
        _EXAMPLES,
    )
    parser.add_argument("original", metavar="ORIGINAL", type=file_name, help="ONNX file before pruning")
    parser.add_argument("pruned", metavar="PRUNED", type=file_name, help="ONNX file after pruning")
    parser.add_argument(
        "--plan", metavar="PLAN", type=file_name, required=True, help="JSON file that says what was cut"
    )
    parser.add_argument(
        "--mode",
        choices=[mode for mode in MODES if mode != "off"],
        default="numeric",
        help="numeric: compare outputs in onnxruntime (default); structural: check types and shapes only",
    )
    add_inexact(parser)
    add_dims(parser)
    add_threads(parser)
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    talk = Talk.of(args)
    with Activity(talk) as activity:
        activity.step("reading")
        plan = plan_json.load_cuts(args.plan, allow_inexact=args.allow_inexact)
        source = opened(Path(args.original), args.dim)
        original, pruned = onnxprune.normalize(source.model), onnxprune.load(args.pruned)
        check(plan, {name: dims for name, (_, dims) in infer(original).items()})
        activity.step("verifying against the masked original")
        verdict = onnxprune.verify(original, pruned, plan, mode=args.mode, dims=source.dims, threads=args.threads)
    document = {"original": args.original, "pruned": args.pruned, "plan": args.plan, **outcome.verification(verdict)}
    talk.result({"command": "verify", **document}, _parts(verdict, talk))
    verdict.require()
    return 0


def _parts(verdict: Verification, talk: Talk) -> list[Part]:
    parts: list[Part] = []
    if talk.verbose and verdict.by_tensor:
        rows = [[name, noise(error)] for name, error in verdict.by_tensor.items()]
        parts += [Grid((Column("Compared tensor", name=True), Column("Error")), rows), ""]
    return [*parts, _sentence(verdict), *(f"Note: {note}" for note in verdict.notes if verdict.ok)]


def _sentence(verdict: Verification) -> str:
    if not verdict.ok:
        return "NOT verified."
    if verdict.error is None:
        return "Passed." if verdict.inexact else "Passed, in structure only."
    at = f", at {bindings(verdict.dims)}" if verdict.dims else ""
    moved = noise(verdict.moved or 0)
    return (
        f"Verified: {plural(len(verdict.by_tensor), 'tensor')} equal to the masked original within "
        f"{noise(verdict.error)} (limit {noise(TOLERANCE)}); masking moved them by {moved}{at}."
    )
