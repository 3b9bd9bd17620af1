"""Pruning with options that the rule tables have no column for, and reading off what an operator stores afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from oracle import plans, prepared, prune, reasons, units

from onnxprune.analysis.analyze import analyze
from onnxprune.analysis.coupling import Coupling
from onnxprune.files.model import Model
from onnxprune.scoring.scores import score
from onnxprune.selection.select import select


def checked(
    proto: onnx.ModelProto,
    expected: Sequence[int],
    frozen: Mapping[str, int] | None = None,
    dims: Mapping[str, int] | None = None,
    **options: Any,
) -> Coupling:
    """`oracle.check` with options for the analysis."""
    model = prepared(proto)
    coupling = analyze(model, strict=True, **options)
    found = f"groups {[(g.name, g.size) for g in coupling.groups]}, frozen {coupling.frozen}"
    assert units(coupling) == tuple(sorted(expected, reverse=True)), found
    if frozen is not None:
        assert reasons(coupling) == dict(frozen), found
    for plan in plans(model, coupling, seeds=(0,)):
        prune(model, plan, dims)
    return coupling


def halved(proto: onnx.ModelProto, *, dims: Mapping[str, int] | None = None, **options: Any) -> Model:
    """The model without half of each group, the oracle asserted."""
    model = prepared(proto)
    coupling = analyze(model, strict=True, **options)
    return prune(model, select(coupling, score(model, coupling), ratio=0.5), dims)


def stored(model: Model, op: str) -> list[dict[str, Any]]:
    """The attributes of every node of a kind."""
    return [
        {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        for node in model.graph.node
        if node.op_type == op
    ]
