"""`onnxprune analyze`: what can be pruned, what holds how much, and why the rest cannot go."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from onnxprune.cli import inventory, overview, reporting, source, why
from onnxprune.cli.arguments import Commands, add_analysis, add_dims, add_model, command, file_name, finished
from onnxprune.cli.dot import dot
from onnxprune.cli.files import distinct
from onnxprune.cli.progress import Activity, Narrator
from onnxprune.cli.talk import Talk
from onnxprune.errors import UserError
from onnxprune.files.replacing import check_writable, write_text
from onnxprune.files.store import check_apart
from onnxprune.passes import Analyze, Normalize
from onnxprune.pipeline.manager import Pass, PassManager
from onnxprune.report import check as check_report
from onnxprune.selection import template

_EXAMPLES = """\
examples:
  onnxprune analyze model.onnx
  onnxprune analyze model.onnx --html page.html   all of it as a page, drawn
  onnxprune analyze model.onnx --why conv1 conv2  why the two are cut together
  onnxprune analyze model.onnx --template p.toml  for `prune --config p.toml`
"""


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "analyze",
        "[MODEL]",
        "show what can be pruned, and why the rest cannot",
        "Show the groups of coupled channels with the parameters and MACs that each holds, what is frozen and why, "
        "and how much of the model's work pruning can reach. Writes nothing unless asked to.",
        _EXAMPLES,
    )
    add_model(parser)
    parser.add_argument(
        "--why",
        nargs=2,
        metavar=("A", "B"),
        help="explain how two things are coupled; each a tensor, tensor:axis, a node or a group",
    )
    parser.add_argument("--dot", metavar="FILE", type=file_name, help="write the slot graph for Graphviz")
    parser.add_argument(
        "--template", metavar="FILE", type=file_name, help="write a TOML file with every option and every group"
    )
    parser.add_argument(
        "--html", metavar="FILE", type=file_name, help="write a page with drawings and charts; times one run for it"
    )
    parser.add_argument(
        "--sensitivity",
        metavar="FILE",
        type=file_name,
        help="show on that page what `onnxprune sensitivity` measured",
    )
    add_analysis(parser)
    add_dims(parser)
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    talk = Talk.of(args)
    path = Path(args.model) if args.model else source.default_path()
    files = [Path(name) for name in (args.dot, args.template, args.html) if name]
    distinct([path, *files])
    if args.html:
        check_report()
        reporting.sensitivity(args)
    elif args.sensitivity:
        raise UserError("--sensitivity is shown on the page that --html writes; name one")
    for file in files:
        check_writable(file)
    with Activity(talk) as activity:
        activity.step("reading")
        given = source.opened(path, args.dim)
        check_apart(given.model, files)
        passes: list[Pass] = [Normalize(), Analyze(args.allow_inexact, args.attention)]
        state = PassManager(passes, [Narrator(activity, talk)]).run(given.model)
        model, coupling = state.model, state.coupling
        assert coupling is not None
        activity.step("counting")
        document: dict[str, Any]
        if args.why:
            link = why.explain(model, coupling, *args.why)
            document, parts = {"why": why.document(link)}, why.parts(link, model)
        else:
            found = inventory.take(model, coupling, given.dims)
            document, parts = inventory.document(found), overview.parts(found, verbose=talk.verbose)
        if args.template:
            write_text(Path(args.template), template.write(coupling))
        if args.dot:
            write_text(Path(args.dot), dot(model, coupling))
        notes: list[str] = []
        if args.html:
            activity.step("timing and drawing")
            notes = reporting.write_analysis(Path(args.html), args, model, coupling, given.dims)
    for note in notes:
        talk.note(f"note: {note}")
    for file in files:
        talk.note(f"wrote {file}")
    talk.result({"command": "analyze", **document}, parts, wrote=files)
    return 0
