"""What is built holds every source of the four folders under its import name, the data files, and nothing else.

The wheel is made from the sdist, so it also shows that the sdist is complete. No isolation: no network is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = {
    "onnxprune": "onnxprune",
    "passes": "onnxprune/passes",
    "cli": "onnxprune/cli",
    "models_zoo": "onnxprune/models_zoo",
}
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt")
DATA = {"onnxprune/py.typed", "onnxprune/models_zoo/digits.onnx", "onnxprune/models_zoo/digits.npz"}
PAGES = ("base.html.j2", "compare.html.j2", "macros.html.j2", "report.html.j2", "style.css")
DATA |= {f"onnxprune/report/{name}" for name in PAGES}

pytestmark = pytest.mark.xdist_group("wheel")  # one build for all of them


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of a copy: in the root it would leave `build/` behind, and a later build would take old files from it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in (*LAYERS, "tests"):
        shutil.copytree(ROOT / name, folder / "src" / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in FILES:
        shutil.copy(ROOT / name, folder / "src" / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(folder / "src")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def sources() -> set[str]:
    return {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in LAYERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }


def test_wheel_holds_all_of_it_and_nothing_else(names: set[str]) -> None:
    package = {name for name in names if ".dist-info/" not in name}
    assert package == sources() | DATA
    assert {name.split("/")[0] for name in package} == {"onnxprune"}


def test_wheel_says_who_it_is(wheel: Path, names: set[str]) -> None:
    (folder,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"{folder}/METADATA").decode()
        entry = archive.read(f"{folder}/entry_points.txt").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert f"{folder}/licenses/LICENSE" in names
    assert "onnxprune = onnxprune.cli:main" in entry
    for extra in ("torch", "report", "test", "dev"):
        assert f"Provides-Extra: {extra}\n" in metadata
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert not [line for line in needed if "torch" in line]


def test_sdist_holds_sources_and_no_tests(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        inside = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert {*FILES, "models_zoo/digits.onnx", "models_zoo/digits.npz", "onnxprune/py.typed"} <= inside
    assert {path.relative_to(ROOT).as_posix() for folder in LAYERS for path in (ROOT / folder).rglob("*.py")} <= inside
    assert not [name for name in inside if name.startswith("tests/")]


def test_what_was_installed_works(wheel: Path, tmp_path: Path) -> None:
    """Unpacked in front of everything else on the path, the wheel finds its layers and its data in itself."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import onnxprune.passes, onnxprune.cli, onnxprune.models_zoo.digits as digits\n"
        "modules = (onnxprune, onnxprune.passes, onnxprune.cli, digits)\n"
        "paths = [module.__file__ for module in modules] + [str(digits.model_path())]\n"
        "print(*paths, len(digits.data('held_out')[1]), sep='\\n')"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *paths, count = done.stdout.split()
    assert len(paths) == 5
    assert all(Path(path).is_relative_to(tmp_path / "onnxprune") for path in paths)
    assert count == "500"
