"""`bench`: one table, one document, and sizes that reach the models."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
    assert lines[0].split() == ["Model", "Median", "10%", "90%", "99%", "Samples/s", "Params", "File"]
    assert [line.split()[0] for line in lines[2:4]] == ["net.onnx", "small.onnx"]
    assert lines[5].split() == ["Against", "net.onnx", "Speed-up", "95%", "interval", "Verdict"]
    assert lines[7].split()[0] == "small.onnx"
    assert lines[7].split()[2:] == ["none", "too", "noisy", "to", "tell"]
    assert "5 rounds tell nothing: it takes 6 for a 95% interval." in lines
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
        (["--threads", "1,x"], "--threads: 'x' is not a whole number"),
        (["--threads", "1,1"], "number of threads 1 is given twice"),
        (["--batch", "1,0"], "--batch: must be 1 or more"),
        (["--batch", "8,1,8"], "batch 8 is given twice"),
        (["--batch", "1,"], "--batch: '' is not a whole number"),
        (["--batch", "1,4000000000"], "a batch must be a whole number from 1 to 2147483647"),
        (["--variants", "fp32,int4"], "unknown variant 'int4'"),
        (["--provider", "cpu,all"], "'all' stands for every provider"),
        (["--plot", "p.gif"], "must end in .svg, .png, .pdf"),
        (["--plot", "nowhere/p.svg"], "the folder 'nowhere' does not exist"),
        (["--save", "net.onnx"], "the model 'net.onnx' is read from it"),
        (["--save", "p.svg", "--plot", "./p.svg"], "is given twice"),
    ],
)
def test_bad_options(run: Run, model: Path, words: list[str], said: str) -> None:
    result = run("bench", model.name, *words)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert result.err.count("\n") == 1
    assert sorted(path.name for path in model.parent.iterdir()) == ["net.onnx"]


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> np.ndarray[Any, Any]:
    """A clock by which the second of two contestants is twice as fast, and the third differs from round to round."""
    rounds = np.tile([4e-3, 2e-3, 4e-3], (40, 1))
    rounds[::2, 2] *= 1.2
    rounds[1::2, 2] *= 0.8
    monkeypatch.setattr(
        sys.modules["onnxprune.timing.bench"], "time_rounds", lambda calls, **_: rounds[:, np.arange(len(calls)) % 3]
    )
    return rounds


def test_verdicts_and_what_to_do(run: Run, model: Path, small: Path, steady: np.ndarray[Any, Any]) -> None:
    shutil.copy(small, "odd.onnx")
    said = run("bench", "net.onnx", "small.onnx", "odd.onnx")
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert "small.onnx 2.00x 2.00x to 2.00x faster" in lines
    assert "odd.onnx 1.04x 0.83x to 1.25x too noisy to tell" in lines
    assert lines[2].split()[:2] == ["net.onnx", "4.00"]
    assert lines[2].split()[3:7] == ["4.00", "4.00", "4.00", "250"], "percentiles and samples per second"
    text = " ".join(lines)
    assert "too noisy to tell whether odd.onnx is faster or slower than net.onnx: measure longer (--seconds 20)" in text
    again = run("bench", "net.onnx", "odd.onnx", "small.onnx", "--runs", "40", "-q")
    assert "measure longer (--runs 160)" in " ".join(again.out.split())
    rows = run("bench", "net.onnx", "small.onnx", "odd.onnx", "--json").data["rows"]
    assert [row["verdict"] for row in rows] == ["reference", "faster", "too noisy to tell"]
    assert [(row["speedup_low"], row["speedup_high"]) for row in rows[:2]] == [(1.0, 1.0), (2.0, 2.0)]


def test_few_samples_per_second_are_not_none(run: Run, model: Path, steady: np.ndarray[Any, Any]) -> None:
    steady[:] = 3.0
    assert run("bench", model).out.splitlines()[2].split()[6] == "0.333"


def test_several_settings(run: Run, model: Path, small: Path, steady: np.ndarray[Any, Any]) -> None:
    words = ["bench", "net.onnx", "small.onnx", "--batch", "1,4", "--threads", "1,2"]
    out = run(*words).out
    heads = [line for line in out.splitlines() if "rounds in turn" in line]
    assert [line.split(" in turn, ")[1].split(", onnxruntime")[0] for line in heads] == [
        "1 thread, CPU",
        "2 threads, CPU",
    ] * 2
    assert [line.rsplit("batch=")[1] for line in heads] == ["1.", "1.", "4.", "4."]
    assert max(map(len, out.splitlines())) <= 80
    data = run(*words, "--json").data
    assert [(each["batch"], each["threads"]) for each in data["settings"]] == [(1, 1), (1, 2), (4, 1), (4, 2)]
    fourth = data["settings"][3]["rows"]
    assert [row["batch"] for row in fourth] == [4, 4]
    assert [row["throughput"] for row in fourth] == pytest.approx([1000, 2000])


def test_a_variant_that_cannot_be_made(
    run: Run, model: Path, steady: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (only,) = run("bench", model, "--variants", "fp16", "--json").data["rows"]
    assert (only["name"], only["model"], only["variant"]) == ("net.onnx fp16", "net.onnx", "fp16")
    monkeypatch.setattr(sys.modules["onnxprune.timing.variants"], "SINGLE_FILE_LIMIT", 1)
    said = run("bench", model, "--variants", "fp32,fp16")
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[3].split() == ["net.onnx", "fp16", *["-"] * 7]
    assert "net.onnx fp16 is not measured: its weights take 0.0 GB" in said.out


def test_what_is_written(run: Run, model: Path, small: Path, steady: np.ndarray[Any, Any], tmp_path: Path) -> None:
    said = run("bench", "net.onnx", "small.onnx", "--json", "--save", "r.json", "--plot", "r.svg")
    assert (tmp_path / "r.json").read_text("utf-8") == said.out
    assert said.data["rows"][1]["speedup"] == 2
    assert "<svg" in (tmp_path / "r.svg").read_text("utf-8")
    assert said.err.splitlines()[-2:] == ["wrote r.json", "wrote r.svg"]
