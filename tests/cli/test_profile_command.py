"""`profile`: kernels, groups, and that nothing is measured twice."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxprune
from onnxprune.cli import profile as command
from onnxprune.counting.cost import cost
from onnxprune.targets import kernels as kernels_module
from onnxprune.targets import latency

from .conftest import Said

Run = Callable[..., Said]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(kernels_module, "SECONDS", 0.0)
    monkeypatch.setattr(importlib.import_module("onnxprune.targets.profile"), "SECONDS", 0.01)


def test_the_document(run: Run, model: Path) -> None:
    said = run("profile", model, "--json")
    assert said.code == 0
    data = said.data
    assert data["command"] == "profile"
    assert data["model"] == str(model)
    assert (data["threads"], data["dims"], data["notes"]) == (1, {"batch": 1}, [])
    assert data["blocks"] == {"conv": 1, "matmul": 1}
    assert [(group["name"], group["units"], group["block"]) for group in data["groups"]] == [
        ("stem", 8, 1),
        ("body.1", 16, 1),
    ]
    # stem's unit: 3 x 3 x 3 of its own, 9 in each of body.1's 16 filters, 9 x 16 of body.2's, 10 of the head's
    assert data["groups"][0]["macs"] == pytest.approx(64 * (27 + 9 * 16 + 9 * 16) + 10)
    assert data["groups"][1]["params"] == pytest.approx(2 * 9 * 8)
    assert sum(kernel["macs"] for kernel in data["kernels"]) == cost(onnxprune.load(model)).macs
    assert all(kernel["microseconds"] > 0 for kernel in data["kernels"])
    assert data["milliseconds"] > 0


def test_the_tables(run: Run, model: Path) -> None:
    said = run("profile", model)
    assert said.code == 0
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "ms a run" in lines[0]
    assert "(1 thread, batch=1)" in " ".join(lines[:2])
    assert "This machine likes multiples of 1 channels in convolutions, of 1 in matrix" in said.out
    assert ["Kernel", "Operator", "Time", "Share", "MACs", "MACs/s"] in [line.split() for line in lines]
    groups = {line.split()[0]: line.split() for line in lines if line.startswith(("stem ", "body.1 "))}
    assert groups["stem"][1:3] == ["8", "1"]
    assert groups["body.1"][1:3] == ["16", "1"]
    shares = [float(word[:-1]) for line in lines for word in line.split() if word.endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=1)
    assert said.err == ""


def test_groups_that_should_stay_whole(run: Run, model: Path, likes_sixteen: None) -> None:
    said = run("profile", model)
    rows = {line.split()[0]: line.split() for line in said.out.splitlines() if line.startswith(("stem ", "body.1 "))}
    assert (rows["stem"][2], rows["body.1"][2]) == ("whole", "whole")


def test_only_the_slowest_unless_asked(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MOST", 2)
    said = run("profile", model)
    count = len(run("profile", model, "--json").data["kernels"])
    assert f"and {count - 2} kernels more with " in said.out
    verbose = run("profile", model, "-v")
    assert "kernels more" not in verbose.out
    assert len(verbose.out.splitlines()) == len(said.out.splitlines()) + count - 2 - 1
    assert "\nAnalyze " in f"\n{verbose.err}"


def test_the_second_time_only_the_whole_is_timed(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run("profile", model, "--dim", "batch=7", "--json").data

    def never(*_: object, **__: object) -> Any:
        raise AssertionError("kernels were timed again")

    monkeypatch.setattr(latency, "kernels", never)
    second = run("profile", model, "--dim", "image:0=7", "--json").data
    assert second["kernels"] == first["kernels"]
    assert second["groups"] == first["groups"]
    assert first["dims"] == {"batch": 7}


def test_sizes_count(run: Run, model: Path) -> None:
    one, four = (run("profile", model, "--dim", f"batch={batch}", "--json").data for batch in (1, 4))
    assert [4 * group["macs"] for group in one["groups"]] == pytest.approx([group["macs"] for group in four["groups"]])
    assert [group["params"] for group in one["groups"]] == [group["params"] for group in four["groups"]]


def test_a_model_without_groups(run: Run, edited: Callable[[Callable[[onnx.ModelProto], None]], Path]) -> None:
    def only_the_head(proto: onnx.ModelProto) -> None:
        head = onnx.helper.make_node("Conv", ["image", "stem.weight", "stem.bias"], ["logits"], name="head")
        del proto.graph.node[:]
        proto.graph.node.append(head)
        del proto.graph.output[0].type.tensor_type.shape.dim[:]
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        kept = [item for item in proto.graph.initializer if item.name.startswith("stem")]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)

    said = run("profile", edited(only_the_head))
    assert said.code == 0
    assert said.out.rstrip().endswith("No channels of this model can be pruned.")


def test_attention_and_inexact_cuts_are_options(run: Run, model: Path) -> None:
    assert run("profile", model, "--attention", "off", "--allow-inexact", "-q").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing.onnx"], "'nothing.onnx' does not exist"),
        (["net.onnx", "--dim", "width=3"], "no free dimension 'width'"),
        (["net.onnx", "--threads", "x"], "--threads: 'x' is not a whole number"),
        (["net.onnx", "--ratio", "0.3"], "unrecognized argument '--ratio'"),
    ],
)
def test_mistakes(run: Run, model: Path, words: list[str], said: str) -> None:
    result = run("profile", *words)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert result.err.count("\n") == 1


def test_a_damaged_measurement_is_mentioned(
    run: Run, model: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conftest import machine_that_likes

    cache = tmp_path_factory.mktemp("damaged")
    machine_that_likes(1, cache, monkeypatch)
    assert run("profile", model, "-q").code == 0
    (path,) = cache.glob("latency-*.json")
    path.write_text("{")
    said = run("profile", model)
    assert said.code == 0
    assert "note: the measurements in " in said.err
    assert "were damaged; measured anew" in said.err
