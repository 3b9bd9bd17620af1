"""`unfold` and `fold`: from file to file, with what was done and what was left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from onnxprune.files.tensors import Tensor
from onnxprune.rewrites.fold import fold
from onnxprune.rewrites.rewriting import Rewritten

from .conftest import Said

Run = Callable[..., Said]


def kinds(path: Path) -> list[str]:
    onnx.checker.check_model(str(path), full_check=True)
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def test_there_and_back(run: Run, model: Path, tmp_path: Path) -> None:
    said = run("unfold", model, "--calib", "random:64")
    assert said.code == 0
    assert "3 BatchNormalization nodes put in; outputs equal within" in said.out
    assert said.err == "wrote net-bn.onnx\n"
    assert kinds(tmp_path / "net-bn.onnx").count("BatchNormalization") == 3
    said = run("fold", "net-bn.onnx", "-o", "back.onnx", "--json")
    assert said.data["done"] == ["stem.bn", "body1.bn", "body2.bn"]
    assert said.data["left"] == {}
    assert said.data["error"] < 1e-5
    assert kinds(tmp_path / "back.onnx") == kinds(model)


def test_pruning_in_between(run: Run, model: Path, tmp_path: Path) -> None:
    run("unfold", model, "--calib", "random:64", "-o", "bn.onnx")
    assert run("prune", "bn.onnx", "--ratio", "0.5", "-o", "small-bn.onnx", "--no-bench").code == 0
    assert run("fold", "small-bn.onnx", "-o", "small.onnx").code == 0
    shapes = {item.name: list(item.dims) for item in onnx.load(str(tmp_path / "small.onnx")).graph.initializer}
    assert shapes["body.1.weight"] == [8, 4, 3, 3]


def test_what_is_left_is_listed(run: Run, edited: Callable[..., Path]) -> None:
    def share(proto: onnx.ModelProto) -> None:
        proto.graph.node[4].input[1] = "body.1.weight"
        proto.graph.node[5].input[0] = "body1_out"
        proto.graph.node[4].output[0] = "sum2"
        proto.graph.node[2].input[1] = "body.1.weight"
        proto.graph.node[4].input[0] = "stem_act"
        proto.graph.node[5].input[1] = "sum2"
        proto.graph.node[7].input[0] = "pooled"
        proto.graph.node[8].input[1] = "wide.weight"
        weight = onnx.numpy_helper.to_array(proto.graph.initializer[4])
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight.repeat(2, axis=1), "wide.weight"))

    said = run("unfold", edited(share), "--calib", "random:8", "-o", "x.onnx")
    assert said.code == 0
    assert "1 BatchNormalization node put in" in said.out
    assert "its weight is shared" in said.out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["unfold", "net.onnx"], "name the data: --calib photos/, x.npz, module:function or random:64"),
        (["unfold", "net.onnx", "--calib", "nowhere/"], "there is no 'nowhere/'"),
        (["fold", "net.onnx", "-o", "net.onnx"], "'net.onnx' is given twice"),
        (["fold", "none.onnx"], "none.onnx"),
    ],
)
@pytest.mark.usefixtures("model")
def test_mistakes_are_one_line(run: Run, tmp_path: Path, argv: list[str], message: str) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    said = run(*argv)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert message in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_nothing_is_written_that_computes_something_else(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("unfold", model, "--calib", "random:16", "-o", "bn.onnx")

    def wrong(model: object) -> Rewritten:
        found = fold(model)  # type: ignore[arg-type]
        name = "stem.bias"
        off = Tensor.of(name, found.model.weights[name].array() + 0.01)
        return Rewritten(found.model.replace(weights={**found.model.weights, name: off}), found.done, found.left)

    monkeypatch.setattr("onnxprune.fold", wrong)
    said = run("fold", "bn.onnx", "-o", "out.onnx")
    assert said.code == 3
    assert "verification failed: 'logits' differs by" in said.err
    assert not (tmp_path / "out.onnx").exists()
