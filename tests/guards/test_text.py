"""What is in the repository makes sense on any machine, and the README's two commands are the ones that are run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SKIPPED = {"build", "dist", "venv", "__pycache__"}
PATTERN = re.compile(rb"(?<![\w.)\]}>-])/(?:work|root|home|Users)/|[i]ndex-url|[f]ind-links")
"""Folders of some machine, and where it gets its packages; spelt so that this file passes too."""


def files() -> Iterator[Path]:
    """Everything but what tools leave behind; models and data too, since exporters write paths into them."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name not in SKIPPED
            and not name.endswith(".egg-info")
            and (not name.startswith(".") or name in (".ci", ".github"))
            and not (Path(folder) / name / "pyvenv.cfg").exists()
        ]
        # `.git` is a file in a work tree that hangs on another one
        yield from (path for name in names if name != ".git" and (path := Path(folder, name)).is_file())


def test_no_machine_is_named() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {hit.group().decode()}"
        for path in files()
        for hit in PATTERN.finditer(path.read_bytes())
    ]
    assert found == []


def test_the_guard_sees() -> None:
    seen = {path.relative_to(ROOT).as_posix() for path in files()}
    assert {"README.md", ".ci/run", "models_zoo/digits.onnx", "tests/guards/test_text.py"} <= seen
    for text in (b"see %b/notes", b'"%b/x"', b"cd %b/"):
        assert PATTERN.search(text % b"/work"), text
        assert not PATTERN.search(text % b"net/work"), text
    assert PATTERN.search(b"--extra-%b-url=x" % b"index")
    assert not PATTERN.search(b"https://example.org/%b/x, the index of a url" % b"work")


def test_the_readme_has_two_commands() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = re.findall(r"^(?: {4}|\$ )?(python3 -m venv .*)$", readme, re.MULTILINE)
    setup = "python3 -m venv .venv && .venv/bin/pip install "
    assert commands == [
        f"{setup}. && .venv/bin/onnxprune prune --ratio 0.3 --criterion fpgm",
        f"{setup}-c constraints.txt -e '.[test]' && .venv/bin/pytest",
    ]


def test_ci_runs_the_readme_s_tests() -> None:
    """The same line, in an environment of its own, and last."""
    last = [line for line in (ROOT / ".ci/run").read_text("utf-8").splitlines() if '/pytest"' in line]
    assert len(last) == 1
    command = last[0].replace('"$venv/bin/pip"', ".venv/bin/pip").replace('"$venv/bin/pytest"', ".venv/bin/pytest")
    command = command.replace(" --quiet", "").partition(" ||")[0]
    assert command in (ROOT / "README.md").read_text("utf-8")


def test_constraints_cover_what_is_asked_for() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["test"], *extras["dev"], *extras["torch"]]
    names = {re.match(r"[\w.-]+", line).group() for line in wanted} - {"onnxprune"}  # type: ignore[union-attr]
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line and not line.startswith("#")}
    assert names - pinned == set()
