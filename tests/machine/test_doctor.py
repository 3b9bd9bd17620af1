"""Every kind of trouble is found and comes with what to do; a healthy installation has none that is essential."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onnxprune.machine import doctor, providers
from onnxprune.machine.doctor import GIVES, Examination, examine
from onnxprune.machine.limits import Limits
from onnxprune.machine.measured import Machine, folder, remembered

ROOT = Path(__file__).parents[2]
QUIET = Limits(cores=8, allowed=8, quota=None, memory=1 << 34, memory_limit=None, memory_free=1 << 33)


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with nothing to complain of."""
    monkeypatch.setattr(doctor, "limits", lambda: QUIET)
    monkeypatch.setattr("os.getloadavg", lambda: (0.1, 0.1, 0.1), raising=False)
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda path: (1 << 40, 0, 1 << 40))
    usage = type("Usage", (), {"free": 1 << 40})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)


def said(found: Examination) -> list[tuple[str, str, str]]:
    return [(finding.level, finding.what, finding.todo) for finding in found.findings]


def test_what_is_here_is_well() -> None:
    found = examine()
    assert said(found) == []
    versions = {package.name: package for package in found.packages if package.extra is None}
    assert {"numpy", "onnx", "onnxruntime", "networkx", "rich", "ml_dtypes"} <= versions.keys()
    assert versions["numpy"].version == metadata.version("numpy")
    assert versions["numpy"].least == "1.26"
    assert [p.starts for p in found.providers if p.name == providers.CPU] == [True]
    assert found.extras["torch"] is True
    assert {package.name for package in found.packages if package.extra == "torch"} >= {"torch", "onnxscript"}


def test_every_extra_for_users_is_explained() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(extras) - {"test", "dev", "recipes", "benchmarks"} == set(GIVES)


def requiring(monkeypatch: pytest.MonkeyPatch, lines: list[str], versions: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    monkeypatch.setattr(metadata, "version", version)


def test_missing_and_old_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["numpy>=1.26", "onnx>=1.19", "rich", 'torch>=2.4; extra == "torch"', "pytest>=8; extra == 'test'"]
    requiring(monkeypatch, lines, {"onnx": "1.9.0", "rich": "15", "torch": "2.10.0+cpu"})
    found = examine()
    assert said(found) == [
        ("broken", "numpy is missing", "pip install 'numpy>=1.26'"),
        ("broken", "onnx is 1.9.0, which is too old", "pip install 'onnx>=1.19'"),
    ]
    assert found.broken == list(found.findings)
    assert [package.name for package in found.packages] == ["numpy", "onnx", "rich", "torch"]
    assert found.extras == {"torch": True}  # 2.10 is newer than 2.4


def test_an_extra_that_is_missing_is_no_fault_and_one_that_is_old_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ['torch>=2.4; extra == "torch"', 'pillow>=10; extra == "images"']
    requiring(monkeypatch, lines, {"torch": "2.3.1"})
    found = examine()
    assert found.extras == {"images": False, "torch": False}
    assert said(found) == [("advice", "torch 2.3.1 is too old for the extra 'torch'", "pip install 'torch>=2.4'")]


def test_two_onnxruntimes(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": ["onnxruntime-gpu", "onnxruntime", "onnxruntime-gpu"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: both)
    requiring(monkeypatch, ["onnxruntime>=1.21"], {"onnxruntime": "1.22", "onnxruntime-gpu": "1.22"})
    ((level, what, todo),) = said(examine())
    assert (level, what[:35]) == ("advice", "onnxruntime and onnxruntime-gpu are")
    assert todo.startswith("pip uninstall onnxruntime onnxruntime-gpu")


def test_a_runtime_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[str]:
        raise ImportError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(doctor, "available", broken)
    found = examine()
    assert [(level, "libgomp" in what) for level, what, _ in said(found)] == [("broken", True)]
    assert found.providers == found.kept == ()


def test_a_runtime_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "starts", lambda name: False)
    assert [level for level, _, _ in said(examine())] == ["broken"]


def test_a_busy_machine_and_a_small_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "limits", lambda: replace(QUIET, quota=1.5, memory_free=200_000_000))
    monkeypatch.setattr("os.getloadavg", lambda: (7.0, 0.0, 0.0), raising=False)
    texts = [f"{what}: {todo}" for _, what, todo in said(examine())]
    assert texts[0] == "onnxruntime sees 8 cores, and this process may use 1.5: never --threads 0; --threads 1 at most"
    assert texts[1].startswith("the machine is busy (load 7.0, 1 of 8 cores to use): timings")
    assert texts[2].startswith("only 0.2 GB of memory are free")


def test_kept_measurements(tmp_path: Path) -> None:
    here = Machine.this(threads=1)
    remembered("alignment", here, lambda: 1)
    remembered("latency", replace(here, onnxruntime="0.0.1"), lambda: 2)
    (folder() / "latency-0123456789ab.json").write_text("{")
    (folder() / "notes.txt").write_text("not ours")
    found = examine()
    assert sorted((file.kind, file.status) for file in found.kept) == [
        ("alignment", "used"),
        ("latency", "another"),
        ("latency", "damaged"),
    ]
    assert [(level, "0123456789ab" in what) for level, what, _ in said(found)] == [("advice", True)]


def test_places_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert [todo.split()[1] for _, _, todo in said(examine())] == ["ONNXPRUNE_CACHE", "TMPDIR"]


def test_a_folder_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "file"))
    found = examine()
    assert not found.cache.writable
    assert found.kept == ()


def test_versions_compare_as_numbers() -> None:
    assert re.match(r"\d", examine().version)
    numbers = doctor._numbers
    assert numbers("2.13.0+cpu") == (2, 13, 0)
    assert numbers("1.21rc1") > numbers("1.9")
    assert numbers("main") == numbers("") == ()


Run = Callable[..., Any]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune.cli import main

    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for word in (
        metadata.version("onnxruntime"),
        "CPU",
        "no measurements yet",
        "Nothing needs doing.",
        "images as data",
    ):
        assert word in shown
    monkeypatch.setattr(doctor, "starts", lambda name: False)
    assert main(["doctor", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["findings"][0]["level"] == "broken"
    assert captured.err.startswith("onnxprune: error: onnxruntime does not run a model on the CPU: pip install")
