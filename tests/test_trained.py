"""The trained networks in the repository are those that docs/zoo.md speaks of: small, whole, and worth pruning."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "models_zoo" / "trained"
ROW = re.compile(r"^\| `(\w+)\.onnx` \| ([\d.]+) % \|.*\| `([0-9a-f]{12})` \|$", re.MULTILINE)
"""Of the table in docs/zoo.md: file, accuracy, the beginning of its SHA-256."""
ROWS = ROW.findall((ROOT / "docs/zoo.md").read_text("utf-8"))


def test_the_table_names_all_files() -> None:
    assert sorted(name for name, *_ in ROWS) == sorted(path.stem for path in FOLDER.iterdir())
    assert {"resnet20", "slim_vgg", "slim_mobilenet_v2"} == {name for name, *_ in ROWS}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 5_000_000


@pytest.mark.parametrize(("name", "accuracy", "digest"), ROWS)
def test_the_file_is_the_one_that_was_measured(name: str, accuracy: str, digest: str) -> None:
    data = (FOLDER / f"{name}.onnx").read_bytes()
    assert hashlib.sha256(data).hexdigest().startswith(digest)
    assert float(accuracy) > 79


@pytest.mark.parametrize("name", [name for name, *_ in ROWS])
def test_the_file_has_norms_that_saw_data(name: str) -> None:
    """Variances near 1 are those of a network that was never trained."""
    path = FOLDER / f"{name}.onnx"
    proto = onnx.load(path)
    assert sum(node.op_type == "BatchNormalization" for node in proto.graph.node) >= 6
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    model = onnxprune.load(path)
    coupling = onnxprune.analyze(model)
    norms = [weight.array() for key, weight in model.weights.items() if key.endswith("running_var")]
    assert np.median(np.concatenate(norms)) < 0.5
    scores = onnxprune.score(model, coupling, "bn_scale")
    plan = onnxprune.select(coupling, scores, ratio=0.4)
    pruned = onnxprune.apply(model, plan)
    onnxprune.verify(model, pruned, plan).require()
    assert onnxprune.cost(pruned).macs < 0.5 * onnxprune.cost(model).macs
