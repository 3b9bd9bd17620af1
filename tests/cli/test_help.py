"""Every help text fits 80 columns, has examples that are right, and says things once and in the same words."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable

import pytest

from onnxprune.cli import GROUPS, parser
from onnxprune.cli.arguments import Parser

from .conftest import Said

Run = Callable[..., Said]


def all_parsers(top: Parser) -> dict[str, Parser]:
    found = {"": top}
    for name, child in top.commands.items():
        found |= {f"{name} {below}".strip(): each for below, each in all_parsers(child).items()}
    return found


PARSERS = all_parsers(parser())
EXAMPLE = re.compile(r"\bonnxprune (?!COMMAND)[\w-]+[^`'&>)\n]*")


def examples(text: str) -> list[list[str]]:
    """The commands below "examples:", without what the shell reads and the remarks beside them."""
    _, found, shown = text.partition("\nexample")
    assert found, "no examples"
    shown = re.sub(r"\\\n\s+", "", shown)  # a command that goes on in the next line
    lines = [line for line in shown.splitlines() if line.startswith("  ") and "onnxprune " in line]
    commands = [re.split(r"\s{2,}", EXAMPLE.search(line.strip())[0])[0] for line in lines]  # type: ignore[index]
    return [shlex.split(command)[1:] for command in commands]


@pytest.fixture(autouse=True)
def eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("name", PARSERS)
def test_it_fits(name: str) -> None:
    long = [line for line in PARSERS[name].format_help().splitlines() if len(line) > 79]
    assert long == []


@pytest.mark.parametrize("name", PARSERS)
def test_it_has_examples_that_parse(name: str) -> None:
    found = examples(PARSERS[name].format_help())
    assert found
    for argv in found:
        parsed = parser().parse_args(argv)
        assert parsed.run is not None
    if name:
        assert any(argv[: len(name.split())] == name.split() for argv in found), "none of its own"


@pytest.mark.parametrize("name", [name for name in PARSERS if name])
def test_every_option_is_explained(name: str) -> None:
    for action in PARSERS[name]._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        assert action.help, action.option_strings
        assert not action.help.endswith("."), action.help
    assert PARSERS[name].description
    assert PARSERS[name].description.endswith(".")  # type: ignore[union-attr]


def test_the_overview_names_every_command_once() -> None:
    shown = parser().format_help()
    for title, members in GROUPS:
        assert f"\n{title}:\n" in shown
        assert members
    for name, summary in parser().summaries.items():
        assert len(re.findall(rf"^  {name} +{re.escape(summary)}$", shown, re.MULTILINE)) == 1
        assert not summary.endswith(".")


def test_the_examples_of_the_overview_are_the_commands_people_start_with(run: Run) -> None:
    shown = [argv for argv in examples(parser().format_help()) if not any(".onnx" in word for word in argv)]
    assert shown == [["prune", "--ratio", "0.3", "--criterion", "fpgm"]]
    said = run(*shown[0], "--no-bench", "--json")
    assert said.code == 0
    assert said.data["units"]["removed"] > 0
