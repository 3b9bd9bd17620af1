"""`onnxprune compare`, from runs that the other commands have made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pages
import pytest

from .conftest import Said

Run = Callable[..., Said]


@pytest.fixture
def runs(run: Run, model: Path, tmp_path: Path) -> list[str]:
    names = []
    for ratio in ("0.25", "0.5"):
        options = ["--ratio", ratio, "--no-bench", "--data", "random:16", "--json"]
        said = run("prune", model, "-o", f"small-{ratio}.onnx", *options)
        assert said.code == 0, said.err
        names.append(f"run-{ratio}.json")
        (tmp_path / names[-1]).write_text(said.out, "utf-8")
    return names


def test_table_page_and_plot(run: Run, runs: list[str], tmp_path: Path) -> None:
    said = run("compare", *runs, "--html", "page.html", "--plot", "plot.png")
    assert said.code == 0, said.err
    assert "run-0.25" in said.out
    assert "* not beaten in both macs and agreement" in said.out
    assert max(map(len, said.out.splitlines())) <= 80
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    pages.parsed((tmp_path / "page.html").read_text("utf-8"))


def test_json(run: Run, runs: list[str]) -> None:
    data = run("compare", *runs, "--x", "params", "--json").data
    assert (data["x"], data["y"]) == ("params", "agreement")
    assert [(p["run"], p["name"]) for p in data["points"]][:2] == [("run-0.25", "original"), ("run-0.25", "pruned")]
    assert data["points"][0]["agreement"] == 1.0
    assert data["points"][3]["params"] < data["points"][1]["params"] < data["points"][0]["params"]


def test_nothing_to_draw(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(run("bench", model, "--runs", "6", "--json").out, "utf-8")
    said = run("compare", "bench.json")
    assert said.code == 0
    assert "no run says how good its models are" in said.err
    said = run("compare", "bench.json", "--plot", "p.svg")
    assert (said.code, said.out) == (2, "")
    assert "there is nothing to draw" in said.err
    assert not (tmp_path / "p.svg").exists()
    assert run("compare", "bench.json", "--html", "bench.json").code == 2
