"""`onnxprune quantize`: a model in 8 bits or half floats, and what that changes."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from onnxprune.accuracy.evaluate import Evaluation
from onnxprune.cli import data_arguments, source
from onnxprune.cli.arguments import Commands, add_dims, add_model, add_threads, command, file_name, finished
from onnxprune.cli.progress import DOING, Activity
from onnxprune.cli.tables import Column, Grid, Part
from onnxprune.cli.talk import Talk
from onnxprune.files.model import Model
from onnxprune.files.replacing import check_writable
from onnxprune.files.store import check_target, save
from onnxprune.passes import Quantize
from onnxprune.rewrites.quantize import FORMATS, quantize
from onnxprune.text.figures import change, milliseconds, noise, percent, plural, size
from onnxprune.timing.bench import BenchReport, BenchRow, bench

BENCH_SECONDS = 2.0

_EXAMPLES = """\
examples:
  onnxprune quantize                              the small network shipped
  onnxprune quantize small.onnx --data photos/ --limit 500
  onnxprune quantize small.onnx --to fp16 -o half.onnx
"""


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "quantize",
        "[MODEL]",
        "write a model in 8 bits or half floats",
        "Have onnxruntime's tools write the model in another number format, run both on data, and say how far apart "
        "they are and how fast. Quantise what was pruned, rather than the other way round.",
        _EXAMPLES,
    )
    add_model(parser)
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=file_name, help="file to write (default: NAME-FORMAT.onnx)"
    )
    parser.add_argument(
        "--to",
        choices=tuple(FORMATS),
        default="int8",
        help="int8: weights and what flows between them, calibrated on --data (default); int8-dynamic: products only, "
        "without data; fp16: half floats",
    )
    parser.add_argument(
        "--per-tensor", action="store_true", help="one scale for each weight instead of one for each of its channels"
    )
    data_arguments.add(parser)
    add_dims(parser)
    add_threads(parser)
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    talk = Talk.of(args)
    path = Path(args.model) if args.model else source.default_path()
    output = Path(args.output) if args.output else Path(f"{path.stem}-{args.to}.onnx")
    check_writable(output)
    args.data = args.data or (None if args.model else data_arguments.SEEN)
    request = data_arguments.asked(args, embedded=False) if args.data else None
    Quantize(args.to, request).check()
    with Activity(talk) as activity:
        activity.step("reading")
        given = source.opened(path, args.dim)
        check_target(given.model, output)
        data = data_arguments.opened(request or Quantize.unlabelled(), given.model, given.dims)
        activity.step(DOING["Quantize"])
        found = quantize(given.model, data, args.to, per_channel=not args.per_tensor, threads=args.threads)
        activity.step(DOING["Bench"])
        times = bench(
            [given.model, found.model],
            names=["original", args.to],
            threads=args.threads,
            dims=given.dims or ({} if args.model else {"batch": 64}),
            seconds=BENCH_SECONDS,
        )
        activity.step(DOING["Save"])
        save(found.model, output)
    talk.note(f"wrote {output}")
    document = {
        "command": "quantize",
        "model": path,
        "output": output,
        "to": args.to,
        "per_channel": not args.per_tensor,
        "bytes": [given.model.nbytes, found.model.nbytes],
        "data": asdict(found.evaluation),
        "bench": times.to_dict(),
    }
    talk.result(document, _parts(args.to, (given.model, found.model), found.evaluation, times), wrote=[output])
    return 0


def _parts(to: str, models: tuple[Model, Model], found: Evaluation, times: BenchReport) -> list[Part]:
    (before, after), (a, b) = (model.nbytes for model in models), times.rows
    rows = [
        ["weights", size(before), size(after), change(before, after)],
        ["latency", milliseconds(a.median_ms), milliseconds(b.against(a)), change(a.median_ms, b.against(a))],
        ["speed-up", "", f"{b.speedup:.2f}x", f"{b.speedup_low:.2f}x to {b.speedup_high:.2f}x"],
    ]
    samples = f"of {plural(found.samples, 'sample')}"
    if found.top1 is not None:
        rows.append(["accuracy", "", percent(found.top1), samples])
    if found.agreement is not None:
        rows.append(["agreement", "", percent(found.agreement), samples])
    if found.deviation is not None:
        rows.append(["output deviation", "", noise(found.deviation), ""])
    return [Grid((Column("", name=True), Column("original"), Column(to), Column("change")), rows), *_warned(to, b)]


def _warned(to: str, row: BenchRow) -> list[Part]:
    if row.verdict == "faster":
        return []
    if row.verdict == "too noisy to tell":
        return [f"Warning: the machine was too noisy to tell whether {to} is faster."]
    how = "SLOWER than" if row.verdict == "slower" else "no faster than"
    return [f"Warning: {to} is {how} the original on this machine."]
