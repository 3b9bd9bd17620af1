"""`bench`: one table, one document, and sizes that reach the models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from .conftest import Said

Run = Callable[..., Said]


@pytest.fixture
def small(run: Run, model: Path, tmp_path: Path) -> Path:
    assert run("prune", model, "-o", "small.onnx", "--ratio", "0.5", "--no-verify").code == 0
    return tmp_path / "small.onnx"


def test_the_document(run: Run, model: Path, small: Path) -> None:
    data = run("bench", model, small, "--runs", "6", "--threads", "2", "--json").data
    assert (data["rounds"], data["threads"], data["provider"]) == (6, 2, "CPUExecutionProvider")
    assert [row["name"] for row in data["rows"]] == ["net.onnx", "small.onnx"]
    first, second = data["rows"]
    assert first["speedup"] == 1
    assert second["params"] < first["params"]
    assert (first["file_bytes"], second["file_bytes"]) == (model.stat().st_size, small.stat().st_size)
    assert first["peak_memory"] is None


def test_a_relative_path_is_counted_once(run: Run, model: Path) -> None:
    (row,) = run("bench", "net.onnx", "--runs", "5", "--json").data["rows"]
    assert row["file_bytes"] == model.stat().st_size


def test_the_table(run: Run, model: Path, small: Path) -> None:
    said = run("bench", model, small, "--runs", "5", "-v")
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["Model", "Median", "10%", "to", "90%", "Speed-up", "Params", "File"]
    assert [line.split()[0] for line in lines[2:4]] == ["net.onnx", "small.onnx"]
    assert "x" not in lines[2].split("ms")[1]
    assert "5 rounds in turn, 1 thread, CPU, onnxruntime" in said.out
    assert "inputs image [1, 3, 8, 8]" in " ".join(said.out.split())


def test_memory_on_request(run: Run, model: Path) -> None:
    said = run("bench", model, "--runs", "5", "--memory")
    assert said.out.splitlines()[0].endswith("Memory")
    assert "MB" in said.out.splitlines()[2]


@pytest.mark.parametrize("words", [["--batch", "3"], ["--dim", "batch=3"], ["--dim", "image:0=3"]])
def test_batch_and_dims(run: Run, model: Path, words: list[str]) -> None:
    data = run("bench", model, "--runs", "5", "--json", *words).data
    assert data["rows"][0]["inputs"] == {"image": [3, 3, 8, 8]}


def test_a_batch_where_there_is_none(run: Run, edited: Callable[[Callable[[onnx.ModelProto], None]], Path]) -> None:
    def fix(proto: onnx.ModelProto) -> None:
        for value in (proto.graph.input[0], proto.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = 1

    said = run("bench", edited(fix), "--batch", "4")
    assert said.code == 2
    assert "no input has a free batch dimension; all inputs are of fixed size" in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--provider", "cdua"], "no provider 'cdua'"),
        (["--runs", "0"], "--runs"),
        (["--seconds", "nan"], "--seconds"),
        (["--dim", "width=3"], "'width'"),
    ],
)
def test_bad_options(run: Run, model: Path, words: list[str], said: str) -> None:
    result = run("bench", model, *words)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
