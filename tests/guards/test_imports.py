"""`onnxprune --help` answers at once: it imports neither torch nor onnxruntime.

What is imported is asserted, not how long it took: that depends on the machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SLOW = {
    "PIL",
    "jinja2",
    "joblib",
    "matplotlib",
    "networkx",
    "onnxruntime",
    "onnxscript",
    "sklearn",
    "torch",
    "torchvision",
}


def imported(folder: Path, *arguments: str) -> tuple[set[str], str]:
    """What a fresh interpreter imports, and what it prints."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == 0, "\n".join(line for line in lines if not line.startswith("import time:"))
    return {line.rsplit("|", 1)[-1].strip() for line in lines if line.startswith("import time:")}, done.stdout


@pytest.mark.parametrize("arguments", [("-m", "onnxprune", "--help"), ("-c", "import onnxprune, onnxprune.passes")])
def test_nothing_slow_is_imported(arguments: tuple[str, ...], tmp_path: Path) -> None:
    modules, _ = imported(tmp_path, *arguments)
    assert "onnxprune" in modules
    assert {module.split(".")[0] for module in modules} & SLOW == set()


def test_help_is_printed(tmp_path: Path) -> None:
    modules, printed = imported(tmp_path, "-m", "onnxprune", "--help")
    assert "onnxprune.cli" in modules
    for word in ("analyze", "prune", "apply", "verify", "bench"):
        assert word in printed


def test_the_guard_sees(tmp_path: Path) -> None:
    modules, _ = imported(tmp_path, "-c", "import onnxprune.errors, onnxruntime")
    assert {"onnxprune.errors", "onnxruntime"} <= modules
