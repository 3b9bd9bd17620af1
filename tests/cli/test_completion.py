"""The scripts are valid, know every command, option and word, and bash really completes by its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxprune.cli import parser
from onnxprune.cli.arguments import Parser
from onnxprune.cli.grammar import Node, grammar
from onnxprune.cli.shells import SHELLS
from onnxprune.scoring.criteria import CRITERIA
from onnxprune.scoring.gradient_criteria import ASKING

from .conftest import Said

Run = Callable[..., Said]


@pytest.fixture(scope="module")
def root() -> Node:
    return grammar(parser())


def here(shell: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    return path


def said(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_grammar_is_the_parser_s(root: Node) -> None:
    nodes = {node.path: node for node in root.all()}
    assert {("prune",), ("analyze",), ("completion",), ()} <= nodes.keys()
    arguments = {flag: argument for argument in nodes["prune",].arguments for flag in argument.flags}
    assert set(arguments["--criterion"].words) == {*CRITERIA, *ASKING, "auto"}
    assert arguments["--attention"].words == ("heads", "dims", "off")
    takes = {flag: arguments[flag].takes for flag in ("-o", "--json", "--ratio", "--attention")}
    assert takes == {"-o": "file", "--json": "nothing", "--ratio": "text", "--attention": "words"}
    assert [a.takes for a in nodes["prune",].arguments if not a.flags] == ["file"]
    assert all(node.summary for node in root.all() if node.path)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_valid(shell: str, root: Node, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(SHELLS[shell](root))
    assert said(here(shell), "-n", str(script)) == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_knows_everything(shell: str, root: Node) -> None:
    script = SHELLS[shell](root)
    assert "@" not in script.replace('"${(@)words', "").replace('"$@"', "")
    for node in root.all():
        for argument in node.arguments:
            flags = [flag if shell != "fish" else flag.lstrip("-") for flag in argument.flags]
            assert all(flag in script for flag in flags), flags
            assert " ".join(argument.words) in script


def completed(folder: Path, script: Path, *words: str) -> set[str]:
    """What bash offers for the last of the words."""
    line = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _onnxprune; printf "%s\\n" "${COMPREPLY[@]}"'
    printed = said(here("bash"), "--norc", "-c", line, "bash", str(script), "onnxprune", *words, cwd=folder)
    return set(printed.splitlines()) - {""}


def test_bash_completes(root: Node, tmp_path: Path) -> None:
    script, folder = tmp_path / "script", tmp_path / "folder"
    folder.mkdir()
    (folder / "my model.onnx").write_text("")
    script.write_text(SHELLS["bash"](root))
    assert completed(folder, script, "an") == {"analyze"}
    assert completed(folder, script, "") == {child.path[0] for child in root.below}
    assert completed(folder, script, "prune", "--criterion", "fp") == {"fpgm"}
    assert completed(folder, script, "prune", "--criterion", "=", "fp") == {"fpgm"}
    assert completed(folder, script, "prune", "--criterion", "=") >= {"l1", "l2", "obs"}
    assert completed(folder, script, "prune", "x.onnx", "--max") == {"--max-drop"}
    assert completed(folder, script, "prune", "my") == {"my model.onnx"}
    assert completed(folder, script, "prune", "-o", "") == {"my model.onnx"}
    assert completed(folder, script, "prune", "--ratio", "") == set()
    assert completed(folder, script, "completion", "z") == {"zsh"}
    assert completed(folder, script, "--v") == {"--version"}


def test_fish_completes(root: Node, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(SHELLS["fish"](root))
    for line, expected in (("prune --criterion fp", {"fpgm"}), ("an", {"analyze"}), ("prune --max", {"--max-drop"})):
        printed = said(here("fish"), "--no-config", "-c", f'source {script}; complete -C "onnxprune {line}"')
        assert {row.partition("\t")[0] for row in printed.splitlines()} == expected


def nested() -> Parser:
    """A command with commands below it, and help texts that no shell must read."""
    top = Parser(prog="onnxprune")
    zoo = top.add_subparsers().add_parser("zoo", help="it's a [zoo]: $HOME `id`").add_subparsers()
    build = zoo.add_parser("build", help="builds")
    build.add_argument("name", choices=("resnet", "vgg"))
    build.add_argument("--odd", choices=("a", "b"), help='a: it\'s [odd] $(touch x) %(default)s; b: "quoted"')
    return top


@pytest.mark.parametrize("shell", SHELLS)
def test_nested_commands_and_odd_texts(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(SHELLS[shell](grammar(nested())))
    assert said(here(shell), "-n", str(script)) == ""
    if shell == "bash":
        assert completed(tmp_path, script, "zoo", "") == {"build"}
        assert completed(tmp_path, script, "zoo", "build", "v") == {"vgg"}
        assert completed(tmp_path, script, "zoo", "build", "--odd", "") == {"a", "b"}
        assert not (tmp_path / "x").exists()


def test_the_command(run: Run, root: Node) -> None:
    for shell, script in SHELLS.items():
        assert run("completion", shell).out == script(root)
    assert run("completion", "bash", "--json").data["script"] == SHELLS["bash"](root)
    refused = run("completion", "tcsh")
    assert (refused.code, refused.out) == (2, "")
    assert "'tcsh'" in refused.err
