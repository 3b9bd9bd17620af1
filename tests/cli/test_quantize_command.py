"""`onnxprune quantize`: a file in another number format, and what that changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune.cli import quantize

    monkeypatch.setattr(quantize, "BENCH_SECONDS", 0.05)


def test_int8(model: Path, run: Callable[..., Any]) -> None:
    said = run("quantize", model, "--data", "random:16")
    assert said.code == 0
    assert "wrote net-int8.onnx" in said.err
    rows = {line.split("  ")[0]: line.split() for line in said.out.splitlines()}
    assert {"weights", "latency", "speed-up", "agreement", "output deviation"} <= set(rows)
    assert rows["agreement"][-3:] == ["of", "16", "samples"]
    assert "QuantizeLinear" in {node.op_type for node in onnx.load("net-int8.onnx").graph.node}


def test_json(model: Path, run: Callable[..., Any]) -> None:
    said = run("quantize", model, "--to", "fp16", "-o", "half.onnx", "--json")
    assert said.code == 0
    found = said.data
    assert (found["command"], found["to"], found["output"]) == ("quantize", "fp16", "half.onnx")
    assert found["bytes"][1] < 0.6 * found["bytes"][0]
    assert 0 < found["data"]["deviation"] < 0.01
    assert [row["name"] for row in found["bench"]["rows"]] == ["original", "fp16"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "int8 is calibrated on data: name some"),
        (("--to", "int4"), "invalid choice: 'int4'"),
        (("--data", "gone/"), "there is no 'gone/'"),
        (("--to", "fp16", "-o", "gone/x.onnx"), "the folder 'gone' does not exist"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, model: Path, run: Callable[..., Any]) -> None:
    said = run("quantize", model, *arguments)
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert sorted(path.name for path in model.parent.iterdir()) == ["net.onnx"]
