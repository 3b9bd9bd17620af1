"""Every run can be repeated: a failing example prints the line that replays it, and workers do not fight for cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from onnxprune.machine.measured import Machine, remembered
from onnxprune.selection import alignment

# Two workers with a pool of threads each on two cores are slower than one thread each; set before torch is imported.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# No deadline: a shared machine pauses, and a pause is no defect.
settings.register_profile("onnxprune", print_blob=True, deadline=None)
settings.load_profile("onnxprune")


def machine_that_likes(block: int, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Measurements after which layers take as long as the next whole block, where `--round-to auto` looks for them."""
    patch.setenv("ONNXPRUNE_CACHE", str(folder))
    times = {
        layer: [[width, -(-width // block) * block * 1e-6] for width in alignment.WIDTHS]
        for layer in alignment.LAYER_KINDS
    }
    for kind in ("float32", "float16", "int8"):
        remembered("alignment", Machine.this(threads=1), lambda: times, of=alignment.conditions(kind))


@pytest.fixture(autouse=True, scope="session")
def own_measurements(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the tests' own, of a machine that likes every width: the networks here have few channels.

    And nobody's own measurements must be changed by a test run.
    """
    patch = pytest.MonkeyPatch()
    machine_that_likes(1, tmp_path_factory.mktemp("cache"), patch)
    yield
    patch.undo()


@pytest.fixture
def likes_sixteen(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine on which the documentation's examples were made."""
    machine_that_likes(16, tmp_path_factory.mktemp("sixteen"), monkeypatch)
