"""The shipped network reads what it is said to read, and both files are what a download may be: small and inert."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.errors import UserError
from onnxprune.files import store
from onnxprune.models_zoo import digits

ACCURACY = 0.992
"""What the docs say of the 500 held-out digits."""
ONE_IMAGE = 1 / 500
"""Another onnxruntime may round one close call the other way."""


def test_files_are_small() -> None:
    folder = digits.model_path().parent
    assert sum((folder / name).stat().st_size for name in ("digits.onnx", "digits.npz")) < 1_000_000


def test_onnxruntime_reads_the_held_out_digits() -> None:
    model = store.load(digits.model_path())
    assert digits.accuracy(model) == pytest.approx(ACCURACY, abs=ONE_IMAGE)
    assert digits.accuracy(model, split="train") > 0.99


def test_accuracy_can_be_low() -> None:
    """Always the same answer is right for a tenth of the digits, and for exactly those."""
    _, labels = digits.data("held_out")
    assert digits.accuracy(lambda images: np.eye(10, dtype=np.float32)[np.full(len(images), 3)]) == np.mean(labels == 3)


def test_data() -> None:
    parts = {name: digits.data(name) for name in ("train", "held_out")}
    assert {name: images.shape for name, (images, _) in parts.items()} == {
        "train": (1297, 1, 8, 8),
        "held_out": (500, 1, 8, 8),
    }
    for images, labels in parts.values():
        assert images.dtype == np.float32
        assert (images.min(), images.max()) == (0, 1)
        assert labels.dtype == np.int64
        assert np.bincount(labels).min() > 30
    seen = {image.tobytes() for image in parts["train"][0]}
    assert not any(image.tobytes() in seen for image in parts["held_out"][0])


def test_data_needs_no_pickle() -> None:
    path = digits.model_path().with_name("digits.npz")
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == [
            "held_out_images.npy",
            "held_out_labels.npy",
            "train_images.npy",
            "train_labels.npy",
        ]
    with np.load(path, allow_pickle=False) as arrays:
        assert {array.dtype for array in arrays.values()} == {np.dtype(np.uint8)}


def test_model_is_what_criteria_and_cuts_need() -> None:
    model = onnx.load(digits.model_path())
    onnx.checker.check_model(model, full_check=True)
    ops = [node.op_type for node in model.graph.node]
    assert (ops.count("Conv"), ops.count("BatchNormalization"), ops.count("Add")) == (15, 15, 6)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {"stage1.0.conv1", "stage2.0.shortcut.0", "head"} <= {node.name for node in model.graph.node}
    strides = [list(attr.ints) for node in model.graph.node for attr in node.attribute if attr.name == "strides"]
    assert strides.count([2, 2]) == 4


def test_a_wrong_split_is_named() -> None:
    with pytest.raises(UserError, match="no split 'test'; there are 'train' and 'held_out'"):
        digits.data("test")  # type: ignore[arg-type]


def test_another_network_is_refused(tmp_path: Path) -> None:
    proto = onnx.load(digits.model_path())
    for node in proto.graph.node:
        node.input[:] = ["picture" if name == "image" else name for name in node.input]
    proto.graph.input[0].name = "picture"
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"maps 'image' to 'logits'; this one maps \['picture'\] to \['logits'\]"):
        digits.accuracy(store.load(tmp_path / "other.onnx"))


def test_the_recipe_makes_the_same_data() -> None:
    pytest.importorskip("sklearn")
    from onnxprune.models_zoo.recipes import digits as recipe

    made = recipe.split()
    with np.load(digits.model_path().with_name("digits.npz"), allow_pickle=False) as shipped:
        assert made.keys() == set(shipped.files)
        for name in shipped.files:
            np.testing.assert_array_equal(made[name], shipped[name])
