"""`onnxprune run`: the passes of a TOML file, one after the other, each result kept."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from onnxprune.cli import stages
from onnxprune.cli.arguments import Commands, command, file_name, finished
from onnxprune.cli.finetune import watching
from onnxprune.cli.progress import Activity, Narrator
from onnxprune.cli.source import default_path
from onnxprune.cli.talk import Talk
from onnxprune.passes import read_pipeline
from onnxprune.pipeline.running import SUMMARY, Hooks, preview, run_pipeline

_EXAMPLES = """\
examples:
  onnxprune run pipeline.toml
  onnxprune run pipeline.toml --dry-run           what would run, and why
  onnxprune run pipeline.toml --from prune --set prune.select.ratio=0.4

  # pipeline.toml
  model = "model.onnx"
  measure = {data = "val/"}
  [[stage]]
  pass = "prune"
  select.targets = ["macs=0.5"]
  [[stage]]
  pass = "compensate"
  data = "train/"

See docs/pipelines.md.
"""


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "run",
        "PIPELINE",
        "run a pipeline of passes from a file",
        "Run the stages of a TOML file in order. The model, plan and figures of each stage are kept in a folder; what "
        "is there already and still holds is not done again, so that a stopped run goes on where it was.",
        _EXAMPLES,
    )
    parser.add_argument("pipeline", metavar="PIPELINE", type=file_name, help="TOML file")
    parser.add_argument(
        "--from", metavar="STAGE", dest="start", help="run this stage again, and all that is made from it"
    )
    parser.add_argument(
        "--set",
        metavar="STAGE.KEY=VALUE",
        action="append",
        default=[],
        dest="changes",
        help="another value than in the file, such as tuned.epochs=1 or measure.seconds=0 (repeatable)",
    )
    parser.add_argument(
        "--run",
        metavar="DIR",
        type=file_name,
        dest="folder",
        help="where results are kept (default: the file's folder, else runs/NAME beside the file)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and do nothing")
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    talk = Talk.of(args)
    asked = read_pipeline(args.pipeline, changes=args.changes, folder=args.folder, default_model=default_path())
    if args.dry_run:
        todo = preview(asked, start=args.start)
        talk.result({"command": "run", **stages.planned(asked, todo)}, stages.plan_parts(asked, todo))
        return 0
    with Activity(talk) as activity:
        hooks: Hooks = {
            "on_progress": activity.part,
            "on_try": talk.note,
            "watch": lambda: watching(activity, talk),
        }
        found = run_pipeline(asked, start=args.start, observers=[Narrator(activity, talk)], hooks=hooks)
    for row in found.stages:
        for note in row.notes:
            talk.note(f"note: {row.name}: {note}")
    summary = Path(found.folder) / SUMMARY
    talk.note(f"wrote {summary}")
    talk.result({"command": "run", **found.to_dict()}, stages.parts(found), wrote=[summary])
    return 0
