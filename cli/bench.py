"""`onnxprune bench`: models timed against each other, round by round."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence

import onnxprune
from onnxprune import store
from onnxprune.bench import BenchReport
from onnxprune.cli.arguments import Commands, add_dims, add_threads, command, file_name, finished, positive
from onnxprune.cli.figures import bindings, count, milliseconds, plural, size
from onnxprune.cli.progress import Activity
from onnxprune.cli.tables import Column, Grid, Part
from onnxprune.cli.talk import Talk
from onnxprune.dims import candidates, inputs_of, kind_of, parse_dims
from onnxprune.errors import UserError
from onnxprune.model import Model

_EXAMPLES = """\
examples:
  onnxprune bench model.onnx small.onnx           the second against the first
  onnxprune bench a.onnx b.onnx c.onnx --batch 8 --threads 4 --memory
"""

_DOING = {"load": "opening the models", "time": "measuring latency", "memory": "measuring memory"}


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
    add_threads(parser)
    parser.add_argument("--batch", metavar="N", type=positive, help="size of every free batch dimension (default: 1)")
    add_dims(parser)
    parser.add_argument("--provider", metavar="P", default="cpu", help="of onnxruntime, such as cuda (default: cpu)")
    parser.add_argument("--runs", metavar="N", type=positive, help="rounds (default: what fits into the time)")
    parser.add_argument(
        "--seconds", metavar="S", type=_seconds, default=5.0, help="time for all rounds together (default: 5)"
    )
    parser.add_argument("--memory", action="store_true", help="also measure peak memory, each model in its own process")
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    talk = Talk.of(args)
    with Activity(talk) as activity:

        def progress(stage: str, part: float) -> None:
            activity.step(_DOING[stage])
            activity.part(part)

        activity.step(_DOING["load"])
        models = [store.load(path) for path in args.models]
        dims = parse_dims(args.dim, *models) if args.dim else {}
        if args.batch is not None:
            dims |= _batch(models, dims, args.batch)
        report = onnxprune.bench(
            args.models,
            threads=args.threads,
            dims=dims,
            provider=args.provider,
            runs=args.runs,
            seconds=args.seconds,
            measure_memory=args.memory,
            on_progress=progress,
        )
    talk.result({"command": "bench", **report.to_dict()}, _parts(report, talk))
    return 0


def _batch(models: Sequence[Model], dims: dict[str, int], batch: int) -> dict[str, int]:
    """The batch size bound to every free dimension that is a batch."""
    inputs = [x for model in models for x in inputs_of(model, dims)]
    free, unbound = (candidates(inputs, given, batch=batch)[0] for given in (dims, {}))
    keys = [key for key in free if kind_of(inputs, key) == "batch"]
    for key in keys:
        if free[key] != batch == unbound[key]:
            raise UserError(f"--batch {batch} contradicts --dim, which makes {key!r} {free[key]}")
    if not keys and batch != 1:
        listed = f"the free dimensions are {', '.join(free)}, use --dim" if free else "all inputs are of fixed size"
        raise UserError(f"--batch {batch}: no input has a free batch dimension; {listed}")
    return {key: batch for key in keys if key not in dims}


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not a time in seconds")
    return value


def _parts(report: BenchReport, talk: Talk) -> list[Part]:
    memory = any(row.peak_memory for row in report.rows)
    columns = [Column("Model", name=True), Column("Median"), Column("10% to 90%"), Column("Speed-up")]
    columns += [Column("Params"), Column("File"), *([Column("Memory")] if memory else [])]
    rows = []
    for index, row in enumerate(report.rows):
        spread = f"{row.p10_ms:.3g} to {row.p90_ms:.3g}"
        speedup = f"{row.speedup:.2f}x" if index else ""
        cells = [row.name, milliseconds(row.median_ms), spread, speedup, count(row.params), size(row.file_bytes)]
        rows.append([*cells, *([size(row.peak_memory or 0)] if memory else [])])
    parts: list[Part] = [Grid(columns, rows), "", _how(report)]
    if talk.verbose:
        for row in report.rows:
            shapes = ", ".join(f"{name} {list(shape)}" for name, shape in row.inputs.items())
            parts.append(f"{row.name}: speed-up {row.speedup_p10:.2f}x to {row.speedup_p90:.2f}x; inputs {shapes}")
    return parts


def _how(report: BenchReport) -> str:
    threads = plural(report.threads, "thread") if report.threads else "as many threads as onnxruntime likes"
    at = f", {bindings(report.dims)}" if report.dims else ""
    provider = report.provider.removesuffix("ExecutionProvider")
    return f"{plural(report.rounds, 'round')} in turn, {threads}, {provider}, onnxruntime {report.onnxruntime}{at}."
