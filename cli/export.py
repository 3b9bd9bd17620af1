"""`onnxprune export`: a torch module as an ONNX file, with BatchNormalization and the names of its parameters."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxprune
from onnxprune.cli.arguments import Commands, command, file_name, finished, positive
from onnxprune.cli.progress import Activity
from onnxprune.cli.talk import Talk
from onnxprune.errors import MissingExtra, UserError
from onnxprune.figures import noise, plural
from onnxprune.functions import function_of, theirs
from onnxprune.replacing import check_writable

_EXAMPLES = """\
examples:
  onnxprune export mine.models:small --input 1,3,224,224 -o model.onnx
  onnxprune export mine:bert --input ids:int64:1,time=128 -o bert.onnx
"""
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool")
_SIZE = re.compile(r"(?:([A-Za-z_]\w*)=)?([1-9]\d{0,8})")
SEED = 0
"""Of the numbers in the examples."""


@dataclass(frozen=True)
class Input:
    """An example of one input: `[NAME:][TYPE:]SIZES`."""

    name: str
    """Empty: the next parameter of forward."""
    dtype: str
    sizes: tuple[int, ...]
    free: tuple[tuple[int, str], ...]
    """Axes that were given a name, and the name."""


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "export",
        "MODULE:FUNCTION --input SIZES",
        "write a torch module as an ONNX file",
        "Call a function of yours that returns a torch module, and write the module as an ONNX file that keeps "
        "BatchNormalization and the names of all parameters, so that it can be pruned and trained. The file appears "
        "once onnxruntime says the same as the module. It needs torch.",
        _EXAMPLES,
        ratio=False,
    )
    parser.add_argument(
        "factory", metavar="MODULE:FUNCTION", help="a function without arguments; modules are looked for here first"
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=file_name, help="file to write (default: FUNCTION.onnx in this folder)"
    )
    parser.add_argument(
        "--input",
        metavar="SIZES",
        type=_input,
        action="append",
        required=True,
        dest="inputs",
        help="example of an input, [NAME:][TYPE:]SIZES: 1,3,224,224 or ids:int64:1,time=128; the first axis and those "
        "with a name stay free (repeatable, in the order of forward's parameters or by their names)",
    )
    parser.add_argument("--static-batch", action="store_true", help="fix the first axis as well")
    parser.add_argument("--opset", metavar="N", type=positive, help="opset to write (default: torch's)")
    parser.add_argument(
        "--fold-batchnorm", action="store_true", help="merge BatchNormalization, as torch does by default"
    )
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    talk = Talk.of(args)
    output = Path(args.output or f"{args.factory.rpartition(':')[2].rpartition('.')[2]}.onnx")
    check_writable(output)
    named = [bool(each.name) for each in args.inputs]
    if any(named) and not all(named):
        raise UserError("give all inputs a name, or none")
    with Activity(talk) as activity:
        activity.step("building the module")
        module = _module(args.factory)
        names, examples = _examples(module, args.inputs)
        free = {
            name: {**({} if args.static_batch else {0: "batch"}), **dict(each.free)}
            for name, each in zip(names, args.inputs, strict=True)
        }
        activity.step("exporting")
        found = onnxprune.export(
            module,
            dict(zip(names, examples, strict=True)) if all(named) else tuple(examples),
            output,
            keep_batchnorm=not args.fold_batchnorm,
            dynamic=free,
            opset=args.opset,
        )
    talk.note(f"wrote {output}")
    graph = found.model.graph
    document = {
        "factory": args.factory,
        "output": output,
        "opset": found.model.opset,
        "nodes": len(graph.node),
        "weights": len(found.model.weights),
        "renamed": found.renamed,
        "error": found.error,
        "silent": found.silent,
    }
    size = f"{plural(len(graph.node), 'node')}, {plural(len(found.model.weights), 'weight')}, opset {found.model.opset}"
    lines = [f"{size}; outputs equal to the module's within {noise(found.error)}."]
    if found.silent:
        lines.append("The outputs are next to nothing, as of a network before training: their comparison says little.")
    if found.renamed:
        shown = ", ".join(found.renamed[:3]) + (", ..." if len(found.renamed) > 3 else "")
        lines.append(f"Not there under their own names: {plural(len(found.renamed), 'tensor')} ({shown}).")
    talk.result({"command": "export", **document}, lines, wrote=[output])
    return 0


def _module(name: str) -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise MissingExtra("this needs torch, which is not installed: pip install 'onnxprune[torch]'") from None
    factory = function_of(name)
    with theirs(name):
        module = factory()
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"{name!r} returns {type(module).__name__}: it must return a torch.nn.Module")
    return module


def _examples(module: Any, inputs: list[Input]) -> tuple[list[str], list[Any]]:
    """Names of forward's parameters, and tensors of these sizes; small integers, which any table has."""
    import inspect

    import torch

    parameters = [*inspect.signature(module.forward).parameters]
    names = [each.name or (parameters[i] if i < len(parameters) else f"input{i}") for i, each in enumerate(inputs)]
    generator = torch.Generator().manual_seed(SEED)
    tensors = []
    for each in inputs:
        dtype = getattr(torch, each.dtype)
        if dtype.is_floating_point:
            tensors.append(torch.randn(each.sizes, generator=generator).to(dtype))
        else:
            tensors.append(torch.randint(0, 2, each.sizes, generator=generator).to(dtype))
    return names, tensors


def _input(text: str) -> Input:
    *words, sizes = text.split(":")
    found = [_SIZE.fullmatch(part) for part in sizes.split(",")]
    if len(words) > 2 or not all(found):
        raise ArgumentTypeError(f"{text!r} is no input, such as 1,3,224,224 or ids:int64:1,time=128")
    dtype = words[-1] if words and words[-1] in DTYPES else None
    name = "".join(words[:-1] if dtype else words)
    if dtype is None and len(words) > 1:
        raise ArgumentTypeError(f"{words[-1]!r} in {text!r} is no type (there are: {', '.join(DTYPES)})")
    pairs = [match.groups() for match in found if match is not None]
    free = tuple((axis, called) for axis, (called, _) in enumerate(pairs) if called)
    return Input(name, dtype or "float32", tuple(int(size) for _, size in pairs), free)
