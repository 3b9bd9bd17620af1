"""Every small graph of the rule tables says the same in torch as in onnxruntime: one per form of every operator."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from oracle import opened
from rows import Row

import onnxprune
from onnxprune.bridge import verify_torch
from onnxprune.errors import UserError

TABLES = sorted((Path(__file__).parents[1] / "rules").glob("test_*.py"))
TOLERANCE = 2e-5
STEP = 2e-2
"""Where both round to whole numbers, and not always the same."""
RANDOM = ("Random", "Bernoulli", "Multinomial")
UNKNOWN = {
    "GroupQueryAttention with a sink": "further biases are not known",
    "MaxRoiPool": "has no translation",
    "com.microsoft::SimplifiedLayerNormalization of channels": "onnxruntime does not accept the model",
}
"""What is refused, and how."""


def rows_of(path: Path) -> list[Row]:
    """Of the forms that are there twice, behind a layer and behind a sum, the first."""
    spec = importlib.util.spec_from_file_location(f"rows_of_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = [row for table in vars(module).values() if isinstance(table, list) for row in table if isinstance(row, Row)]
    found = [row for row in found if row.runs and not row.name.startswith(RANDOM)]
    return [row for row in found if not row.name.endswith(("summed", "role")) and "roles of" not in row.name]


def complaint(row: Row) -> str:
    """What is wrong with a row, or nothing."""
    try:
        model = onnxprune.normalize(opened(row.proto()))
        error = verify_torch(onnxprune.to_torch(model), model, dims=dict(row.dims) or None).error
    except UserError as refused:
        expected = next((text for name, text in UNKNOWN.items() if row.name.startswith(name)), None)
        return "" if expected is not None and expected in str(refused) else f"{row.name}: {refused}"
    quantised = any("Quantize" in node.op_type or "QLinear" in node.op_type for node in model.graph.node)
    return "" if error < (STEP if quantised else TOLERANCE) else f"{row.name}, opset {row.opset}: off by {error:.1e}"


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem[5:])
def test_rows(path: Path) -> None:
    rows = rows_of(path)
    assert len(rows) > 10
    assert [text for text in map(complaint, rows) if text] == []
