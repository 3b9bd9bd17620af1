"""What is run, in which order and on what; never how long it took."""

from __future__ import annotations

import gc
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune import PassManager, State
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.files.store import load, save
from onnxprune.files.tensors import Tensor
from onnxprune.machine import peak
from onnxprune.machine.providers import resolve_provider
from onnxprune.pipeline.observers import Benchmarks
from onnxprune.timing.bench import bench
from onnxprune.timing.rounds import MIN_ROUNDS, time_rounds
from onnxprune.timing.verdict import median_interval, verdict


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
    samples = time_rounds([machine.call("A", 4.0), machine.call("B", 1.0)], runs=30, warmup=2, clock=machine.clock)
    assert len(machine.log) == 2 * (2 + 30)
    rounds = [machine.log[at : at + 2] for at in range(0, len(machine.log), 2)]
    assert set(rounds) == {"AB", "BA"}
    assert 10 <= rounds.count("AB") <= 22, "a coin decides who comes first"
    assert samples.tolist() == [[4.0, 1.0]] * 30
    assert False in machine.collecting, "no garbage collection while the clock runs"
    assert gc.isenabled()


def test_nobody_is_at_a_disadvantage_for_its_place() -> None:
    machine = Machine()

    def equal() -> None:
        machine.now += 1.1 if machine.log.count("x") % 2 == 0 else 1.0  # who comes first in a round pays
        machine.log += "x"

    first, second = time_rounds([equal, equal], runs=40, warmup=1, clock=machine.clock).T
    assert sorted(set(np.round(first / second, 3))) == [0.909, 1.1], "no round is fair"
    assert verdict(*median_interval(first / second)) == "too noisy to tell"
    fixed = np.full(40, 1.1)
    assert verdict(*median_interval(fixed)) == "faster", "what a fixed order would have said"


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
    assert (machine.log.count("A"), machine.log.count("B")) == (1 + 2 * 4, 3)
    assert np.allclose(samples, [[0.25e-3, 1.0]] * 2, rtol=1e-9)


def test_a_hiccup_in_the_warm_up_sets_nobody_apart() -> None:
    machine = Machine()
    slow = iter([False, False, True])  # the last call of the warm-up takes 2 ms instead of 0.25

    def call() -> None:
        machine.now += 2e-3 if next(slow, False) else 0.25e-3
        machine.log += "A"

    time_rounds([call], runs=2, warmup=3, clock=machine.clock)
    assert len(machine.log) == 3 + 2 * 4


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
    assert (second.p10_ms, second.p90_ms, second.p99_ms) == pytest.approx((1.2, 2.8, 2.98), rel=1e-9)
    assert (first.throughput, second.throughput) == pytest.approx((250, 500), rel=1e-9)
    assert (second.speedup_low, second.speedup_high, second.verdict) == (0.0, math.inf, "too noisy to tell")
    assert (first.speedup_low, first.speedup_high, first.verdict) == (1.0, 1.0, "reference")


def test_the_interval_of_the_ratio(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = np.array([1.6, 1.1, 1.3, 1.5, 1.4, 1.2, 0.5, 1.7, 9.0])
    times = np.stack([ratios, np.ones(9)], axis=1)
    monkeypatch.setattr(sys.modules[bench.__module__], "time_rounds", lambda calls, **_: times)
    report = bench(files)
    row = report.rows[1]
    assert (row.speedup, row.speedup_low, row.speedup_high) == (1.4, 1.1, 1.7), "the second and the eighth of nine"
    assert row.verdict == "faster"
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["rows"][1]["speedup_low"] == 1.1
    times[1, 0] = 0.9
    assert bench(files).rows[1].verdict == "too noisy to tell", "0.9 is the second of nine now"


def test_without_an_interval_json_says_null(files: list[Path]) -> None:
    document = json.loads(json.dumps(bench(files, runs=2, warmup=0).to_dict(), allow_nan=False))
    assert [row["speedup_high"] for row in document["rows"]] == [1.0, None]
    assert document["rows"][1]["speedup_low"] == 0


@pytest.mark.parametrize(("n", "k"), [(6, 1), (8, 1), (9, 2), (20, 6), (30, 10), (50, 18), (100, 40)])
def test_the_interval_of_the_median_is_the_tables(n: int, k: int) -> None:
    """Order statistics for 95 %, as in tables of the sign test."""
    values = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    assert median_interval(values) == (k, n + 1 - k)


def test_the_interval_is_the_narrowest_that_covers() -> None:
    for n in (*range(MIN_ROUNDS, 80), 1000):
        low, high = median_interval(np.arange(1.0, n + 1))
        k = round(low)
        assert high == n + 1 - k
        missed = [2 * sum(math.comb(n, i) for i in range(end)) / 2**n for end in (k, k + 1)]
        assert missed[0] <= 0.05 < missed[1], n
    assert median_interval(np.ones(20_000)) == (1, 1), "too many for a float to count the cases"
    for n in range(MIN_ROUNDS):
        assert median_interval(np.ones(n)) == (0, math.inf)


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [median_interval(rng.lognormal(0.3, 1.0, 25)) for _ in range(2000)]
    covered = np.mean([low <= math.exp(0.3) <= high for low, high in intervals])
    assert 0.95 <= covered <= 0.97, "95.7 % for 25 rounds"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.05, 1.2, "faster"),
        (1.001, 1.2, "faster"),
        (0.8, 0.95, "slower"),
        (0.9, 1.1, "too noisy to tell"),
        (0.0, math.inf, "too noisy to tell"),
        (0.99, 1.01, "about the same"),
        (1.005, 1.015, "about the same"),
        (0.99, 1.05, "too noisy to tell"),
    ],
)
def test_verdicts(low: float, high: float, said: str) -> None:
    assert verdict(low, high) == said


def test_samples_per_second(files: list[Path]) -> None:
    fixed = model("(float[4, 8] x) => (float[4, 8] y) { y = Relu(x) }")
    for row, batch in zip(bench([files[0], fixed], dims={"batch": 5}, runs=1, warmup=0).rows, (5, 1), strict=True):
        assert row.batch == batch, "without a free batch dimension a call is a sample"
        assert row.throughput == pytest.approx(batch / (row.median_ms / 1e3), rel=1e-9)
    given = bench([files[0]], feeds={"x": np.ones((3, 8), np.float32)}, runs=1, warmup=0)
    assert given.rows[0].batch == 3


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


def test_a_crash_is_not_ours(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = {"x": np.ones((1, 8), np.float32)}
    peak.check_runs(files[0], feeds, threads=1, providers=["CPUExecutionProvider"])
    with pytest.raises(UserError, match=r"^onnxruntime cannot run it: .*Got invalid dimensions"):
        peak.check_runs(files[0], {"x": feeds["x"][:, :7]}, threads=1, providers=["CPUExecutionProvider"])
    monkeypatch.setattr(peak, "_CHILD", "import os; os.abort()")
    with pytest.raises(UserError, match=r"^onnxruntime crashes on it$"):
        peak.check_runs(files[0], feeds, threads=1, providers=["CPUExecutionProvider"])


class Both:
    """A pass that gives another model; the field says how wide."""

    needs = ("model",)
    gives = ("model",)
    drops = ()

    def __init__(self, width: int) -> None:
        self.width = width

    def run(self, state: State) -> State:
        return state.with_model(dense(self.width))


def test_benchmarks_after_every_pass_that_gives_a_model(files: list[Path]) -> None:
    seen = Benchmarks(runs=1, warmup=0, dims={"batch": 3})
    manager = PassManager([Both(32), Look(), Both(8)], [seen])
    manager.run(files[0])
    assert list(seen.reports) == ["Both", "Both (2)"]
    assert [[row.params for row in report.rows] for report in seen.reports.values()] == [[512, 256], [512, 64]]
    assert [row.name for row in seen.reports["Both"].rows] == ["input", "Both"]
    assert seen.reports["Both"].dims == {"batch": 3}
    manager.run(files[1])
    assert list(seen.reports) == ["Both", "Both (2)"], "those of the latest run"
    assert [row.params for row in seen.reports["Both"].rows] == [128, 256]


class Look:
    """A pass that gives nothing."""

    needs = gives = drops = ()

    def run(self, state: State) -> State:
        return state


def test_benchmarks_are_checked_when_they_are_made() -> None:
    with pytest.raises(UserError, match="at least one run"):
        Benchmarks(runs=0)
    with pytest.raises(UserError, match="no provider 'cdua'"):
        Benchmarks(provider="cdua")
