"""`onnxprune fold`: BatchNormalization merged into the layers before it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable

import onnxprune
from onnxprune.cli.arguments import Commands, add_dims, add_output, add_threads, command, file_name, finished
from onnxprune.cli.progress import Activity
from onnxprune.cli.rewriting import rewrite
from onnxprune.cli.source import Source
from onnxprune.execution.inputs import Feeds, runnable_feeds
from onnxprune.files.model import Model
from onnxprune.rewrites.rewriting import Rewritten

_EXAMPLES = """\
examples:
  onnxprune fold tuned.onnx -o final.onnx
"""
SEEDS = (0, 1)
"""Of the inputs that are compared on."""


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "fold",
        "MODEL",
        "merge BatchNormalization into layers",
        "Merge every BatchNormalization into the convolution or linear layer before it, where that is the only one it "
        "changes, and say which are left and why. The outputs are compared before anything is written.",
        _EXAMPLES,
        ratio=False,
    )
    parser.add_argument("model", metavar="MODEL", type=file_name, help="ONNX file")
    add_output(parser, "folded")
    add_dims(parser)
    add_threads(parser)
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""

    def change(model: Model, source: Source, activity: Activity) -> tuple[Rewritten, Iterable[Feeds]]:
        feeds = [runnable_feeds(model, dims=source.dims, seed=seed).feeds for seed in SEEDS]
        return onnxprune.fold(model), feeds

    return rewrite(args, "folded", "merging", "merged", change)
