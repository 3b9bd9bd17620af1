"""The documentation is true: its Python runs, its commands print what it shows, and its links lead somewhere.

The blocks of one file run in order, as one script, in an empty folder that holds the shipped network as `model.onnx`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onnxprune.models_zoo import digits

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
EVERY = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMED = ("latency", "speed-up", "verification error", "Warning:", "wrote", "measuring")
"""How lines begin that differ from run to run; a paragraph that begins with one of them is left out as a whole."""


def blocks(path: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(path.read_text("utf-8")) if kind == language]


def script(path: Path) -> str:
    """The Python of a file, every line where it stands there, so that a traceback names the line to look at."""
    text = path.read_text("utf-8")
    kept = [""] * (text.count("\n") + 1)
    for found in BLOCK.finditer(text):
        if found[1] == "python":
            first = text.count("\n", 0, found.start(2))
            for i, line in enumerate(found[2].splitlines()):
                kept[first + i] = line
    return "\n".join(kept)


def run(arguments: list[str], folder: Path) -> str:
    environment = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(digits.model_path(), tmp_path / "model.onnx")
    return tmp_path


TUTORIAL = ROOT / "docs/tutorial.md"
"""Its blocks build on each other, Python and commands in turn: `test_tutorial` follows it."""
WITH_PYTHON = [path for path in FILES if blocks(path, "python") and path != TUTORIAL]
WITH_COMMANDS = [path for path in FILES if blocks(path, "console") and path != TUTORIAL]


@pytest.mark.parametrize("path", WITH_PYTHON, ids=lambda path: path.name)
def test_python_runs(path: Path, folder: Path) -> None:
    (folder / path.name).write_text(script(path), "utf-8")
    run([path.name], folder)


@pytest.mark.usefixtures("likes_sixteen")
@pytest.mark.parametrize("path", WITH_COMMANDS, ids=lambda path: path.name)
def test_commands_print_what_is_shown(path: Path, folder: Path) -> None:
    for block in blocks(path, "console"):
        first, _, shown = block.partition("\n")
        assert first.startswith("$ onnxprune "), first
        printed = stable(run(["-m", "onnxprune", *first.split()[2:]], folder))
        assert stable(shown), first
        assert [line for line in stable(shown) if line not in printed] == []


def stable(text: str) -> list[str]:
    """The lines that are the same in every run, blanks and rules left out: columns are as wide as what is in them."""
    paragraphs = re.split(r"\n\s*\n|\n(?=Warning:)", text)
    lines = [line for part in paragraphs if not part.startswith("Warning:") for line in part.splitlines()]
    words = [" ".join(line.replace("─", "").split()) for line in lines if not line.startswith(TIMED)]
    return [line for line in words if line]


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text("utf-8"))
    assert [to for to in targets if "://" not in to and not (path.parent / to).exists()] == []


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    """`onnxprune/analysis/solve.py` anywhere, and in ARCHITECTURE.md also plain `solve.py`, wherever it is."""
    text = path.read_text("utf-8")
    named = re.findall(r"`((?:onnxprune|passes|cli|models_zoo|tests|benchmarks|docs)/[\w./-]+\.\w+)`", text)
    named += re.findall(r"python ((?:benchmarks|examples)/[\w./-]+\.py)", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    if path.name == "ARCHITECTURE.md":
        there = {file.name for folder in ("onnxprune", "models_zoo") for file in (ROOT / folder).rglob("*.py")}
        assert [name for name in re.findall(r"`([\w]+\.py)`", text) if name not in there] == []


def test_nothing_is_vacuous() -> None:
    assert {"README.md", "python-api.md", "adding-an-operator.md"} <= {path.name for path in WITH_PYTHON}
    assert "README.md" in {path.name for path in WITH_COMMANDS}
    assert stable("a   1\n───\n\nlatency 2\nWarning: x\ny\n\nCut 9") == ["a 1", "Cut 9"]
