"""`onnxprune export`: a torch module as an ONNX file, with BatchNormalization and the names of its parameters."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from pathlib import Path

from onnxprune.bridge.factory import Input, export_factory, input_of
from onnxprune.cli.arguments import Commands, command, file_name, finished, positive
from onnxprune.cli.progress import Activity
from onnxprune.cli.talk import Talk
from onnxprune.errors import UserError
from onnxprune.files.replacing import check_writable
from onnxprune.text.figures import noise, plural

_EXAMPLES = """\
examples:
  onnxprune export mine.models:small --input 1,3,224,224 -o model.onnx
  onnxprune export mine:bert --input ids:int64:1,time=128 -o bert.onnx
"""


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
    with Activity(talk) as activity:
        found = export_factory(
            args.factory,
            args.inputs,
            output,
            static_batch=args.static_batch,
            fold_batchnorm=args.fold_batchnorm,
            opset=args.opset,
            on_doing=activity.step,
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


def _input(text: str) -> Input:
    try:
        return input_of(text)
    except UserError as error:
        raise ArgumentTypeError(str(error)) from None
