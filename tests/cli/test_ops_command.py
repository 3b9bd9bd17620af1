"""`onnxprune ops` says of every operator whether cuts pass through it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper


@pytest.fixture
def odd(edited: Callable[[Callable[[onnx.ModelProto], None]], Path]) -> Path:
    """The small network with an operator behind its stem that nobody knows."""

    def mystify(model: onnx.ModelProto) -> None:
        relu = next(node for node in model.graph.node if node.name == "stem_relu")
        relu.op_type, relu.domain = "Mystery", "example.com"
        model.opset_import.append(helper.make_opsetid("example.com", 1))

    return edited(mystify)


def test_unknown_operators_come_first_with_what_they_freeze(run: Callable[..., Any], odd: Path) -> None:
    said = run("ops", odd, "--json")
    assert said.code == 0
    first, *rest = said.data["operators"]
    assert first == {
        "op": "example.com::Mystery",
        "nodes": 1,
        "status": "unknown",
        "frozen": 8,
        "reasons": ["no-rule"],
    }
    assert {"op": "Conv", "nodes": 3, "status": "known", "frozen": 0, "reasons": []} in rest


def test_the_table_fits_and_sums_up(run: Callable[..., Any], odd: Path) -> None:
    out = run("ops", odd).out
    assert max(map(len, out.splitlines())) <= 80
    assert "1 unknown" in out
