"""Every figure against one that can be worked out by hand."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.accuracy.evaluate import Reference, evaluate
from onnxprune.data.sources import Dataset, open_data
from onnxprune.errors import UserError
from onnxprune.execution import runtime
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.models_zoo import digits

Array = np.ndarray[Any, Any]


def model(graph: str, **weights: Any) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}')
    return Model(proto, {name: Tensor.of(name, np.float32(array)) for name, array in weights.items()})


def linear(matrix: Any, batch: int | str = "batch") -> Model:
    n, m = np.shape(matrix)
    return model(f"(float[{batch}, {n}] x) => (float[{batch}, {m}] y) {{ y = MatMul(x, w) }}", w=matrix)


SAME = linear(np.eye(6))


def dataset(folder: Path, given: Model = SAME, labels: Any = None, batch: int = 5) -> Dataset:
    """Twelve samples: 6 5 4 3 2 1, then the same turned on by one place each time, twice around."""
    x = [[6.0 - (c - i) % 6 for c in range(6)] for i in range(12)]
    np.savez(folder / "a.npz", x=np.float32(x), **({} if labels is None else {"labels": labels}))
    return open_data(folder / "a.npz", given, batch=batch)


FIRST = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
"""The largest of the six numbers of each sample; those behind it come next, so one before it is the smallest."""


def test_accuracy_is_what_the_labels_say(tmp_path: Path) -> None:
    found = evaluate(SAME, dataset(tmp_path, labels=[*FIRST[:9], 4, 5, 4]))
    assert (found.samples, found.top1, found.top5) == (12, 9 / 12, 11 / 12)
    assert (found.agreement, found.deviation, found.metric, found.notes) == (None, None, None, ())
    four = linear(np.eye(6)[:, :4])
    assert evaluate(four, dataset(tmp_path, four, labels=[0] * 12)).top5 is None, "of four classes"


def test_equal_outputs_are_no_luck(tmp_path: Path) -> None:
    found = evaluate(linear(np.zeros((6, 8))), dataset(tmp_path, labels=[0, 0, 0, 4, 4, 5, 5, 6, 7, 7, 7, 7]))
    assert (found.top1, found.top5) == (3 / 12, 5 / 12)


@pytest.mark.parametrize(
    ("matrix", "agreement", "deviation", "cosine", "sqnr_db"),
    [
        (np.eye(6), 1, 0, 1, math.inf),
        (2 * np.eye(6), 1, 1, 1, 0),
        (-np.eye(6), 0, 2, -1, -20 * math.log10(2)),
        (0 * np.eye(6), 1 / 6, 1, 0, 0),
        (np.diag([0, 1, 1, 1, 1, 1]), 5 / 6, (1 / 6) ** 0.5, (5 / 6) ** 0.5, 10 * math.log10(6)),
    ],
    ids=["same", "twice", "minus", "nothing", "one-column-less"],
)
def test_the_distance_from_the_original(
    tmp_path: Path, matrix: Array, agreement: float, deviation: float, cosine: float, sqnr_db: float
) -> None:
    found = evaluate(linear(matrix), dataset(tmp_path), original=SAME)
    assert found.agreement == pytest.approx(agreement)
    assert found.deviation == pytest.approx(deviation)
    assert found.cosine == pytest.approx(cosine)
    assert found.sqnr_db == pytest.approx(sqnr_db)
    assert found.top1 is None


def test_an_original_that_is_nothing(tmp_path: Path) -> None:
    nothing = linear(np.zeros((6, 6)))
    data = dataset(tmp_path)
    same, other = (evaluate(each, data, original=nothing) for each in (nothing, SAME))
    assert (same.deviation, same.cosine, same.sqnr_db) == (0, 1, math.inf)
    assert (other.deviation, other.cosine, other.sqnr_db) == (math.inf, 0, -math.inf)


def test_several_outputs_count_alike(tmp_path: Path) -> None:
    graph = """(float[n, 6] x) => (float[n, 6] y, float[n, 6] z, int64[n, 1] k)
               { y = MatMul(x, w) z = Mul(y, s) k = ArgMax<axis = 1>(x) }"""
    one, other = (model(graph, w=np.eye(6), s=np.full(6, scale)) for scale in (100, 400))
    found = evaluate(other, dataset(tmp_path, one), original=one)
    assert found.deviation == pytest.approx(1.5), "0 for y and 3 for z, however large z is"
    assert found.agreement == 1


def test_copies_that_fill_a_batch_do_not_count(tmp_path: Path) -> None:
    """In the last batch of eight there are four."""
    skewed = np.diag([0, 1, 1, 1, 1, 1])
    free = evaluate(linear(skewed), dataset(tmp_path, labels=FIRST), original=SAME)
    full = linear(skewed, 8)
    found = evaluate(full, dataset(tmp_path, full, labels=FIRST), original=linear(np.eye(6), 8))
    assert found == free
    assert found.top1 == 10 / 12
    total = model("(float[8, 6] x) => (float y) { y = ReduceSum<keepdims = 0>(x) }")
    assert evaluate(total, dataset(tmp_path, total), original=total).deviation == 0, "over the first batch only"


@pytest.mark.parametrize(("room", "runs"), [(1 << 20, 3), (2 * 5 * 6 * 4, 4), (0, 6)])
def test_the_original_is_run_once_as_far_as_its_outputs_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, runs: int
) -> None:
    """Three batches of 5, 5 and 2 samples of six floats."""
    monkeypatch.setattr(importlib.import_module("onnxprune.accuracy.evaluate"), "HELD", room)
    data = dataset(tmp_path)
    reference = Reference(SAME, data)
    first = evaluate(linear(2 * np.eye(6)), data, original=reference)
    ran: list[int] = []
    plain = runtime.run

    def counted(session: Any, feeds: Any) -> dict[str, Any]:
        ran.append(1)
        return plain(session, feeds)

    monkeypatch.setattr(runtime, "run", counted)
    assert evaluate(linear(2 * np.eye(6)), data, original=reference) == first
    assert first.deviation == 1
    assert len(ran) == runs
    with pytest.raises(UserError, match="of other data"):
        evaluate(SAME, dataset(tmp_path), original=reference)


def test_a_metric_of_the_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metric_of_mine.py").write_text(
        "def first(outputs, labels):\n    return labels[0] + outputs['y'].shape[1]\n"
        "def nothing(outputs, labels):\n    return float('nan')\n"
        "def broken(outputs, labels):\n    return outputs['z']\n"
    )
    data = dataset(tmp_path, labels=[1] * 5 + [2] * 5 + [1, 6])
    with pytest.raises(UserError, match="labels run from 1 to 6, for a model of 6 classes"):
        evaluate(SAME, data)
    data = dataset(tmp_path, labels=[1.0] * 5 + [2.0] * 5 + [6.0] * 2)
    expected = 6 + (5 * 1 + 5 * 2 + 2 * 6) / 12
    found = evaluate(SAME, data, metric="metric_of_mine:first")
    assert found.metric == pytest.approx(expected)
    assert found.top1 is None
    assert found.notes == ("labels of float64 [N] are no class numbers, so there is no accuracy",)
    assert evaluate(SAME, data, metric=lambda outputs, labels: float(len(labels))).metric == pytest.approx(54 / 12)
    for name, said in (("nothing", "gives nan"), ("broken", "line 6: KeyError: 'z'"), ("gone", "there is no 'gone'")):
        with pytest.raises(UserError, match=said):
            evaluate(SAME, data, metric=f"metric_of_mine:{name}")
    with pytest.raises(UserError, match="named module:function"):
        evaluate(SAME, data, metric="accuracy")


def test_outputs_that_are_not_finite_are_named(tmp_path: Path) -> None:
    graph = "(float[n, 6] x) => (float[n, 6] y, float[n, 6] root) { y = Identity(x) z = Sub(x, w) root = Sqrt(z) }"
    roots = model(graph, w=[3])
    fine = model("(float[n, 6] x) => (float[n, 6] y, float[n, 6] root) { y = Identity(x) root = Sqrt(x) }")
    data = dataset(tmp_path, fine)
    with pytest.raises(UserError, match="output 'root' of the model holds NaN or Inf"):
        evaluate(roots, data)
    with pytest.raises(UserError, match="output 'root' of the original holds NaN or Inf"):
        evaluate(fine, data, original=roots)


def test_outputs_that_are_no_classes(tmp_path: Path) -> None:
    flat = model("(float[n, 6] x) => (float[n, 2, 3] y) { y = Reshape(x, s) }").replace(
        weights={"s": Tensor.of("s", np.array([-1, 2, 3]))}
    )
    found = evaluate(flat, dataset(tmp_path, flat, labels=FIRST), original=flat)
    assert (found.top1, found.agreement, found.deviation) == (None, None, 0)
    deep = model("(float[n, 6] x) => (float[n, 6, 1, 1] y) { y = Unsqueeze(x, a) }").replace(
        weights={"a": Tensor.of("a", np.array([2, 3]))}
    )
    assert evaluate(deep, dataset(tmp_path, deep, labels=FIRST)).top1 == 1


def test_outputs_of_other_shapes_are_not_compared(tmp_path: Path) -> None:
    found = evaluate(linear(np.eye(6)[:, :4]), dataset(tmp_path), original=SAME)
    assert found.deviation is None
    assert found.notes == ("output 'y' has other shapes than the original's, and is not compared",)


def test_class_folders_of_another_number_are_mentioned(tmp_path: Path) -> None:
    from PIL import Image

    for i, name in enumerate("ab"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("L", (2, 1), i).save(tmp_path / "set" / name / "1.png")
    flat = model("(float[n, 1, 1, 2] x) => (float[n, 2] y) { y = Flatten(x) }")
    assert evaluate(flat, open_data(tmp_path / "set", flat)).notes == ()
    three = model("(float[n, 1, 1, 2] x) => (float[n, 3] y) { z = Flatten(x) y = MatMul(z, w) }", w=np.ones((2, 3)))
    assert "the data has 2 classes and the model 3" in evaluate(three, open_data(tmp_path / "set", three)).notes[0]


def test_the_shipped_network() -> None:
    network = onnxprune.load(digits.model_path())
    data = open_data("onnxprune.models_zoo.digits:held_out", network, batch=64)
    found = evaluate(network, data, original=network)
    assert found.samples == 500
    assert found.top1 == digits.accuracy(network) == 0.992
    assert found.top5 is not None
    assert 0.992 < found.top5 <= 1
    assert (found.agreement, found.deviation) == (1, 0)


def test_outputs_of_whole_numbers_agree_or_not(tmp_path: Path) -> None:
    """Of twelve samples, two each have their largest number at each of six places; here the last two are one."""
    text = "(float[batch, 6] x) => (int64[batch] y) { z = MatMul(x, w) y = ArgMax<axis = 1, keepdims = 0>(z) }"
    own, other = np.eye(6), np.eye(6)
    other[5, 4] += 1e3
    a, b = model(text, w=own), model(text, w=other)
    found = evaluate(b, dataset(tmp_path, a), original=a)
    assert found.deviation is None
    assert found.agreement == pytest.approx(2 / 12)
    data = dataset(tmp_path, a)
    assert evaluate(a, data, original=Reference(a, data)).agreement == 1


def test_labels_that_are_not_looked_at(tmp_path: Path) -> None:
    data = dataset(tmp_path, labels=[10**6] * 12)
    with pytest.raises(UserError, match="labels run from"):
        evaluate(SAME, data)
    assert evaluate(SAME, data, labels=False).top1 is None
