"""A pipeline's file is checked as a whole, and every mistake in it is one line that says where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxprune.data.sources import Request
from onnxprune.errors import UserError
from onnxprune.passes import Apply, Compensate, LoadPlan, Prune, Save, Score, Select, Verify, read_pipeline
from onnxprune.pipeline.stages import Measure

GOOD = """
model = "m.onnx"
threads = 2
dims = {batch = 4}

[data]
train = {spec = "x.npy", limit = 9}

[measure]
data = "random:8"
seconds = 0

[[stage]]
pass = "prune"
score.criterion = "l2"
select = {ratio = 0.4, ratios = {"layer1.conv" = 0.5}}
verify.threads = 1

[[stage]]
name = "made-up"
pass = "compensate"
data = {spec = "train", batch = 2}

[[stage]]
pass = "save"
path = "out.onnx"
from = "prune"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").write_bytes(b"")
    np.save(tmp_path / "x.npy", np.zeros(1))
    return tmp_path


def read(folder: Path, text: str, *changes: str) -> None:
    (folder / "p.toml").write_text(text)
    read_pipeline(folder / "p.toml", changes=changes)


def test_what_a_file_says(folder: Path) -> None:
    (folder / "p.toml").write_text(GOOD)
    found = read_pipeline(folder / "p.toml")
    sizes = {"batch": 4}
    assert (found.name, found.model, found.folder, found.dims) == ("p", folder / "m.onnx", folder / "runs/p", sizes)
    assert found.measure == Measure(Request("random:8", dims=(("batch", 4),)), None, 2, sizes, 0.0)
    assert [(stage.name, stage.start) for stage in found.stages] == [
        ("prune", None),
        ("made-up", None),
        ("save", "prune"),
    ]
    assert [stage.step for stage in found.stages] == [
        Prune(
            score=Score("l2", threads=2),
            select=Select(ratio=0.4, ratios={"layer1.conv": 0.5}, threads=2, dims=sizes),
            verify=Verify(threads=1, dims=sizes),
        ),
        Compensate(Request(str(folder / "x.npy"), limit=9, batch=2, dims=(("batch", 4),)), threads=2),
        Save(folder / "out.onnx"),
    ]


def test_changes(folder: Path) -> None:
    (folder / "p.toml").write_text(GOOD)
    changes = ["prune.select.ratio=0.1", "made-up.data=random", "threads=1", "measure.seconds=2", "data.train.limit=3"]
    found = read_pipeline(folder / "p.toml", changes=[*changes, "name=other", "prune.score.criterion=fpgm"])
    prune, made_up, _ = (stage.step for stage in found.stages)
    assert isinstance(prune, Prune)
    assert (prune.select.ratio, prune.select.threads, prune.score.criterion) == (0.1, 1, "fpgm")
    assert made_up == Compensate(Request("random", dims=(("batch", 4),)))
    assert (found.measure.seconds, found.folder) == (2.0, folder / "runs/other")
    assert read_pipeline(folder / "p.toml", folder=folder / "x").folder == folder / "x"


def test_single_passes_are_known_by_their_names(folder: Path) -> None:
    (folder / "plan.json").write_text("{}")
    stages = [("normalize", ""), ("load_plan", 'path = "plan.json"'), ("apply", ""), ("verify", "")]
    text = 'model = "m.onnx"\n' + "".join(f'[[stage]]\npass = "{name}"\n{options}\n' for name, options in stages)
    (folder / "p.toml").write_text(text)
    found = read_pipeline(folder / "p.toml")
    assert [type(stage.step) for stage in found.stages][1:3] == [LoadPlan, Apply]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("threads = 2", "thraeds = 2", "thraeds: unknown key; did you mean 'threads'?"),
        ("threads = 2", 'threads = "2"', "threads must be a whole number, not '2'"),
        ("threads = 2", "threads = ", "is not valid TOML"),
        ("threads = 2", "threads = -2", "threads must be a whole number from 0 to 1024, not -2"),
        ('"m.onnx"', '"gone.onnx"', "model: there is no"),
        ('model = "m.onnx"', "", "model is missing"),
        ('"x.npy"', '"gone.npy"', "data.train: there is no"),
        ("seconds = 0", "secnods = 0", "measure.secnods: unknown key; did you mean 'seconds'?"),
        ('pass = "prune"', 'pass = "prnue"', "stage 'prnue': there is no pass 'prnue'; did you mean 'prune'"),
        ('pass = "prune"', "pass = 1", "stage 1: pass must be a string, not 1"),
        ('pass = "prune"', "", "stage '1': pass is missing (there are: analyze, apply"),
        (
            "score.criterion",
            "score.critreion",
            "stage 'prune': score.critreion: unknown key; did you mean 'criterion'",
        ),
        ('"l2"', '"l3"', "stage 'prune': unknown criterion 'l3'"),
        ('"l2"', "2", "stage 'prune': score.criterion must be a string, not 2"),
        ("ratio = 0.4", 'ratio = "much"', "stage 'prune': select.ratio must be a number, not 'much'"),
        ("ratio = 0.4", "ratio = 4", "stage 'prune': ratio must lie between 0 and 1"),
        ('data = {spec = "train", batch = 2}', "", "stage 'made-up': data is missing"),
        ('data = {spec = "train", batch = 2}', 'data = "trian"', "did you mean 'train'?"),
        ('data = {spec = "train", batch = 2}', "folder = 'x'", "stage 'made-up': folder: unknown key"),
        ('name = "made-up"', 'name = "prune"', "'prune' is given to two stages"),
        ('from = "prune"', 'from = "pruned"', "stage 'save' starts from 'pruned', which is no earlier stage; did you"),
        ('from = "prune"', 'from = "input"', "stage 'save': Save needs a verification; add Verify before it"),
        ('pass = "compensate"', 'pass = "apply"', "stage 'made-up': data: unknown key"),
        ("[[stage]]", "[[stag]]", "stag: unknown key; did you mean 'stage' or 'data'?"),
    ],
)
def test_mistakes(old: str, new: str, message: str, folder: Path) -> None:
    assert old in GOOD
    with pytest.raises(UserError) as error:
        read(folder, GOOD.replace(old, new))
    assert message in str(error.value)
    assert str(error.value).startswith(repr(str(folder / "p.toml")))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("prune", "'prune' does not say stage.key=value"),
        ("prnue.select.ratio=1", "there is no stage 'prnue'; did you mean 'prune'?"),
        ("prune.select.ratoi=1", "stage 'prune': select.ratoi: unknown key; did you mean 'ratio'"),
        ("save.path.x=1", "'save.path.x=1': path is no table"),
        ("nothing=1", "nothing: unknown key"),
    ],
)
def test_mistakes_in_changes(change: str, message: str, folder: Path) -> None:
    with pytest.raises(UserError) as error:
        read(folder, GOOD, change)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["", 'stage = "x"', "stage = []", "stage = [1]", "[stage]"])
def test_a_file_without_stages(text: str, folder: Path) -> None:
    with pytest.raises(UserError, match=r"there is no stage: add \[\[stage\]\]"):
        read(folder, f'model = "m.onnx"\n{text}')


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_pipeline(tmp_path / "gone.toml")


def test_the_file_in_the_documentation(folder: Path) -> None:
    import re

    text = (Path(__file__).parents[2] / "docs/pipelines.md").read_text("utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (folder / "model.onnx").write_bytes(b"")
    (folder / "p.toml").write_text(block)
    found = read_pipeline(folder / "p.toml")
    assert [(stage.name, stage.start) for stage in found.stages] == [
        ("prune", None),
        ("compensate", None),
        ("few", "prune"),
    ]
    few = found.stages[2].step
    assert isinstance(few, Compensate)
    assert (few.data.spec, few.data.limit) == ("onnxprune.models_zoo.digits:seen", 100)
