"""Where the error enters: nothing before the cut, what it is behind it, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from building import Net
from nets import NETS
from oracle import prepared

from onnxprune.analysis.analyze import analyze
from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Plan
from onnxprune.data.sources import open_data
from onnxprune.errors import UserError
from onnxprune.execution import runtime
from onnxprune.files.model import Model
from onnxprune.repair.layer_errors import layer_errors
from onnxprune.scoring.scores import score
from onnxprune.selection.select import select

Array = np.ndarray[Any, Any]


def pruned(model: Model) -> tuple[Model, Plan]:
    coupling = analyze(model, strict=True)
    plan = select(coupling, score(model, coupling, "random"), ratio=0.5)
    return apply(model, plan), plan


def test_the_error_is_that_of_what_is_left() -> None:
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 8, 3, name="first"), name="relu")
    n.output(n.norm(n.conv(x, 5, bias=False, name="second"), name="bn"))
    model = prepared(n.proto())
    small, plan = pruned(model)
    data = open_data("random:10", model, batch=4)
    first, second = layer_errors(model, small, plan, data)
    assert (first.layer, first.op, first.tensor, first.error, first.sqnr_db) == (
        "first",
        "Conv",
        "first.out",
        0,
        math.inf,
    )
    assert (second.layer, second.tensor) == ("second", "bn.out")
    feeds = {"image": np.concatenate([batch.feeds["image"] for batch in data])}
    y, other = (runtime.run(runtime.session(each), feeds)["bn.out"].astype(np.float64) for each in (model, small))
    spread = y - y.mean(axis=(0, 2, 3), keepdims=True)
    assert second.error == pytest.approx(np.square(y - other).sum() / np.square(spread).sum(), rel=1e-5)
    assert second.error > 0.01


@pytest.mark.parametrize("name", ["resnet", "densenet", "mobilenet"])
def test_every_layer_of_a_network(name: str) -> None:
    model = prepared(NETS[name]())
    small, plan = pruned(model)
    found = layer_errors(model, small, plan, open_data("random:12", model, batch=4))
    kinds = [node.op_type for node in small.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert sorted(each.op for each in found) == sorted(kinds)
    assert found[0].error < 1e-9
    assert found[-1].error > 0.01
    assert all(math.isfinite(each.error) for each in found)


def test_the_same_model_has_no_error() -> None:
    model = prepared(NETS["resnet"]())
    found = layer_errors(model, model, Plan(()), open_data("random:4", model))
    assert len(found) > 4
    assert {each.error for each in found} == {0}


def test_no_data() -> None:
    model = prepared(NETS["resnet"]())
    with pytest.raises(UserError, match="no data to compare layers on"):
        layer_errors(model, model, Plan(()), [])
