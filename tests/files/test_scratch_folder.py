"""A folder goes with the block it is for, and with the process that made it, however that ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from onnxprune.files.scratch_folder import forsaken, scratch_folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_goes_with_the_block(place: Path) -> None:
    with scratch_folder() as folder:
        assert folder.parent == place.resolve()
        (folder / "big").write_text("x")
        forsaken()
        assert (folder / "big").exists(), "it is in use"
    assert list(place.iterdir()) == []


def test_what_a_kill_leaves_goes_next_time(place: Path) -> None:
    script = """
import os, signal, sys
from onnxprune.files.scratch_folder import scratch_folder
with scratch_folder() as folder:
    (folder / "big").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""
    environment = {**os.environ, "TMPDIR": str(place)}
    child = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    folder = Path(child.stdout.readline().strip())
    forsaken()
    assert (folder / "big").exists(), "its process lives"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert (folder / "big").exists(), "or there is nothing to tidy up"
    forsaken()
    assert list(place.iterdir()) == []


def test_what_is_not_ours_stays(place: Path) -> None:
    (place / "onnxprune-notes").mkdir()
    (place / "onnxprune-notes" / "mine").write_text("x")
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "held").write_text("")
    (place / "onnxprune-link").symlink_to(elsewhere)
    forsaken()
    assert (place / "onnxprune-notes" / "mine").exists()
    assert (elsewhere / "held").exists()
