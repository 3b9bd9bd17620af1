"""The command line: parsing, rendering and exit codes.

    0    done
    2    a mistake in what was given: one line on stderr, nothing written
    3    a pruned model did not pass verification: likewise
    4    done, but the result could not be printed
    130  interrupted (129 and 143: by SIGHUP and SIGTERM); nothing written
    141  whoever read the output has gone

stdout is the result, stderr the talk. What escapes here otherwise is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from onnxprune.cli import (
    analyze,
    apply,
    bench,
    compare,
    completion,
    doctor,
    export,
    finetune,
    fold,
    ops,
    profile,
    prune,
    quantize,
    run,
    sensitivity,
    unfold,
    verify,
    zoo,
)
from onnxprune.cli.arguments import RATIO, Parser, unknown
from onnxprune.cli.ending import code_of, keep_standard_streams, orderly
from onnxprune.cli.talk import Unheard, say, stdout
from onnxprune.errors import UserError
from onnxprune.version import __version__

GROUPS = (
    ("what is in a model", (analyze, ops)),
    ("making it smaller", (prune, apply, verify, quantize, run)),
    ("training", (export, unfold, finetune, fold)),
    ("measuring", (bench, profile, sensitivity, compare)),
    ("networks to try it on", (zoo,)),
    ("this installation", (doctor, completion)),
)
"""All commands, by what people want."""

BROKEN_PIPE = 141

_EXAMPLES = f"""\
examples:
  onnxprune prune --ratio 0.3 --criterion fpgm    on the small network shipped
  onnxprune analyze model.onnx                    what can go, what cannot, why
  onnxprune prune model.onnx -o small.onnx --ratio 0.3 --criterion l1

{RATIO}

`onnxprune COMMAND --help` explains a command. A word in brackets behind an
error, such as [nothing-to-cut], is the name of its entry in docs/errors.md.
"""


def parser() -> Parser:
    """The whole grammar."""
    top = Parser(
        prog="onnxprune",
        usage="%(prog)s COMMAND [options]",
        description="Structured pruning of ONNX models: find the channels that must go together,\n"
        "cut them out, and prove that the result is the original with those channels\nset to zero.",
        epilog=_EXAMPLES,
    )
    top.add_argument("--version", action="version", version=f"onnxprune {__version__}")
    commands = top.add_subparsers(prog="onnxprune", dest="command", help=argparse.SUPPRESS)
    listed: list[argparse.Action] = commands._choices_actions
    for title, members in GROUPS:
        before = len(listed)
        for command in members:
            command.add(commands)
        rows = [f"  {action.dest:<12} {action.help}" for action in listed[before:]]
        top.description = "\n".join([top.description or "", "", f"{title}:", *rows])
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    keep_standard_streams()
    try:
        with orderly():
            return _run(argv)
    except UserError as error:
        if isinstance(error, Unheard):
            _forget_stdout()
        code = f" [{error.code}]" if error.code else ""
        say(f"onnxprune: error: {' '.join(str(error).split())}{code}")
        return error.exit_code
    except KeyboardInterrupt as interruption:
        say("onnxprune: interrupted")
        return code_of(interruption)
    except BrokenPipeError:
        _forget_stdout()
        return BROKEN_PIPE


def _run(argv: Sequence[str] | None) -> int:
    try:
        top = parser()
        args, rest = top.parse_known_args(argv)
    except SystemExit as end:  # argparse, after --help and --version
        with stdout():
            return int(end.code or 0)
    if args.command is None:
        *names, last = top.commands
        raise UserError(f"name a command: {', '.join(names)} or {last} (see 'onnxprune --help')")
    if rest:
        raise UserError(unknown(top, args.command, rest[0]))
    args.typed = list(sys.argv[1:] if argv is None else argv)
    code: int = args.run(args)
    return code


def _forget_stdout() -> None:
    """Else the interpreter tries to flush what nobody reads, and complains, when it ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):  # stdout is closed, or no file, as in a notebook
        pass
