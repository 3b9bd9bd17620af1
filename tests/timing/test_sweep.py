"""Which combinations are measured, on what and under which names; what is refused, and when mistakes are found."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.files.store import save
from onnxprune.files.tensors import Tensor
from onnxprune.machine import providers
from onnxprune.machine.providers import CPU, resolve_providers
from onnxprune.timing.bench import bench
from onnxprune.timing.sweep import Setting, Sweep, sweep


def model(graph: str, **weights: Any) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}')
    return Model(proto, {name: Tensor.of(name, array) for name, array in weights.items()})


def dense(width: int, dtype: type = np.float32) -> Model:
    kind = np.dtype(dtype).name.replace("32", "")
    graph = f"({kind}[batch, 64] x) => ({kind}[batch, m] y) {{ y = MatMul(x, w) }}"
    return model(graph, w=np.random.default_rng(0).standard_normal((64, width)).astype(dtype))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    save(dense(64), paths[0])
    save(dense(16), paths[1])
    return paths


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds all temporary ones."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls of the clock: the first contestant takes 4 ms, the second 2 ms, the third 1 ms ..."""
    asked: list[dict[str, Any]] = []

    def fake(calls: list[Any], **options: Any) -> np.ndarray[Any, Any]:
        asked.append({"contestants": len(calls), "runs": options["runs"], "seconds": options["seconds"]})
        for call in calls:
            call()
        options["on_progress"](1.0)
        return np.tile(4e-3 / 2.0 ** np.arange(len(calls)), (20, 1))

    monkeypatch.setattr(sys.modules[bench.__module__], "time_rounds", fake)
    return asked


def test_every_combination_is_a_setting(files: list[Path], times: list[dict[str, Any]]) -> None:
    stages: list[tuple[str, float]] = []
    found = sweep(files, batches=[1, 8], threads=[1, 2], seconds=7, on_progress=lambda *seen: stages.append(seen))
    assert [each.setting for each in found.settings] == [
        Setting(CPU, 1, 1),
        Setting(CPU, 1, 2),
        Setting(CPU, 8, 1),
        Setting(CPU, 8, 2),
    ]
    for each in found.settings:
        batch = each.setting.batch
        assert each.report.dims == {"batch": batch}
        assert each.report.threads == each.setting.threads
        assert [row.inputs for row in each.report.rows] == [{"x": (batch, 64)}] * 2
        assert [row.name for row in each.report.rows] == ["a.onnx", "b.onnx"]
        assert [(row.speedup, row.verdict) for row in each.report.rows] == [(1.0, "reference"), (2.0, "faster")]
        assert each.report.rows[1].throughput == pytest.approx(batch / 2e-3, rel=1e-9)
    rehearsed, measured = times[:2], times[2:]
    assert {each["runs"] for each in rehearsed} == {1}, "once for each batch"
    assert measured == [{"contestants": 2, "runs": None, "seconds": 7}] * 4
    kinds = [stage for stage, _ in stages]
    assert kinds.index("rehearse") < kinds.index("time")
    assert "rehearse" not in kinds[kinds.index("time") :], "everything is tried before anything is measured"
    assert [part for stage, part in stages if stage == "time"] == [0.25, 0.5, 0.75, 1.0]


def test_one_setting_is_a_plain_bench(files: list[Path], times: list[dict[str, Any]]) -> None:
    (found,) = sweep(files, runs=3).settings
    assert found.report == bench(files, runs=3)
    assert [each["runs"] for each in times] == [3, 3], "no rehearsal"
    assert (found.setting, found.refused) == (Setting(CPU, None, 1), ())


def test_variants_take_turns(files: list[Path], times: list[dict[str, Any]], scratch: Path) -> None:
    (found,) = sweep(files, variants=["fp32", "fp16", "int8"]).settings
    names = [f"{name} {variant}" for name in ("a.onnx", "b.onnx") for variant in ("fp32", "fp16", "int8")]
    assert [row.name for row in found.report.rows] == names
    assert [(each.name, f"{each.model} {each.variant}") for each in found.contenders] == [(x, x) for x in names]
    assert [row.speedup for row in found.report.rows] == [1, 2, 4, 8, 16, 32], "all of them against the first"
    full, half, eighth = (row.file_bytes for row in found.report.rows[:3])
    assert eighth < half < 0.6 * full
    assert times[-1]["contestants"] == 6
    assert list(scratch.iterdir()) == [], "what was made for the measurement is gone"
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [(row["model"], row["variant"]) for row in document["rows"][1:3]] == [("a.onnx", "fp16"), ("a.onnx", "int8")]


def test_a_variant_is_made_once_for_all_settings(
    files: list[Path], times: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    rehearsal = sys.modules["onnxprune.timing.rehearsal"]
    real = rehearsal.make_variant

    def count(variant: str, *args: Any, **options: Any) -> None:
        made.append(variant)
        real(variant, *args, **options)

    monkeypatch.setattr(rehearsal, "make_variant", count)
    sweep(files[:1], batches=[1, 2], threads=[1, 2], variants=["fp32", "fp16"])
    assert made == ["fp16"]


def test_what_cannot_be_made_is_refused_and_the_rest_measured(
    files: list[Path], tmp_path: Path, times: list[dict[str, Any]]
) -> None:
    save(dense(16, np.float16), tmp_path / "half.onnx")
    (found,) = sweep([tmp_path / "half.onnx"], variants=["fp32", "fp16"]).settings
    assert [row.name for row in found.report.rows] == ["half.onnx fp32"]
    (refused,) = found.refused
    assert (refused.model, refused.variant) == ("half.onnx", "fp16")
    assert refused.reason == "there is nothing in it that is float32"
    assert found.to_dict()["refused"][0]["reason"] == refused.reason
    with pytest.raises(UserError, match=r"^nothing is left to measure: half.onnx fp16: there is nothing in it"):
        sweep([tmp_path / "half.onnx"], variants=["fp16"])


def test_a_variant_that_crashes_is_refused(
    files: list[Path], times: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["onnxprune.machine.peak"], "_CHILD", "import os; os.abort()")
    (found,) = sweep(files[:1], variants=["fp32", "fp16"]).settings
    assert [each.reason for each in found.refused] == ["onnxruntime crashes on it"]
    assert len(found.report.rows) == 1


def test_mistakes_are_found_before_the_first_measurement(
    files: list[Path], times: list[dict[str, Any]], scratch: Path
) -> None:
    fixed = model("(float[batch, 4] x) => (float y) { s = Constant<value = int64[2] {2, 4}>() y = Reshape(x, s) }")
    cases: list[tuple[list[Any], dict[str, Any], str]] = [
        ([fixed], {"batches": [2, 3]}, "onnxruntime cannot run the model"),
        (files, {"batches": [1, 1]}, "batch 1 is given twice"),
        (files, {"batches": [1, 2**40]}, "a batch must be a whole number from 1 to 2147483647, not 1099511627776"),
        (files, {"batches": [1, 10**9]}, "input 'x' of shape [1000000000, 64] would take 238 GiB"),
        (files, {"batches": [0]}, "a batch must be a whole number"),
        (files, {"batches": [4, 8], "dims": {"batch": 4}}, "--batch 8 contradicts --dim, which makes 'batch' 4"),
        (files, {"threads": [2, 2]}, "number of threads 2 is given twice"),
        (files, {"threads": [1, -1]}, "threads must be a whole number from 0 to 1024, not -1"),
        (files, {"variants": ["fp32", "fp61"]}, "unknown variant 'fp61'"),
        (files, {"variants": ["fp16", "fp16"]}, "variant 'fp16' is given twice"),
        (files, {"providers": ["cpu", "cdua"]}, "no provider 'cdua'"),
        (files, {"providers": ["cpu", CPU]}, f"provider {CPU!r} is given twice"),
        (files, {"providers": ["cpu", "all"]}, "'all' stands for every provider"),
        (files, {"variants": []}, "give at least one variant"),
        (files, {"dims": {"bach": 2}}, "did you mean 'batch'"),
        ([], {}, "give a list of at least one model"),
        (files[0], {}, "give a list of at least one model"),  # type: ignore[list-item]  # the mistake
        ([*files, "none.onnx"], {}, "does not exist"),
    ]
    for models, options, said in cases:
        with pytest.raises(UserError) as caught:
            sweep(models, **options)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    assert {each["runs"] for each in times} == {1}, "rehearsals only"
    assert list(scratch.iterdir()) == []


def test_all_providers_but_those_that_do_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = ["TensorrtExecutionProvider", "AzureExecutionProvider", "OpenVINOExecutionProvider", CPU]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: installed)
    monkeypatch.setattr(providers, "starts", lambda name: name.startswith("Open"))
    assert resolve_providers(["all"]) == (["OpenVINOExecutionProvider", CPU], ["TensorrtExecutionProvider"])
    assert resolve_providers(["openvino", "cpu"]) == (["OpenVINOExecutionProvider", CPU], [])


def test_whether_a_providerstarts() -> None:
    assert providers.starts(CPU)
    with pytest.warns(UserWarning, match="NoSuch"):
        assert not providers.starts("NoSuchExecutionProvider")


def test_the_document_of_several(files: list[Path], times: list[dict[str, Any]]) -> None:
    found = sweep(files, batches=[1, 2])
    document = json.loads(json.dumps(Sweep(found.settings, ("CUDAExecutionProvider",)).to_dict(), allow_nan=False))
    assert [each["batch"] for each in document["settings"]] == [1, 2]
    assert [each["rows"][1]["speedup"] for each in document["settings"]] == [2.0, 2.0]
    assert document["left_out"] == ["CUDAExecutionProvider"]
