"""What is run, in which order and on what; never how long it took."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune.bench import bench, resolve_provider
from onnxprune.errors import UserError
from onnxprune.model import Model
from onnxprune.rounds import MIN_ROUNDS, time_rounds
from onnxprune.store import load, save
from onnxprune.tensors import Tensor


def model(graph: str, **weights: Any) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}')
    return Model(proto, {name: Tensor.of(name, array) for name, array in weights.items()})


def dense(width: int) -> Model:
    return model("(float[batch, 8] x) => (float[batch, m] y) { y = MatMul(x, w) }", w=np.ones((8, width), np.float32))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    save(dense(64), paths[0])
    save(dense(16), paths[1])
    return paths


class Machine:
    """A clock that only the calls move forward, and the order in which they were made."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log = ""
        self.collecting: set[bool] = set()

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds
            self.log += name
            self.collecting.add(gc.isenabled())

        return run

    def clock(self) -> float:
        return self.now


def test_rounds_are_interleaved() -> None:
    machine = Machine()
    samples = time_rounds([machine.call("A", 4.0), machine.call("B", 1.0)], runs=3, warmup=2, clock=machine.clock)
    assert machine.log == "ABAB" + "ABABAB"
    assert samples.tolist() == [[4.0, 1.0]] * 3
    assert False in machine.collecting, "no garbage collection while the clock runs"
    assert gc.isenabled()


def test_rounds_fill_the_time_given() -> None:
    machine = Machine()
    seen: list[float] = []
    samples = time_rounds([machine.call("A", 1.0)], seconds=20, warmup=0, clock=machine.clock, on_progress=seen.append)
    assert len(samples) == 20
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(time_rounds([machine.call("A", 100.0)], seconds=20, clock=machine.clock)) == MIN_ROUNDS
    assert len(time_rounds([machine.call("A", 100.0)], seconds=0, clock=machine.clock)) == MIN_ROUNDS


def test_short_calls_are_repeated() -> None:
    machine = Machine()
    samples = time_rounds([machine.call("A", 0.25e-3), machine.call("B", 1.0)], runs=2, warmup=1, clock=machine.clock)
    assert machine.log == "AB" + "AAAAB" * 2
    assert np.allclose(samples, [[0.25e-3, 1.0]] * 2, rtol=1e-9)


def test_garbage_collection_comes_back_after_an_error() -> None:
    def fail() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        time_rounds([fail], runs=1, warmup=0)
    assert gc.isenabled()


def test_report(files: list[Path]) -> None:
    stages: list[tuple[str, float]] = []
    report = bench(files, runs=6, warmup=1, dims={"batch": 4}, on_progress=lambda *seen: stages.append(seen))
    first, second = report.rows
    assert (first.name, second.name) == ("a.onnx", "b.onnx")
    assert (first.params, second.params) == (512, 128)
    assert [row.file_bytes for row in report.rows] == [path.stat().st_size for path in files]
    assert first.inputs == second.inputs == {"x": (4, 8)}
    assert (first.speedup, first.speedup_p10, first.speedup_p90) == (1.0, 1.0, 1.0)
    for row in report.rows:
        assert 0 < row.p10_ms <= row.median_ms <= row.p90_ms
        assert 0 < row.speedup_p10 <= row.speedup <= row.speedup_p90
        assert row.peak_memory is None
    assert (report.rounds, report.threads, report.provider, report.dims) == (6, 1, "CPUExecutionProvider", {"batch": 4})
    assert {stage for stage, _ in stages} == {"load", "time"}
    assert stages[-1] == ("time", 1.0)
    back = json.loads(json.dumps(report.to_dict()))
    assert back["rows"][1]["inputs"] == {"x": [4, 8]}
    assert back["rows"][0]["median_ms"] == first.median_ms


def test_figures(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.array([[0.004, 0.001], [0.004, 0.002], [0.009, 0.003]])
    monkeypatch.setattr(sys.modules[bench.__module__], "time_rounds", lambda calls, **_: samples)
    first, second = bench(files).rows
    assert (first.median_ms, second.median_ms) == pytest.approx((4, 2), rel=1e-9)
    assert second.speedup == pytest.approx(3, rel=1e-9), "the median of 4, 2 and 3; the ratio of the medians would be 2"
    assert (second.speedup_p10, second.speedup_p90) == pytest.approx((2.2, 3.8), rel=1e-9)
    assert (second.p10_ms, second.p90_ms) == pytest.approx((1.2, 2.8), rel=1e-9)


def test_models_in_memory_and_files_mix(files: list[Path]) -> None:
    report = bench([files[0], dense(16), str(files[1])], runs=2, warmup=0)
    assert [row.params for row in report.rows] == [512, 128, 128]
    assert [row.name for row in report.rows] == ["a.onnx", "model", "b.onnx"]
    assert report.rows[1].file_bytes > 512
    same = bench([load(files[0]), files[0]], runs=1, warmup=0)
    assert len({row.name for row in same.rows}) == 2
    named = bench(files, names=["before", "after"], runs=1, warmup=0)
    assert [row.name for row in named.rows] == ["before", "after"]


def test_external_data_counts(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save(dense(600).replace(external=True), path)
    data = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert data > path.stat().st_size, "there is a second file"
    assert bench([path], runs=1, warmup=0).rows[0].file_bytes == data


def test_peak_memory_is_the_models_own(files: list[Path], tmp_path: Path) -> None:
    big = tmp_path / "big.onnx"
    save(model("(float[batch, 8] x) => (float y) { y = MatMul(x, w) }", w=np.ones((8, 1_000_000), np.float32)), big)
    mine = np.ones(30_000_000)  # 240 MB resident here must not show up there
    small, large = (row.peak_memory for row in bench([files[0], big], runs=1, warmup=0, measure_memory=True).rows)
    assert mine.nbytes == 240_000_000
    assert small is not None
    assert large is not None
    assert 20_000_000 < small < 150_000_000
    assert large - small > 25_000_000, "its weights alone are 32 MB"


@pytest.mark.parametrize("dtype", ["bfloat16", "string", "int64"])
def test_types_reach_the_memory_process(dtype: str) -> None:
    made = model(f"({dtype}[n, 3] x, {dtype} s) => ({dtype}[n, 3] y, {dtype} z) {{ y = Identity(x) z = Identity(s) }}")
    assert bench([made], runs=1, warmup=0, measure_memory=True).rows[0].peak_memory


def test_the_same_sizes_for_all(tmp_path: Path) -> None:
    pixels = "(float[batch, 3, height, width] x"
    flat = pixels + ") => (float y) { s = Constant<value = int64[2] {1, SIZE}>() y = Reshape(x, s) }"
    picky, never = model(flat.replace("SIZE", "12288")), model(flat.replace("SIZE", "7"))
    easy = model(pixels + ", float[other] z) => (float y, float w) { y = Relu(x) w = Relu(z) }")
    for models in ([picky, easy], [easy, picky]):
        report = bench(models, runs=1, warmup=0)
        assert [row.inputs["x"] for row in report.rows] == [(1, 3, 64, 64)] * 2
        assert report.dims == {"batch": 1, "height": 64, "width": 64, "other": 1}
    with pytest.raises(UserError, match=r"^never: onnxruntime cannot run .*--dim 'batch=N'"):
        bench([easy, never], names=["easy", "never"], runs=1, warmup=0)


def test_given_inputs(files: list[Path]) -> None:
    report = bench(files, feeds={"x": np.ones((3, 8), np.float32)}, runs=1, warmup=0)
    assert [row.inputs for row in report.rows] == [{"x": (3, 8)}] * 2
    with pytest.raises(UserError, match=r"a\.onnx: onnxruntime cannot run the model: .*x"):
        bench(files, feeds={"x": np.ones((3, 7), np.float32)}, runs=1, warmup=0)


def refused(files: list[Path], **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        bench(files, **{"runs": 1, "warmup": 0, **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes(files: list[Path], tmp_path: Path) -> None:
    assert "has no provider 'CUDAProvider'" in refused(files, provider="CUDAProvider")
    assert "installed: " in refused(files, provider="nothing")
    assert "CPUExecutionProvider" in refused(files, provider="nothing")
    assert "did you mean 'batch'" in refused(files, dims={"bach": 2})
    assert "must be at least 1" in refused(files, dims={"batch": 0})
    assert "at least one run" in refused(files, runs=0)
    assert "threads must be a whole number" in refused(files, threads=-1)
    assert "threads must be a whole number" in refused(files, threads=10**6)
    assert "cannot be negative" in refused(files, warmup=-1)
    assert "at least one model" in refused([])
    assert "does not exist" in refused([tmp_path / "none.onnx"])
    odd = model("(float[2] x) => (float y) { y = Relu(x) }")
    odd.graph.node[0].op_type = "Relo"
    assert "model: onnxruntime does not accept the model" in refused([odd])  # type: ignore[list-item]


def test_providers_by_short_name() -> None:
    assert resolve_provider("cpu") == resolve_provider("CPUExecutionProvider") == "CPUExecutionProvider"
