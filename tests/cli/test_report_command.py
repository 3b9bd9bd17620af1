"""`analyze --html` and `prune --report`: a page beside the result, whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pages
import pytest

from onnxprune.text.figures import count

from .conftest import Said

Run = Callable[..., Said]


def test_analysis(run: Run, model: Path, tmp_path: Path) -> None:
    said = run("analyze", model, "--html", "page.html", "--json")
    assert said.code == 0, said.err
    assert "wrote page.html" in said.err
    assert said.data["reach"]["share"] == 1.0, "the result is what it was"
    root = pages.parsed((tmp_path / "page.html").read_text("utf-8"))
    assert root.all("h1")[0].inside == "net.onnx"
    assert f"onnxprune analyze {model} --html page.html --json" in root.all("pre")[0].inside
    heads = [cell.inside for cell in root.all("thead")[0].all("th")]
    assert heads == ["Layer", "Group", "Width", "MACs", "Time"], "it was timed"


def test_pruning(run: Run, model: Path, tmp_path: Path) -> None:
    options = ["--ratio", "0.5", "--data", "random:16", "--report", "page.html", "--json"]
    said = run("prune", model, "-o", "small.onnx", *options)
    assert said.code == 0, said.err
    assert said.data["report"] == "page.html"
    root = pages.parsed((tmp_path / "page.html").read_text("utf-8"))
    cells = [[cell.inside.strip() for cell in row.children] for row in root.all("tr")]
    rows = {name: rest for name, *rest in cells}
    shown = [count(said.data[side]["params"]).replace(" ", "\N{NO-BREAK SPACE}") for side in ("before", "after")]
    assert rows["parameters"][:2] == shown
    assert {"MACs", "weights", "latency", "agreement"} <= rows.keys()
    assert "Verified" in root.all("main")[0].inside


def test_curves_are_shown(run: Run, model: Path, tmp_path: Path) -> None:
    assert run("sensitivity", model, "--data", "random:8", "--ratios", "0.5").code == 0
    assert run("analyze", model, "--html", "page.html", "--sensitivity", "sensitivity.json").code == 0
    root = pages.parsed((tmp_path / "page.html").read_text("utf-8"))
    assert "Sensitivity" in [item.inside for item in root.all("h2")]
    assert "random:8" in root.inside
    said = run("analyze", model, "--sensitivity", "sensitivity.json")
    assert said.code == 2
    assert "--html" in said.err


def test_a_model_that_does_not_run_gets_a_page(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxprune.errors import UserError
    from onnxprune.report import times

    def refuse(*args: object, **options: object) -> None:
        raise UserError("it needs a file that is not here")

    monkeypatch.setattr(times, "runnable_feeds", refuse)
    said = run("analyze", model, "--html", "page.html")
    assert said.code == 0
    note = "the time of layers is missing: it needs a file that is not here"
    assert f"note: {note}" in said.err
    assert note in pages.parsed((tmp_path / "page.html").read_text("utf-8")).inside


@pytest.mark.parametrize("command", [("analyze", "--html"), ("prune", "--report")])
def test_mistakes_leave_nothing(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, str]
) -> None:
    name, option = command
    before = sorted(tmp_path.iterdir())
    for file, meant in ((model, "given twice"), ("no/page.html", "does not exist")):
        said = run(name, model, option, file)
        assert said.code == 2
        assert meant in said.err
    monkeypatch.setitem(sys.modules, "jinja2", None)
    needed = "a report needs jinja2: pip install 'onnxprune[report]'"
    said = run(name, model, option, "page.html")
    assert (said.code, said.err) == (2, f"onnxprune: error: {needed} [missing-extra]\n")
    assert sorted(tmp_path.iterdir()) == before


def test_what_was_pruned_is_told_even_if_the_page_finds_no_room(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxprune.cli import reporting
    from onnxprune.errors import UserError

    def full(*args: object) -> None:
        raise UserError("no space left")

    monkeypatch.setattr(reporting, "write_text", full)
    said = run("prune", model, "-o", "small.onnx", "--ratio", "0.5", "--no-bench", "--report", "page.html", "--json")
    assert said.code == 2
    assert said.err.endswith("onnxprune: error: no space left\n")
    assert "wrote page.html" not in said.err
    assert said.data["report"] is None
    assert said.data["output"] == "small.onnx"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "small.onnx"]


def test_no_page_of_what_failed_verification(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxprune.checking.verify import Verification
    from onnxprune.passes import verify

    monkeypatch.setattr(verify, "verify", lambda *a, **k: Verification("numeric", False, notes=("wrong",)))
    assert run("prune", model, "-o", "small.onnx", "--report", "page.html").code == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx"]
