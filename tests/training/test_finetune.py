"""From file to file: what was pruned reads digits again, and what cannot be done is said in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_models import image_model

import onnxprune
from onnxprune.cli import main
from onnxprune.data.images import ImageFiles
from onnxprune.data.sources import Request
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.files.store import save
from onnxprune.graph.normalize import restore
from onnxprune.models_zoo import digits
from onnxprune.passes import Analyze, Apply, Finetune, Normalize, Save, Score, Select, Verify
from onnxprune.pipeline.held import held
from onnxprune.pipeline.manager import PassManager
from onnxprune.training.recipe import Recipe

TRAINING, HELD_OUT, SEEN = (f"onnxprune.models_zoo.digits:{name}" for name in ("training", "held_out", "seen"))


@pytest.fixture(scope="module")
def original() -> Model:
    return onnxprune.load(digits.model_path())


@pytest.fixture(scope="module")
def pruned(original: Model) -> Model:
    coupling = onnxprune.analyze(original)
    scores = onnxprune.score(original, coupling, "l1")
    return onnxprune.apply(original, onnxprune.select(coupling, scores, ratio=0.5))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pruned: Model) -> Path:
    monkeypatch.chdir(tmp_path)
    save(restore(pruned), tmp_path / "pruned.onnx")
    return tmp_path


def changed(a: Model, b: Model) -> list[str]:
    return [name for name, w in a.weights.items() if not np.array_equal(w.array(), b.weights[name].array())]


def test_without_labels_it_learns_from_the_original(original: Model, pruned: Model) -> None:
    data = onnxprune.open_data(SEEN, pruned)
    val = onnxprune.open_data(HELD_OUT, pruned)
    recipe = Recipe(epochs=2, rate=0.05, features=0.5)
    found = onnxprune.finetune(pruned, data, val=val, teacher=original, recipe=recipe)
    assert found.before is not None
    assert found.after is not None
    assert (found.before.top1 or 0) < 0.9
    assert (found.after.top1 or 0) > 0.96
    assert found.after.agreement is not None
    assert found.error < 1e-5
    assert [value.name for value in found.model.graph.output] == ["logits"]  # and not what was compared on the way
    assert found.model.proto.graph.node == pruned.proto.graph.node


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "recipe.toml").write_text("epochs = 9\nrate = 0.05\n")
    arguments = ["finetune", "pruned.onnx", "--data", TRAINING, "--val", HELD_OUT, "--config", "recipe.toml"]
    assert main([*arguments, "--epochs", "1", "--teacher", str(digits.model_path()), "--json", "--bench"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["options"]["epochs"] == 1
    assert found["options"]["rate"] == 0.05
    assert found["before"]["top1"] < 0.9 < 0.95 < found["after"]["top1"]
    assert found["epochs"][0]["speedup"] > 0.2
    assert found["verification"]["error"] < 1e-5
    assert "epoch 1: loss" in said.err
    assert sorted(path.name for path in folder.iterdir()) == ["pruned-tuned.onnx", "pruned.onnx", "recipe.toml"]
    tuned = onnxprune.load(folder / "pruned-tuned.onnx")
    val = onnxprune.open_data(HELD_OUT, tuned)
    assert onnxprune.evaluate(tuned, val).top1 == found["after"]["top1"]


def test_a_named_folder_stays_and_the_same_command_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["finetune", "pruned.onnx", "--data", TRAINING, "--limit", "128", "--epochs", "1", "--run", "kept"]
    assert main([*arguments, "-o", "a.onnx"]) == 0
    assert sorted(path.name for path in (folder / "kept").iterdir()) == ["checkpoint.pt", "log.csv", "run.json"]
    capsys.readouterr()
    assert main([*arguments, "-o", "b.onnx"]) == 0
    said = capsys.readouterr()
    assert "going on after epoch 1, from 'kept'" in said.err
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()
    assert "Trained for 1 epoch" in said.out
    assert main([*arguments, "--seed", "1"]) == 2
    assert "holds another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--rate", "-1"], "rate must be more than 0"),
        (["--freeze", "*"], "nothing to train"),
        (["--sparsity", "bn-l1", "--freeze", "*"], "the model has none that train"),
        (["--features", "1"], "features are compared with those of a teacher: name one"),
        (["--teacher", "other.onnx"], "the teacher's outputs are y, the model's logits"),
        (["--data", SEEN], "the data has no labels: name a teacher"),
        (["--data", "x.npz"], "'x.npz' holds float64 [4, 1, 9, 9] for input 'image'"),
        (["--val", SEEN], "the validation data has no labels: name a teacher"),
        (["--val", "nothing"], "there is no 'nothing'"),
        (["--task", "os:nothing"], "there is no 'nothing' in 'os'"),
        (["--config", "wrong.toml"], "'wrong.toml': unknown key 'epoch'"),
        (["-o", "pruned.onnx/x"], "cannot write"),
        (["--flip", "--jitter", "0.2"], "which value is white"),
        (["--rate", "1e30", "--clip", "0", "--limit", "640"], "is no number any more (epoch 1, step 2): try a lower"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(more: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = image_model(channels=1)
    other.proto.graph.output[0].name = other.proto.graph.node[-1].output[0] = "y"
    save(restore(other), folder / "other.onnx")
    np.savez(folder / "x.npz", image=np.zeros((4, 1, 9, 9)), labels=np.zeros(4, int))
    (folder / "wrong.toml").write_text("epoch = 1")
    assert main(["finetune", "pruned.onnx", "--data", TRAINING, "--epochs", "1", *more]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("onnxprune: error: ")
    assert said in error
    assert not (folder / "pruned-tuned.onnx").exists()


def test_patterns_decide_what_trains(pruned: Model) -> None:
    data = onnxprune.open_data(TRAINING, pruned, limit=128)
    said: list[str] = []
    found = onnxprune.finetune(pruned, data, recipe=Recipe(epochs=1), freeze=["stage*", "stem*"], on_note=said.append)
    assert said[0].startswith("2 of ")
    assert len(said) == 2
    assert "more like it) does not train: asked for (freeze)" in said[1]
    names = changed(pruned, found.model)
    assert "head.weight" in names
    assert all(name.startswith("head") or "running" in name for name in names)


def test_from_scratch_forgets_the_weights(pruned: Model) -> None:
    data = onnxprune.open_data(TRAINING, pruned)
    val = onnxprune.open_data(HELD_OUT, pruned)
    recipe = Recipe(epochs=3, rate=0.1, ema=0.9)
    found = onnxprune.finetune(pruned, data, val=val, recipe=recipe, from_scratch=True)
    first, last = found.trained.history[0], found.trained.history[-1]
    assert first.measured is not None
    assert last.measured is not None
    assert first.measured.accuracy is not None
    assert first.measured.accuracy < 0.9 < (last.measured.accuracy or 0)
    assert {name for name in pruned.weights if name.endswith("weight")} <= set(changed(pruned, found.model))


def test_it_is_a_pass(tmp_path: Path) -> None:
    train = Request(TRAINING)
    step = Finetune(data=train, val=Request(HELD_OUT), teacher="original", epochs=1, rate=0.05)
    passes: list[Any] = [Normalize(), Analyze(), Score(), Select(ratio=0.5), Apply(), Verify(), step]
    state = PassManager([*passes, Save(tmp_path / "t.onnx")]).run(digits.model_path())
    assert "trained for 1 epoch, took epoch 1: accuracy 7" in state.notes[0]
    assert (tmp_path / "t.onnx").exists()
    with pytest.raises(UserError, match="none was; name a file"):
        PassManager([Normalize(), replace(step, epochs=1)]).run(digits.model_path())
    with pytest.raises(UserError, match="epochs must be"):
        Finetune(data=train, epochs=0)
    for mistake in ({"task": "not_a_module:f"}, {"metric": "not_a_module:f"}):
        with pytest.raises(UserError, match="there is no module 'not_a_module'"):
            PassManager([Normalize(), Analyze(), replace(step, **mistake)]).run(
                "no such file, and nobody has looked yet"
            )


def test_what_is_not_data_is_named(pruned: Model) -> None:
    with pytest.raises(UserError, match=r"data is what onnxprune.open_data\(path, model\) returns, not str"):
        onnxprune.finetune(pruned, "photos/")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="teacher takes the Model"):
        onnxprune.finetune(pruned, onnxprune.open_data(SEEN, pruned), teacher="x")  # type: ignore[arg-type]


def test_one_run_at_a_time(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with held(folder / "way"):
        asked = ["finetune", "pruned.onnx", "--data", TRAINING, "--limit", "64", "--epochs", "1", "--run", "way"]
        assert main(asked) == 2
        assert "another run is at work in 'way'" in capsys.readouterr().err
    assert main(asked) == 0


def test_a_run_that_never_got_anywhere_is_in_nobody_s_way(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = np.random.default_rng(0).random((8, 1, 8, 8), np.float32)
    np.savez(folder / "wrong.npz", image=wrong, labels=np.full(8, 99))
    assert main(["finetune", "pruned.onnx", "--data", "wrong.npz", "--epochs", "1"]) == 2
    assert "labels run from 99" in capsys.readouterr().err
    assert main(["finetune", "pruned.onnx", "--data", TRAINING, "--limit", "64", "--epochs", "1"]) == 0


def test_another_run_is_told_apart_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["finetune", "pruned.onnx", "--data", TRAINING, "--limit", "64", "--run", "way"]
    assert main([*asked, "--epochs", "1"]) == 0
    assert main([*asked, "--epochs", "2", "--optimizer", "adamw"]) == 2
    assert "another run, which differs in epochs, optimizer: name a new folder" in capsys.readouterr().err


def test_classes_of_validation_are_those_of_training(tmp_path: Path) -> None:
    model = image_model(classes=3)
    for place in ("train/a", "train/b", "train/c", "val/a", "val/c"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / place / "1.png")
    data, val = (onnxprune.open_data(tmp_path / name, model) for name in ("train", "val"))
    with pytest.raises(UserError, match=r"class folders of .*val' are not those of .*train': 'b' is in one of them"):
        onnxprune.finetune(model, data, val=val, recipe=Recipe(epochs=1))
    (tmp_path / "val/b").mkdir()
    val = onnxprune.open_data(tmp_path / "val", model)
    assert isinstance(val.source, ImageFiles)
    assert val.source.labels == (0, 2)
    assert "without images keep their numbers: b" in val.source.notes()[0]
    onnxprune.finetune(model, data, val=val, recipe=Recipe(epochs=1, batch=3))
