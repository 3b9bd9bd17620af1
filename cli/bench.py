"""`onnxprune bench`: models timed against each other, round by round, in one setting or in many."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from onnxprune.cli import timings
from onnxprune.cli.arguments import Commands, add_dims, command, file_name, finished, listed, positive, threads
from onnxprune.cli.files import distinct
from onnxprune.cli.progress import Activity
from onnxprune.cli.talk import Talk, json_text
from onnxprune.files import store
from onnxprune.files.replacing import check_writable, write_text
from onnxprune.files.store import check_apart
from onnxprune.graph.dims import parse_dims
from onnxprune.timing import plot
from onnxprune.timing.sweep import Sweep, sweep
from onnxprune.timing.variants import PLAIN

_EXAMPLES = """\
examples:
  onnxprune bench model.onnx small.onnx           the second against the first
  onnxprune bench a.onnx b.onnx c.onnx --batch 8 --threads 4 --memory
  onnxprune bench a.onnx b.onnx --batch 1,8 --threads 1,2 --plot speed.svg
  onnxprune bench a.onnx --variants fp32,fp16,int8 --provider all

Several batch sizes, thread counts or providers: every combination of them is
measured on its own. fp16 and int8 are made by onnxruntime's tools, int8
without calibration data: they show how fast a format is, and say nothing of
accuracy.
"""

_DOING = {
    "load": "opening the models",
    "rehearse": "trying everything once",
    "time": "measuring latency",
    "memory": "measuring memory",
}


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "bench",
        "MODEL [MODEL ...]",
        "measure latency, memory and size",
        "Run the models in turn, round by round, on the same random inputs, and compare each with the first one.",
        _EXAMPLES,
    )
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="+",
        type=file_name,
        help="ONNX file; the first is what the others are held against",
    )
    several = parser.add_argument_group("settings, each combination of which is measured")
    several.add_argument(
        "--threads",
        metavar="N[,N]",
        type=listed(threads),
        default=[1],
        help="threads of onnxruntime; 0: as many as it likes (default: 1)",
    )
    several.add_argument(
        "--batch", metavar="N[,N]", type=listed(positive), help="size of every free batch dimension (default: 1)"
    )
    several.add_argument(
        "--provider",
        metavar="P[,P]",
        type=listed(str),
        default=["cpu"],
        help="of onnxruntime, such as cuda, tensorrt, openvino, coreml or dml; all: every one that is installed "
        "(default: cpu)",
    )
    parser.add_argument(
        "--variants",
        metavar="V[,V]",
        type=listed(str),
        default=[PLAIN],
        help="of each model: fp32, the file as it is, fp16 and int8 (default: fp32)",
    )
    add_dims(parser)
    parser.add_argument("--runs", metavar="N", type=positive, help="rounds (default: what fits into the time)")
    parser.add_argument(
        "--seconds", metavar="S", type=_seconds, default=5.0, help="time for all rounds of a setting (default: 5)"
    )
    parser.add_argument("--memory", action="store_true", help="also measure peak memory, each model in its own process")
    parser.add_argument("--save", metavar="FILE", type=file_name, help="also write the result as JSON")
    parser.add_argument("--plot", metavar="FILE", type=file_name, help="draw it, as .svg, .png or .pdf")
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    talk = Talk.of(args)
    outputs = [Path(name) for name in (args.save, args.plot) if name is not None]
    with Activity(talk) as activity:

        def progress(stage: str, part: float) -> None:
            activity.step(_DOING[stage])
            activity.part(part)

        activity.step(_DOING["load"])
        models = [store.load(path) for path in args.models]
        distinct(outputs)
        for file in outputs:
            check_writable(file)
            for model in models:
                check_apart(model, [file])
        if args.plot is not None:
            plot.check(Path(args.plot))
        found = sweep(
            args.models,
            batches=args.batch or [None],
            threads=args.threads,
            providers=args.provider,
            variants=args.variants,
            dims=parse_dims(args.dim, *models) if args.dim else {},
            runs=args.runs,
            seconds=args.seconds,
            measure_memory=args.memory,
            on_progress=progress,
        )
    document = {"command": "bench", **_document(found)}
    if args.save is not None:
        write_text(Path(args.save), json_text(document))
    if args.plot is not None:
        plot.write(found, Path(args.plot))
    for file in outputs:
        talk.note(f"wrote {file}")
    advice = f"--runs {4 * args.runs}" if args.runs else f"--seconds {4 * args.seconds:g}"
    talk.result(document, timings.parts(found, advice, verbose=talk.verbose), wrote=outputs)
    return 0


def _document(found: Sweep) -> dict[str, Any]:
    """One setting is the document; of several, each is an entry of it."""
    whole = found.to_dict()
    settings = whole.pop("settings")
    return {**(settings[0] if len(settings) == 1 else {"settings": settings}), **whole}


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not a time in seconds")
    return value
