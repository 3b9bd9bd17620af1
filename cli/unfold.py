"""`onnxprune unfold`: BatchNormalization back behind the convolutions that lost it when they were exported."""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Iterable

import onnxprune
from onnxprune.cli import data_arguments
from onnxprune.cli.arguments import Commands, add_dims, add_output, add_threads, command, file_name, finished
from onnxprune.cli.progress import Activity
from onnxprune.cli.rewriting import rewrite
from onnxprune.cli.source import Source
from onnxprune.execution.inputs import Feeds
from onnxprune.files.model import Model
from onnxprune.rewrites.rewriting import Rewritten

_EXAMPLES = """\
examples:
  onnxprune unfold model.onnx --calib photos/ --size 224 -o model-bn.onnx
  onnxprune prune model-bn.onnx --target macs=0.5 -o small-bn.onnx
  onnxprune fold small-bn.onnx -o small.onnx
"""
COMPARED = 2
"""Batches."""


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "unfold",
        "MODEL --calib DATA",
        "put BatchNormalization back for training",
        "Put BatchNormalization behind every convolution that may have lost it when the model was exported. The model "
        "computes what it did before, but trains at the learning rates that it was trained at. Do this before pruning, "
        "and `onnxprune fold` after training. The outputs are compared before anything is written.",
        _EXAMPLES,
        ratio=False,
    )
    parser.add_argument("model", metavar="MODEL", type=file_name, help="ONNX file")
    add_output(parser, "bn")
    data_arguments.add_samples(parser)
    add_dims(parser)
    add_threads(parser)
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    request = data_arguments.samples(args)

    def change(model: Model, source: Source, activity: Activity) -> tuple[Rewritten, Iterable[Feeds]]:
        data = data_arguments.opened(request, model, source.dims)
        found = onnxprune.unfold(model, data, threads=args.threads, on_progress=activity.part)
        return found, [batch.feeds for batch in itertools.islice(data, COMPARED)]

    return rewrite(args, "bn", "calibrating", "put in", change)
