"""`onnxprune finetune`: train a model on, from file to file, with nobody's Python model."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.accuracy.evaluate import Evaluation
from onnxprune.cli import data_arguments, source
from onnxprune.cli.arguments import Commands, Parser, add_dims, command, file_name, finished, positive, whole
from onnxprune.cli.files import distinct
from onnxprune.cli.progress import Activity
from onnxprune.cli.tables import Column, Grid, Part
from onnxprune.cli.talk import Talk
from onnxprune.files import store
from onnxprune.files.store import check_target
from onnxprune.graph.normalize import restore
from onnxprune.passes import Finetune
from onnxprune.pipeline.manager import State
from onnxprune.text.figures import noise, percent, plural
from onnxprune.training.recipe import (
    OPTIMIZERS,
    OPTIONS,
    PRECISIONS,
    SCHEDULES,
    SPARSITIES,
    checked_options,
    read_recipe,
)

if TYPE_CHECKING:
    from onnxprune.training.log import Epoch
    from onnxprune.training.loop import Moment
    from onnxprune.training.tune import Tuned

_EXAMPLES = """\
examples:
  onnxprune finetune pruned.onnx --data train/ --val val/ --epochs 10
  onnxprune finetune pruned.onnx --data photos/ --teacher original.onnx
  onnxprune finetune model.onnx --data train/ --sparsity bn-l1

In several processes: torchrun --nproc-per-node 4 -m onnxprune finetune ...
"""


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "finetune",
        "MODEL --data DATA",
        "train a model on, with or without labels",
        "Translate the model to torch, train it, and write the new weights into the same graph. What is written was "
        "compared with torch in onnxruntime first. A checkpoint is kept of every epoch: the same command goes on where "
        "it was stopped.",
        _EXAMPLES,
    )
    parser.add_argument("model", metavar="MODEL", type=file_name, help="ONNX file")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=file_name,
        help="file to write (default: NAME-tuned.onnx in the current folder)",
    )
    data_arguments.add_training(parser)
    _add_learning(parser)
    _add_images(parser)
    _add_teacher(parser)
    _add_sparsity(parser)
    _add_run(parser)
    add_dims(parser)
    finished(parser, run)


def _add_learning(parser: Parser) -> None:
    """None of them has a default here: what is not given is left to the file, then to `Recipe`."""
    group = parser.add_argument_group("training (see docs/finetuning.md)")
    group.add_argument("--epochs", metavar="N", type=positive, help="passes over the data (default: 10)")
    group.add_argument("--batch", metavar="N", type=positive, help="samples per step and process (default: 64)")
    group.add_argument("--optimizer", choices=OPTIMIZERS, help="sgd, with Nesterov's momentum (default), or adamw")
    group.add_argument("--rate", metavar="R", type=float, help="the highest learning rate (default: 0.01, adamw 5e-4)")
    group.add_argument("--momentum", metavar="M", type=float, help="of sgd (default: 0.9)")
    group.add_argument(
        "--no-nesterov", action="store_const", const=False, dest="nesterov", help="sgd with plain momentum"
    )
    group.add_argument(
        "--weight-decay", metavar="W", type=float, help="of all but biases and norms (default: 1e-4, adamw 1e-2)"
    )
    group.add_argument("--schedule", choices=SCHEDULES, help="of the rate: cosine to zero (default), or constant")
    group.add_argument("--warmup", metavar="F", type=float, help="part of all steps in which it rises (default: 0.05)")
    group.add_argument("--clip", metavar="G", type=float, help="longest gradient; 0: any (default: 5)")
    group.add_argument("--smoothing", metavar="F", type=float, help="label smoothing (default: 0)")
    group.add_argument("--ema", metavar="D", type=float, help="use a running average of the weights, such as 0.999")
    group.add_argument("--precision", choices=PRECISIONS, help="of products: float32 (default) or bfloat16")
    group.add_argument("--patience", metavar="N", type=whole, help="stop after so many epochs that were no better")
    group.add_argument("--task", metavar="M", help="module:function, from outputs and batch to the loss")
    group.add_argument("--metric", metavar="M", help="module:function, from outputs and labels; more is better")
    group.add_argument("--seed", metavar="N", type=whole, help="of all that is random (default: 0)")
    group.add_argument(
        "--from-scratch", action="store_true", help="forget the weights, and train the structure from nothing"
    )
    for name, meaning in (("train", "also train"), ("freeze", "do not train")):
        group.add_argument(
            f"--{name}", metavar="GLOB", action="append", default=[], help=f"{meaning} weights of such a name"
        )


def _add_images(parser: Parser) -> None:
    group = parser.add_argument_group("images, while they are trained on")
    group.add_argument("--flip", action="store_const", const=True, help="turn half of them left to right")
    group.add_argument("--crop", metavar="N", type=whole, help="move them by up to so many pixels")
    group.add_argument("--jitter", metavar="F", type=float, help="change brightness, contrast and saturation")
    group.add_argument("--cutout", metavar="N", type=whole, help="hide a square of so many pixels")


def _add_teacher(parser: Parser) -> None:
    group = parser.add_argument_group("learning from a model")
    group.add_argument("--teacher", metavar="FILE", type=file_name, help="the original; labels are then optional")
    group.add_argument("--temperature", metavar="T", type=float, help="what logits are divided by (default: 4)")
    group.add_argument(
        "--alpha", metavar="F", type=float, help="the teacher's part beside labels; 1: ignore these (default: 0.9)"
    )
    group.add_argument(
        "--features", metavar="W", type=float, help="weight of what both compute on the way (default: 0)"
    )
    group.add_argument(
        "--features-at",
        metavar="GLOB",
        action="append",
        help="tensors to compare (default: the last one of every resolution)",
    )


def _add_sparsity(parser: Parser) -> None:
    group = parser.add_argument_group("before pruning")
    group.add_argument(
        "--sparsity", choices=SPARSITIES, help="press BatchNormalization scales, or whole channels, towards zero"
    )
    group.add_argument("--sparsity-weight", metavar="W", type=float, help="how strongly (default: 1e-3)")


def _add_run(parser: Parser) -> None:
    group = parser.add_argument_group("the run")
    group.add_argument("--config", metavar="FILE", type=file_name, help="TOML file with any options of training")
    group.add_argument(
        "--run",
        metavar="DIR",
        type=file_name,
        dest="folder",
        help="keep checkpoint and log.csv there (default: OUT.run, until OUT is written)",
    )
    group.add_argument("--tensorboard", action="store_true", help="also write TensorBoard's files there")
    group.add_argument("--bench", action="store_true", help="measure the exported model after every epoch")
    group.add_argument("--device", metavar="D", default="auto", help="cpu, cuda, ... (default: a GPU if there is one)")
    group.add_argument(
        "--sync-bn", action="store_const", const=True, help="normalise over the batches of all processes"
    )


def run(args: Namespace) -> int:
    """The command."""
    talk = Talk.of(args)
    first = os.environ.get("RANK", "0") == "0"
    talk = talk if first else replace(talk, quiet=True)
    path, step = Path(args.model), _decided(args)
    output = Path(args.output) if args.output else Path(f"{path.stem}-tuned.onnx")
    for given in (args.model, args.teacher):
        distinct([Path(given), output] if given else [])
    step.check()
    with Activity(talk) as activity:
        activity.step("reading")
        given = source.opened(path, args.dim)
        check_target(given.model, output)
        dims = tuple(given.dims.items())
        step = replace(
            step,
            data=replace(step.data, dims=dims),
            val=None if step.val is None else replace(step.val, dims=dims),
            folder=Path(args.folder) if args.folder else output.with_name(f"{output.name}.run"),
            watch=lambda: watching(activity, talk),
        )
        found = step.tuned(State(given.model))
        if not found.first:
            return 0
        activity.step("writing")
        store.save(restore(found.model), output)
        if not args.folder:
            _forget(found)
    for note in found.notes:
        talk.note(f"note: {note}")
    talk.note(f"wrote {output}")
    talk.result(_document(found, step, path, output), _parts(found), wrote=[output])
    return 0


def _decided(args: Namespace) -> Finetune:
    """The pass, its options checked before anything is read."""
    chosen = read_recipe(args.config) if args.config else {}
    chosen |= {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    data, val = data_arguments.training(args)
    return Finetune(
        **checked_options(chosen),
        data=data,
        val=val,
        teacher=Path(args.teacher) if args.teacher else None,
        from_scratch=args.from_scratch,
        train=tuple(args.train),
        freeze=tuple(args.freeze),
        device=args.device,
        tensorboard=args.tensorboard,
        bench=args.bench,
    )


def watching(activity: Activity, talk: Talk) -> dict[str, Any]:
    """What training tells while it runs."""

    def on_doing(what: str, part: float | None) -> None:
        activity.step(what)
        if part is not None:
            activity.part(part)

    def on_step(moment: Moment) -> None:
        activity.part(moment.part)
        right = "" if moment.accuracy is None else f", {percent(moment.accuracy)} right"
        activity.tell(
            f"epoch {moment.epoch}/{moment.epochs}, loss {moment.loss:.4g}{right}, {_duration(moment.left)} left"
        )

    def on_epoch(epoch: Epoch) -> None:
        talk.note(_line(epoch))

    return {"on_doing": on_doing, "on_step": on_step, "on_epoch": on_epoch, "on_note": talk.note}


def _line(epoch: Epoch) -> str:
    said = [f"epoch {epoch.number}: loss {epoch.loss:.4g}"]
    if epoch.measured is not None:
        said.append(f"validation loss {epoch.measured.loss:.4g}")
        if epoch.measured.metric is not None:
            said.append(f"metric {epoch.measured.metric:.4g}")
        elif epoch.measured.accuracy is not None:
            said.append(f"accuracy {percent(epoch.measured.accuracy)}")
    elif epoch.accuracy is not None:
        said.append(f"accuracy {percent(epoch.accuracy)} while training")
    if epoch.speedup is not None:
        said.append(f"{epoch.speedup:.2f}x as fast")
    return ", ".join([*said, _duration(epoch.seconds)])


def _forget(found: Tuned) -> None:
    """The checkpoint has done its work."""
    from onnxprune.training.checkpoint import remove

    if found.folder is not None:
        remove(found.folder)


def _document(found: Tuned, step: Finetune, path: Path, output: Path) -> Mapping[str, Any]:
    trained = found.trained
    return {
        "command": "finetune",
        "model": path,
        "output": output,
        "teacher": step.teacher,
        "options": {name: getattr(step, name) for name in OPTIONS},
        "before": None if found.before is None else asdict(found.before),
        "after": None if found.after is None else asdict(found.after),
        "epochs": [epoch.row() for epoch in trained.history],
        "chosen": trained.chosen,
        "stopped_early": trained.stopped,
        "seconds": trained.seconds,
        "verification": {"error": found.error},
        "notes": [*found.notes, *trained.notes],
    }


_FIGURES = (("top1", "accuracy"), ("top5", "top 5"), ("agreement", "agreement with the teacher"), ("metric", "metric"))


def _parts(found: Tuned) -> list[Part]:
    rows = []
    for name, title in _FIGURES:
        before, after = (_figure(each, name) for each in (found.before, found.after))
        if before or after:
            rows.append([title, before, after])
    columns = [Column("", name=True), Column("before"), Column("after")]
    trained = found.trained
    epochs = plural(len(trained.history), "epoch")
    early = ", stopped early" if trained.stopped else ""
    took = f"Trained for {epochs} in {_duration(trained.seconds)}{early}; epoch {trained.chosen} was written."
    samples = f" Measured on {plural(found.after.samples, 'sample')}." if found.after is not None else ""
    proof = f"onnxruntime and torch agree to {noise(found.error)}."
    shown: list[Part] = [Grid(columns, rows), ""] if rows else []
    return [*shown, f"{took}{samples}", proof]


def _figure(found: Evaluation | None, name: str) -> str:
    value = None if found is None else getattr(found, name)
    if value is None:
        return ""
    return f"{value:.4g}" if name == "metric" else percent(value)


def _duration(seconds: float) -> str:
    """`4 s`, `2:05`, `1:02:05`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
