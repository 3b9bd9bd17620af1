"""`onnxprune zoo` lists, builds and trains, and a mistake in a name or a size is one line."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune.execution import runtime


def test_list_fits_and_names_all(run: Callable[..., Any]) -> None:
    out = run("zoo", "list").out
    assert max(map(len, out.splitlines())) <= 80
    for name in ("resnet50 ", "retinanet_r50_fpn ", "llama "):
        assert f"\n{name}" in out
    assert "layers=30 width=576" in run("zoo", "list", "-v").out


def test_list_as_json(run: Callable[..., Any]) -> None:
    networks = {item["name"]: item for item in run("zoo", "list", "--json").data["networks"]}
    assert networks["resnet34"]["params"] == 21.8e6
    assert networks["resnet34"]["source"] == "torchvision's table of weights"
    assert networks["slim_vgg"]["trainable"]
    assert not networks["bert"]["trainable"]


def test_build_with_sizes(run: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    said = run("zoo", "build", "slim_vgg", "-o", path, "--size", "classes=3", "--json")
    assert said.code == 0
    model = onnxprune.load(path)
    assert said.data["params"] == onnxprune.cost(model).params
    assert model.weights["classifier.weight"].shape == (3, 128)
    coupling = onnxprune.analyze(model)
    assert [group.size for group in coupling.groups] == [32, 64, 128, 128, 128, 128]
    scores = onnxprune.score(model, coupling, "bn_scale")
    assert all(len(set(map(float, values))) == len(values) for values in scores.by_group.values())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name what to do: list, build or train"),
        (("build", "resnet51"), "did you mean"),
        (("build", "resnet50", "--size", "side"), "'side' is not a size, such as classes=20"),
        (("build", "resnet50", "--size", "hight=3"), "no size 'hight'"),
        (("build", "resnet20", "-o", "none/x.onnx"), "the folder 'none' does not exist"),
        (("train", "bert", "--data", "x"), "there is no recipe to train 'bert'"),
        (("train", "slim_vgg", "--data", "none.zip"), "there is no 'none.zip'"),
    ],
)
def test_mistakes(run: Callable[..., Any], arguments: tuple[str, ...], says: str) -> None:
    said = run("zoo", *arguments)
    assert said.code == 2
    assert says in said.err
    assert len(said.err.splitlines()) == 1


def test_train(run: Callable[..., Any], tmp_path: Path) -> None:
    """From an archive of class folders to a file that tells day from night."""
    from PIL import Image

    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "sky.zip", "w") as archive:
        for split, count in (("train", 200), ("test", 10)):
            for shade, label in ((0, "night"), (150, "day")):
                for i in range(count):
                    pixels = rng.integers(shade, shade + 100, (24, 40, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(buffer := BytesIO(), "PNG")
                    archive.writestr(f"sky/{split}/{label}/{i}.png", buffer.getvalue())
    path = tmp_path / "net.onnx"
    said = run("zoo", "train", "slim_vgg", "--data", tmp_path / "sky.zip", "--epochs", 10, "-o", path, "--json")
    assert said.code == 0, said.err
    assert said.data["classes"] == ["day", "night"]
    assert (said.data["held_out"], said.data["epochs"]) == (20, 10)
    assert said.data["accuracy"] > 0.9
    model = onnxprune.load(path)
    assert model.weights["classifier.weight"].shape == (2, 128)
    day = np.full((4, 3, 32, 32), 1.0, np.float32)
    logits = runtime.run(runtime.session(model, threads=1), {"input": day})["logits"]
    assert (logits.argmax(1) == 0).all()
