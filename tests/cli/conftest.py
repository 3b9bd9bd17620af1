"""A small network that has all that the commands report: a residual, a frozen output, a free batch dimension."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.cli import main

FLOAT = TensorProto.FLOAT


def network(seed: int = 0) -> onnx.ModelProto:
    """stem and body.2 are coupled by the residual (8 units), body.1 stands alone (16 units), head makes the output."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> TensorProto:
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array(values.astype(np.float32), name)

    weights = [
        weight("stem.weight", 8, 3, 3, 3),
        weight("stem.bias", 8),
        weight("body.1.weight", 16, 8, 3, 3),
        weight("body.2.weight", 8, 16, 3, 3),
        weight("head.weight", 10, 8),
        weight("head.bias", 10),
    ]
    nodes = [
        helper.make_node("Conv", ["image", "stem.weight", "stem.bias"], ["stem_out"], name="stem", pads=[1] * 4),
        helper.make_node("Relu", ["stem_out"], ["stem_act"], name="stem_relu"),
        helper.make_node("Conv", ["stem_act", "body.1.weight"], ["body1_out"], name="body1", pads=[1] * 4),
        helper.make_node("Relu", ["body1_out"], ["body1_act"], name="body1_relu"),
        helper.make_node("Conv", ["body1_act", "body.2.weight"], ["body2_out"], name="body2", pads=[1] * 4),
        helper.make_node("Add", ["stem_act", "body2_out"], ["sum"], name="add"),
        helper.make_node("GlobalAveragePool", ["sum"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "head.weight", "head.bias"], ["logits"], name="head", transB=1),
    ]
    inputs = [helper.make_tensor_value_info("image", FLOAT, ["batch", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("logits", FLOAT, ["batch", 10])]
    graph = helper.make_graph(nodes, "network", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@dataclass(frozen=True)
class Said:
    """What one run of the command came to."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The one JSON document that stdout is."""
        return json.loads(self.out)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs the command in this process, in a folder of its own, as if piped: 80 columns, no colours."""
    monkeypatch.chdir(tmp_path)
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    capsys.readouterr()

    def call(*argv: object) -> Said:
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The network as a file."""
    path = tmp_path / "net.onnx"
    onnx.save(network(), path)
    return path


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[Callable[[onnx.ModelProto], None]], Path]:
    """The network with something done to it."""

    def save(edit: Callable[[onnx.ModelProto], None]) -> Path:
        proto = network()
        edit(proto)
        path = tmp_path / "edited.onnx"
        onnx.save(proto, path)
        return path

    return save
