"""Network slimming from one file: pressed, cut, trained on and trained anew; killed in the middle, it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxprune import load, run_pipeline
from onnxprune.models_zoo import digits
from onnxprune.passes import read_pipeline
from onnxprune.pipeline.running import Report, preview
from onnxprune.pipeline.stages import Pipeline

pytestmark = pytest.mark.xdist_group("slimming")  # the run that all of them look at is made once

EXAMPLE = Path(__file__).parents[1] / "examples/network_slimming.toml"
BRIEF = ("sparse.epochs=2", "tuned.epochs=1", "scratch.epochs=2", "measure.seconds=0")


def slimming(folder: Path, *changes: str) -> Pipeline:
    options = [*BRIEF, "baseline.runs=6", *changes]
    return read_pipeline(EXAMPLE, changes=options, folder=folder, default_model=digits.model_path())


def scales(folder: Path) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    model = load(folder)
    named = [node.input[1] for node in model.graph.node if node.op_type == "BatchNormalization"]
    return np.abs(np.concatenate([model.weights[name].array() for name in named])).astype(np.float64)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return run_pipeline(slimming(tmp_path_factory.mktemp("whole")))


def test_the_five_stages(whole: Report) -> None:
    rows = {row.name: row for row in whole.stages}
    assert list(rows) == ["input", "baseline", "sparse", "prune", "tuned", "scratch"]
    assert [row.start for row in whole.stages[1:]] == ["input", "baseline", "sparse", "prune", "prune"]
    params = {name: row.figures.params for name, row in rows.items() if row.figures is not None}
    assert params["sparse"] == params["input"]
    assert params["prune"] == params["tuned"] == params["scratch"] < 0.45 * params["input"]
    folder = Path(whole.folder)
    small = [np.mean(scales(path) < 1e-3) for path in (digits.model_path(), folder / "sparse/model.onnx")]
    assert small[0] == pytest.approx(0.488, abs=1e-3)
    assert small[1] > 0.52  # 0.45 without the pressure
    right = {
        name: row.figures.evaluation.top1
        for name, row in rows.items()
        if row.figures is not None and row.figures.evaluation is not None
    }
    assert right["input"] == 0.992
    assert (right["sparse"] or 0) > 0.95
    assert (right["tuned"] or 0) > 0.95
    assert 0.2 < (right["scratch"] or 0) < (right["tuned"] or 0)


def test_the_smallest_scales_are_cut(whole: Report) -> None:
    """Over all layers at once."""
    folder = Path(whole.folder)
    sparse, kept = scales(folder / "sparse/model.onnx"), scales(folder / "prune/model.onnx")
    assert len(kept) < 0.7 * len(sparse)
    assert kept.mean() > 1.1 * sparse.mean()


def test_scratch_knows_nothing_of_the_weights(whole: Report) -> None:
    folder = Path(whole.folder)
    pruned, tuned, scratch = (load(folder / f"{name}/model.onnx") for name in ("prune", "tuned", "scratch"))
    name = next(name for name, weight in pruned.weights.items() if len(weight.shape) == 4)

    def likeness(a: str, b: str) -> float:
        models = {"prune": pruned, "tuned": tuned, "scratch": scratch}
        x, y = (models[each].weights[name].array().ravel() for each in (a, b))
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    assert likeness("prune", "tuned") > 0.95
    assert abs(likeness("prune", "scratch")) < 0.6


def test_killed_while_it_trains(whole: Report, tmp_path: Path) -> None:
    """In the second epoch of the first training: it goes on behind the first, and all ends as if nothing had been."""
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_slimming import slimming
from onnxprune import run_pipeline
from onnxprune.training import loop

loop._Clock.due = lambda clock: True  # a fast machine would be told of no step in that part of the epoch

def on_step(moment):
    if moment.epoch == 2 and moment.part > 0.7:
        os.kill(os.getpid(), signal.SIGKILL)

run_pipeline(slimming(Path({str(tmp_path / "run")!r})), hooks={{"watch": lambda: {{"on_step": on_step}}}})
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "run/sparse/stage.json").exists()
    epochs: list[int] = []
    hooks = {"watch": lambda: {"on_epoch": lambda epoch: epochs.append(epoch.number)}}
    report = run_pipeline(slimming(tmp_path / "run", "scratch.epochs=1"), hooks=hooks)
    assert [row.kept for row in report.stages] == [True, True, False, False, False, False]
    assert epochs == [2, 1, 1]
    for name in ("sparse", "prune", "tuned"):
        made, wanted = (load(Path(folder) / name / "model.onnx") for folder in (report.folder, whole.folder))
        assert all((made.weights[key].array() == wanted.weights[key].array()).all() for key in wanted.weights), name


@pytest.mark.parametrize("network", ["slim_vgg", "resnet20"])
def test_the_stages_for_cifar10_are_right(network: str, tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / part / "cat/1.png")
    data = [f"data.{part}.spec={json.dumps(str(tmp_path / part))}" for part in ("train", "test")]
    changes = [f"model=../models_zoo/trained/{network}.onnx", *data]
    pipeline = read_pipeline(EXAMPLE.with_stem("network_slimming_cifar10"), changes=changes, folder=tmp_path / "run")
    assert [each.stage.name for each in preview(pipeline)] == ["baseline", "sparse", "prune", "tuned", "scratch"]
