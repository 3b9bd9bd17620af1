"""What the commands' arguments have in common: one spelling and one explanation for the same thing.

Every mistake in them is a UserError, hence one line and exit code 2 like any other mistake.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, NoReturn, TypeVar

from onnxprune.analysis.analyze import ATTENTION
from onnxprune.checking.verify import MODES
from onnxprune.errors import UserError
from onnxprune.execution.runtime import MOST_THREADS
from onnxprune.text.names import suggest

T = TypeVar("T")

Commands = Any
"""What argparse's `add_subparsers` returns; its type is private."""

_NEAR = 0.6
"""How alike an option must be to be the one that was meant."""

WIDTH = 79
"""Of help texts."""

RATIO = """\
A ratio is the fraction of prunable units (channels that must go together) to
remove from each group. It is not a fraction of the parameters or of the work:
`--ratio 0.5` on a chain of convolutions leaves about a quarter of both."""


class Parser(argparse.ArgumentParser):
    """Raises instead of printing its usage and leaving."""

    def __init__(self, **options: Any) -> None:
        # no abbreviations: an option added later must not change what an old script means
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see '{self.prog} --help')")

    @property
    def summaries(self) -> dict[str, str]:
        """A line about each of those below it."""
        found = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return {each.dest: each.help or "" for action in found for each in action._choices_actions}

    @property
    def commands(self) -> dict[str, Parser]:
        """Those below it, by name."""
        found = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return next((dict(action.choices) for action in found), {})


def command(
    commands: Commands,
    name: str,
    usage: str,
    summary: str,
    description: str,
    examples: str,
    *,
    ratio: bool = True,
) -> Parser:
    """A command with its help; `finished` gives it what all of them have. `ratio`: it has to do with ratios."""
    parser: Parser = commands.add_parser(
        name,
        usage=" ".join(filter(None, ["%(prog)s", usage, "[options]"])),
        help=summary,
        description=textwrap.fill(description, WIDTH),
        epilog=f"{examples}\n{RATIO}" if ratio else examples,
    )
    return parser


def finished(parser: Parser, run: Callable[[argparse.Namespace], int]) -> None:
    """The options that all commands have, below their own, and the function that does it."""
    talk = parser.add_argument_group("output")
    talk.add_argument("--json", action="store_true", help="print the result as one JSON document")
    talk.add_argument("-q", "--quiet", action="store_true", help="no progress and no notes on stderr")
    talk.add_argument("-v", "--verbose", action="store_true", help="more detail, and how long each step takes")
    parser.set_defaults(run=run)


def unknown(top: Parser, command: str, argument: str) -> str:
    """What to say of an argument that nobody takes."""
    known = top.commands[command]._option_string_actions
    name = argument.split("=")[0]
    # all options begin with dashes, which makes them look alike
    near = [option for option in known if SequenceMatcher(None, name.strip("-"), option.strip("-")).ratio() > _NEAR]
    hint = suggest(name, near) if argument.startswith("-") else ""
    return f"unrecognized argument {argument!r}{hint} (see 'onnxprune {command} --help')"


def add_model(parser: Parser) -> None:
    """The model, or the embedded one."""
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", type=file_name, help="ONNX file (default: the small network shipped)"
    )


def add_output(parser: Parser, suffix: str = "pruned") -> None:
    """Where the result goes."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=file_name,
        help=f"file to write (default: NAME-{suffix}.onnx in the current folder)",
    )


def add_dims(parser: Parser) -> None:
    """Sizes that the file leaves open."""
    parser.add_argument(
        "--dim",
        metavar="NAME=N",
        action="append",
        default=[],
        help="size of a free dimension of the inputs, such as batch=4 or x:2=224 (repeatable; default: a guess)",
    )


def add_inexact(parser: Parser) -> None:
    """Whether there may be cuts that cannot be proved."""
    parser.add_argument(
        "--allow-inexact",
        action="store_true",
        help="also cut where the kept channels then compute something else (layer norm, softmax, mean)",
    )


def add_analysis(parser: Parser) -> None:
    """What analysis may offer."""
    add_inexact(parser)
    parser.add_argument(
        "--attention",
        choices=ATTENTION,
        default="heads",
        help="what is cut in attention: whole heads (default), dims within all heads alike, or nothing (off)",
    )


def add_threads(parser: Parser) -> None:
    """For verification and measurement."""
    parser.add_argument(
        "--threads",
        metavar="N",
        type=threads,
        default=1,
        help="threads of onnxruntime; 0: as many as it likes (default: 1)",
    )


def add_checks(parser: Parser) -> None:
    """How the result is verified and timed before it is written."""
    checks = parser.add_argument_group("checks, before anything is written")
    checks.add_argument(
        "--verify",
        choices=MODES,
        default="numeric",
        help="numeric: compare with the masked original in onnxruntime (default); structural: check types and shapes; "
        "off: neither",
    )
    checks.add_argument(
        "--no-verify", action="store_const", const="off", dest="verify", help="the same as --verify off"
    )
    checks.add_argument(
        "--no-bench", action="store_true", help="do not measure latency (never done without numeric verification)"
    )


@dataclass(frozen=True)
class Words:
    """The type of an option whose usual words are known; others are for those to refuse who read it."""

    known: tuple[str, ...]

    def __call__(self, text: str) -> str:
        return text


def file_name(text: str) -> str:
    """The name of a file, as far as that can be told without looking."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a file")
    return text


def threads(text: str) -> int:
    """A number of threads, 0 for as many as onnxruntime likes."""
    found = whole(text)
    if found > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"at most {MOST_THREADS} threads are possible")
    return found


def whole(text: str) -> int:
    """A whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if whole(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def listed(each: Callable[[str], T]) -> Callable[[str], list[T]]:
    """`1,8`: the type of an option that takes several values, or one."""

    def parse(text: str) -> list[T]:
        return [each(word.strip()) for word in text.split(",")]

    return parse
