"""`onnxprune run`: a file of stages, what came of them, and what is told before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PIPELINE = """
model = "net.onnx"
measure = {data = "random:16", seconds = 0.02}

[[stage]]
pass = "prune"
score.criterion = "l2"
select.ratio = 0.5

[[stage]]
pass = "compensate"
data = "random:64"

[[stage]]
name = "other"
pass = "compensate"
data = "random:32"
from = "prune"

[[stage]]
pass = "save"
path = "small.onnx"
"""


@pytest.fixture
def pipeline(model: Path) -> Path:
    path = model.parent / "p.toml"
    path.write_text(PIPELINE)
    return path


def test_run(pipeline: Path, run: Callable[..., Any]) -> None:
    said = run("run", pipeline.name)
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0].split() == ["Stage", "Params", "MACs", "Weights", "Speed-up", "Agreement", "Time"]
    assert [line.split()[0] for line in lines[2:7]] == ["input", "prune", "compensate", "other", "save"]
    assert lines[-1] == "4 stages. Results are in runs/p."
    assert "note: compensate: compensated on 64 samples" in said.err
    assert "wrote runs/p/summary.json" in said.err
    again = run("run", pipeline.name)
    assert again.out.splitlines()[-1].startswith("4 stages, 4 of them done before.")
    assert [line.split()[-1] for line in again.out.splitlines()[3:7]] == ["kept"] * 4


def test_json_is_the_summary(pipeline: Path, run: Callable[..., Any]) -> None:
    import json

    said = run("run", pipeline, "--json")
    document = said.data
    assert document.pop("command") == "run"
    assert document == json.loads((pipeline.parent / "runs/p/summary.json").read_text())
    names = ("name", "step", "start", "kept")
    assert [[row[name] for name in names] for row in document["stages"]] == [
        ["input", "", "", True],
        ["prune", "Prune", "input", False],
        ["compensate", "Compensate", "prune", False],
        ["other", "Compensate", "prune", False],
        ["save", "Save", "other", False],
    ]
    pruned = document["stages"][1]
    assert pruned["figures"]["params"] < document["stages"][0]["figures"]["params"]
    assert pruned["options"]["score"]["criterion"] == "l2"
    assert "prune/model.onnx" in pruned["files"]
    assert pruned["seconds"] > 0


def test_dry_run(pipeline: Path, run: Callable[..., Any]) -> None:
    said = run("run", pipeline, "--dry-run")
    assert said.code == 0
    assert [line.split() for line in said.out.splitlines()[2:6]] == [
        ["prune", "Prune", "input", "runs:", "not", "done", "yet"],
        ["compensate", "Compensate", "prune", "runs:", "not", "done", "yet"],
        ["other", "Compensate", "prune", "runs:", "not", "done", "yet"],
        ["save", "Save", "other", "runs:", "not", "done", "yet"],
    ]
    assert not (pipeline.parent / "runs").exists()
    run("run", pipeline)
    plan = run("run", pipeline, "--dry-run", "--json", "--set", "other.data=random:16").data
    assert [stage["why"] for stage in plan["stages"]] == ["", "", "its options or inputs have changed", "other runs"]
    plan = run("run", pipeline, "--dry-run", "--json", "--from", "compensate").data
    assert [stage["why"] for stage in plan["stages"]] == ["", "asked for", "", ""]


def test_options(pipeline: Path, run: Callable[..., Any]) -> None:
    said = run("run", pipeline, "--run", "here", "--set", "prune.select.ratio=0.25", "--json")
    assert said.code == 0
    assert Path("here/prune/plan.json").exists()
    assert not (pipeline.parent / "runs").exists()
    assert said.data["stages"][1]["options"]["select"]["ratio"] == 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "prune.select.ration=1"), "stage 'prune': select.ration: unknown key; did you mean 'ratio'"),
        (("--from", "prnue"), "there is no stage 'prnue'; did you mean 'prune'?"),
        (("--set", "prune.select.ratio=0.01"), "stage 'prune': "),
        (("--run", "."), "is not empty, and no pipeline ran there"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, pipeline: Path, run: Callable[..., Any]) -> None:
    said = run("run", pipeline, *arguments)
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert not (pipeline.parent / "small.onnx").exists()


def test_the_network_that_is_shipped(tmp_path: Path, run: Callable[..., Any]) -> None:
    (tmp_path / "p.toml").write_text("measure = {seconds = 0}\n[[stage]]\npass = 'prune'\n")
    said = run("run", "p.toml", "--json")
    assert said.code == 0
    assert said.data["stages"][0]["figures"]["params"] == 176090
