"""The benchmark's oracle finds out by itself what a file lost, and whether what is left is right."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from building import Net
from onnx import numpy_helper
from oracle import prepared

import onnxprune

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import peer_oracle

    yield peer_oracle
    sys.modules.pop("peer_oracle")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A network with a normalisation and a shortcut, and what pruning leaves of it."""
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 8, 8), 12, 3, name="stem"))
    y = n.op("Relu", n.norm(n.conv(x, 16, 3, name="up"), name="bn"))
    x = n.op("Add", n.conv(y, 12, 3, name="down"), x)
    n.output(n.gemm(n.op("Flatten", n.op("GlobalAveragePool", x)), 5, name="head"))
    model = prepared(n.proto())
    coupling = onnxprune.analyze(model)
    plan = onnxprune.select(coupling, onnxprune.score(model, coupling, "l2"), ratio=0.5)
    original, pruned = tmp_path / "original.onnx", tmp_path / "pruned.onnx"
    onnxprune.save(model, original)
    onnxprune.save(onnxprune.apply(model, plan), pruned)
    return original, pruned


def changed(path: Path, name: str, change: Any) -> Path:
    proto = onnx.load(path)
    (weight,) = (each for each in proto.graph.initializer if each.name == name)
    weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight).copy()), name))
    onnx.save(proto, path)
    return path


def test_a_right_cut_is_right(oracle: Any, files: tuple[Path, Path]) -> None:
    found = oracle.compare(*files)
    assert found.error < 1e-5
    assert found.moved > 1e-2


def test_a_cut_that_took_other_channels_there_than_here_is_wrong(oracle: Any, files: tuple[Path, Path]) -> None:
    """Of 16 inputs of `down` 8 stay; here they are the first ones, whatever stayed of the layer before."""
    original, pruned = files
    (whole,) = (each for each in onnx.load(original).graph.initializer if each.name == "down.weight")
    rows, columns, *_ = oracle.stayed(numpy_helper.to_array(whole), of(pruned, "down.weight"))
    assert not np.array_equal(columns, np.arange(8))
    other = numpy_helper.to_array(whole)[rows][:, :8]
    assert oracle.compare(original, changed(pruned, "down.weight", lambda _: other)).error > 1e-2


def test_weights_that_are_no_copies_are_said_to_be_none(oracle: Any, files: tuple[Path, Path]) -> None:
    original, pruned = files
    with pytest.raises(oracle.Incomparable, match=r"up\.weight: its weights are no copies"):
        oracle.compare(original, changed(pruned, "up.weight", lambda array: array * np.float32(1.5)))
    with pytest.raises(oracle.Incomparable, match="nothing was cut"):
        oracle.compare(original, original)


def test_equal_numbers_are_outvoted(oracle: Any) -> None:
    original = np.random.default_rng(0).integers(0, 4000, (20, 30, 3, 3)).astype(np.float32)
    rows, columns = np.array([1, 4, 5, 19]), np.array([0, 7, 8, 9, 28])
    found = oracle.stayed(original, original[np.ix_(rows, columns)])
    np.testing.assert_array_equal(found[0], rows)
    np.testing.assert_array_equal(found[1], columns)


def test_every_group_of_a_convolution_may_keep_other_inputs(oracle: Any) -> None:
    original = np.random.default_rng(0).standard_normal((6, 4, 3, 3)).astype(np.float32)
    pruned = np.concatenate([original[:2, [0, 3]], original[4:, [1, 2]]])
    expected = np.zeros_like(original)
    expected[:2, [0, 3]], expected[4:, [1, 2]] = pruned[:2], pruned[2:]
    np.testing.assert_array_equal(oracle.zeroed(original, pruned, 2), expected)
    with pytest.raises(oracle.Incomparable, match="no copies"):
        oracle.zeroed(original, pruned, 1)


def of(path: Path, name: str) -> Any:
    return numpy_helper.to_array(next(each for each in onnx.load(path).graph.initializer if each.name == name))
