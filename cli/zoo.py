"""`onnxprune zoo`: known networks by name, as files with random weights, or trained on pictures."""

from __future__ import annotations

import time
from argparse import ArgumentTypeError, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxprune.cli.arguments import Commands, Words, command, file_name, finished, positive, whole
from onnxprune.cli.progress import Activity
from onnxprune.cli.tables import Column, Grid, Part
from onnxprune.cli.talk import Talk
from onnxprune.counting.cost import Cost, cost
from onnxprune.errors import UserError
from onnxprune.files.replacing import check_writable
from onnxprune.files.store import load
from onnxprune.graph.normalize import normalize
from onnxprune.models_zoo import building
from onnxprune.models_zoo.registry import NETWORKS, Network, network
from onnxprune.models_zoo.trainable import RECIPES, SIDE, recipe
from onnxprune.text.figures import count, percent, plural, size

_EXAMPLES = """\
examples:
  onnxprune zoo list
  onnxprune zoo build resnet50 -o resnet50.onnx
  onnxprune zoo train resnet20 --data cifar10.zip -o resnet20.onnx
"""
_LIST = """\
examples:
  onnxprune zoo list
  onnxprune zoo list --json
"""
_BUILD = """\
examples:
  onnxprune zoo build resnet50
  onnxprune zoo build retinanet_r50_fpn --size height=320 --size width=320
  onnxprune zoo build llama -o small.onnx --size layers=2 --size width=192 \\
      --size heads=6 --size kv_heads=2 --size vocabulary=1000
"""
_TRAIN = """\
examples:
  onnxprune zoo train slim_vgg --data cifar10.zip
  onnxprune zoo train resnet20 --data photos/ --epochs 30 -o resnet20.onnx
"""


def add(commands: Commands) -> None:
    """The commands' arguments."""
    parser = command(
        commands,
        "zoo",
        "COMMAND",
        "build known networks, or train small ones",
        "Known networks, to try things on: written out in torch (extra `torch`), as ONNX files with the names of their "
        "layers and BatchNormalization kept, and a free batch.",
        _EXAMPLES,
        ratio=False,
    )
    below = parser.add_subparsers(prog="onnxprune zoo", title="commands", metavar="COMMAND", dest="zoo_command")
    listing = command(
        below, "list", "", "name the networks and how large they are", "List the networks.", _LIST, ratio=False
    )
    finished(listing, run_list)
    _add_build(below)
    _add_train(below)
    parser.set_defaults(run=run)


def _add_build(commands: Commands) -> None:
    parser = command(
        commands,
        "build",
        "NAME",
        "write a network with random weights",
        "Write a network as an ONNX file. Its weights are random, the same for the same seed.",
        _BUILD,
        ratio=False,
    )
    parser.add_argument("name", metavar="NAME", type=Words(tuple(NETWORKS)), help="see `onnxprune zoo list`")
    _add_output(parser)
    parser.add_argument(
        "--size",
        metavar="KEY=N",
        action="append",
        type=_size,
        default=[],
        help="another size than the usual one, such as classes=20 (repeatable; `zoo list -v` names the keys)",
    )
    _add_seed(parser)
    finished(parser, run_build)


def _add_train(commands: Commands) -> None:
    parser = command(
        commands,
        "train",
        "NAME --data DATA",
        "train a small network on pictures",
        "Train a network for pictures of 32 px and write it as an ONNX file. Where DATA has the folders train and "
        "test, these are what it is trained on and measured on; else every tenth picture is held out to measure it.",
        _TRAIN,
        ratio=False,
    )
    known = tuple(RECIPES)
    parser.add_argument("name", metavar="NAME", type=Words(known), help=f"one of {', '.join(known)}")
    parser.add_argument(
        "--data",
        metavar="DATA",
        type=file_name,
        required=True,
        help="a folder of class folders of pictures, or a .zip of one",
    )
    _add_output(parser)
    parser.add_argument("--epochs", metavar="N", type=positive, help="passes over the data (default: the recipe's)")
    _add_seed(parser)
    finished(parser, run_train)


def _add_output(parser: Any) -> None:
    parser.add_argument("-o", "--output", metavar="OUT", type=file_name, help="file to write (default: NAME.onnx)")


def _add_seed(parser: Any) -> None:
    parser.add_argument("--seed", metavar="N", type=whole, default=0, help="for whatever is random (default: 0)")


def run(args: Namespace) -> int:
    """`zoo` alone."""
    raise UserError("name what to do: list, build or train (see 'onnxprune zoo --help')")


def run_list(args: Namespace) -> int:
    """`zoo list`."""
    talk = Talk.of(args)
    columns = [Column("Name", name=True), Column("Params"), Column("MACs"), Column("Recipe"), Column("What", name=True)]
    rows = [_row(item) for item in NETWORKS.values()]
    parts: list[Part] = [
        Grid(columns, rows),
        "",
        f"{plural(len(rows), 'network')}; sizes as published, else as counted here.",
    ]
    if talk.verbose:
        keys = [[item.name, " ".join(f"{key}={n}" for key, n in item.sizes.items())] for item in NETWORKS.values()]
        parts += ["", Grid([Column("Name", name=True), Column("Sizes", name=True)], keys)]
    talk.result({"command": "zoo list", "networks": [_document(item) for item in NETWORKS.values()]}, parts)
    return 0


def run_build(args: Namespace) -> int:
    """`zoo build`."""
    talk = Talk.of(args)
    network(args.name)
    path = Path(args.output or f"{args.name}.onnx")
    check_writable(path)
    with Activity(talk) as activity:
        activity.step("building")
        built = building.build(args.name, dict(args.size), seed=args.seed)
        building.jitter(built.module)
        activity.step("exporting")
        building.write(built, path)
        activity.step("counting")
        found = cost(normalize(load(path)))
    document = {"name": args.name, "sizes": dict(args.size), "seed": args.seed, **_counted(found, path)}
    talk.result({"command": "zoo build", **document}, [f"{path}: {_said(found)}; random weights."], wrote=[path])
    return 0


def run_train(args: Namespace) -> int:
    """`zoo train`."""
    talk = Talk.of(args)
    wanted = recipe(args.name)
    path = Path(args.output or f"{args.name}.onnx")
    check_writable(path)
    if args.epochs:
        wanted = replace(wanted, epochs=args.epochs)
    building.require_torch()
    from onnxprune.models_zoo import training
    from onnxprune.models_zoo.pictures import pictures

    start = time.monotonic()
    with Activity(talk) as activity:
        activity.step("reading pictures")
        data = pictures(Path(args.data), SIDE)
        activity.step("training")
        built = building.build(args.name, {"classes": len(data.classes)}, seed=args.seed)

        def on_step(done: int, total: int, loss: float) -> None:
            activity.part(done / total)
            if done % (total // wanted.epochs) == 0:
                talk.detail(f"epoch {done * wanted.epochs // total} of {wanted.epochs}: loss {loss:.3f}")

        training.train(built.module, data.train, wanted, seed=args.seed, on_step=on_step)
        activity.step("measuring")
        right = training.accuracy(built.module, data.held_out)
        activity.step("exporting")
        building.write(built, path)
        found = cost(normalize(load(path)))
    samples, seconds = len(data.held_out.labels), time.monotonic() - start
    talk.result(
        {
            "command": "zoo train",
            "name": args.name,
            "data": args.data,
            "epochs": wanted.epochs,
            "seed": args.seed,
            "classes": data.classes,
            "accuracy": right,
            "held_out": samples,
            "seconds": seconds,
            **_counted(found, path),
        },
        [
            f"{path}: {percent(right)} of {plural(samples, 'held-out picture')}; {_said(found)}; {seconds:.0f} s.",
            f"It takes pixels from 0 to 1, normalised: --mean {_list(training.MEAN)} --std {_list(training.STD)}",
        ],
        wrote=[path],
    )
    return 0


def _row(item: Network) -> list[str]:
    said = item.published
    trained = "yes" if item.name in RECIPES else ""
    return [item.name, count(1e6 * said.params), count(1e6 * said.macs), trained, item.about]


def _document(item: Network) -> dict[str, Any]:
    return {
        "name": item.name,
        "about": item.about,
        "sizes": dict(item.sizes),
        "params": round(1e6 * item.published.params),
        "macs": round(1e6 * item.published.macs),
        "source": item.published.source,
        "trainable": item.name in RECIPES,
    }


def _counted(found: Cost, path: Path) -> dict[str, Any]:
    return {"output": path, "params": found.params, "macs": found.macs, "bytes": path.stat().st_size}


def _said(found: Cost) -> str:
    return f"{count(found.params)} parameters, {count(found.macs)} MACs, {size(found.bytes)}"


def _list(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:.4f}" for number in numbers)


def _size(text: str) -> tuple[str, int]:
    key, equals, value = text.partition("=")
    if not key or not equals or not value.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a size, such as classes=20")
    return key, int(value)
