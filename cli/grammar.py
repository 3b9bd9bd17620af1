"""The tree of commands and options as plain data, read off argparse: what completion scripts and tests go by."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from onnxprune.cli.arguments import Parser, Words, file_name


@dataclass(frozen=True)
class Argument:
    """An option or a positional argument."""

    flags: tuple[str, ...]
    """Empty: it is positional."""
    takes: str
    """nothing, words, file or text."""
    words: tuple[str, ...]
    """What it can be, if it takes words."""
    summary: str


@dataclass(frozen=True)
class Node:
    """A command; the root has no name."""

    path: tuple[str, ...]
    """`("zoo", "build")`."""
    summary: str
    arguments: tuple[Argument, ...]
    below: tuple[Node, ...]

    def all(self) -> list[Node]:
        """It and all below it."""
        return [self, *(node for child in self.below for node in child.all())]


def grammar(parser: Parser, path: tuple[str, ...] = (), summary: str = "") -> Node:
    """Of a parser and all below it."""
    arguments = [_argument(parser, action) for action in parser._actions if _is_offered(action)]
    summaries = parser.summaries
    below = [grammar(child, (*path, name), summaries.get(name, "")) for name, child in parser.commands.items()]
    return Node(path, summary, tuple(arguments), tuple(below))


def _is_offered(action: argparse.Action) -> bool:
    return not isinstance(action, argparse._SubParsersAction) and action.help != argparse.SUPPRESS


def _argument(parser: Parser, action: argparse.Action) -> Argument:
    words: tuple[str, ...] = ()
    if action.nargs == 0:
        takes = "nothing"
    elif action.choices is not None:
        takes, words = "words", tuple(map(str, action.choices))
    elif isinstance(action.type, Words):
        takes, words = "words", action.type.known
    else:
        takes = "file" if action.type is file_name else "text"
    # argparse fills in %(default)s and the like only as it prints
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    return Argument(tuple(action.option_strings), takes, words, _first(text, words))


def _first(text: str, words: tuple[str, ...]) -> str:
    """As much of a help text as has room beside an option; one that explains word by word stays as it is."""
    for mark in (" (", "; ", ", such as", ": "):
        first = text.partition(mark)[0]
        text = text if first in words else first
    return " ".join(text.split())
