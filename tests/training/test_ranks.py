"""Two processes do what one does with twice the batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_models import image_model

import onnxprune
from onnxprune.files.model import Model
from onnxprune.files.store import save
from onnxprune.graph.normalize import restore

DATA = "onnxprune.models_zoo.digits:training"
VAL = "onnxprune.models_zoo.digits:held_out"
OPTIONS = ["--epochs", "2", "--rate", "0.05", "--crop", "1", "--ema", "0.5", "--limit", "192", "--sync-bn"]


def finetuned(folder: Path, name: str, processes: int, batch: int) -> Model:
    """From the command line, with torchrun where there are several."""
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command += ["onnxprune", "finetune", "net.onnx", "--data", DATA, "--val", VAL, "-o", name, "--device", "cpu"]
    done = subprocess.run(
        [*command, *OPTIONS, "--batch", str(batch)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count(f"wrote {name}") == 1  # one writes, one talks
    assert done.stdout.count("accuracy") == 1
    return onnxprune.load(folder / name)


def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    model = image_model(channels=1)
    save(restore(model), tmp_path / "net.onnx")
    alone, together = finetuned(tmp_path, "one.onnx", 1, 64), finetuned(tmp_path, "two.onnx", 2, 32)
    moved = largest = 0.0
    for name, weight in alone.weights.items():
        a, b = weight.array(), together.weights[name].array()
        largest = max(largest, float(np.abs(a - b).max()))
        moved = max(moved, float(np.abs(a - model.weights[name].array()).max()))
    assert moved > 0.01
    assert largest < 1e-5  # sums in another order; without --sync-bn it is a thousand times as much
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "one.onnx", "two.onnx"]


def test_torchrun_is_not_needed_to_say_that_a_device_is_missing(tmp_path: Path) -> None:
    model = image_model(channels=1)
    data = onnxprune.open_data(DATA, model)
    with pytest.raises(onnxprune.UserError, match="cannot compute on device 'nonsense'"):
        onnxprune.finetune(model, data, device="nonsense")
