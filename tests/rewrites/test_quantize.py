"""What onnxruntime's tools make runs, is smaller, and its distance from what it was made of is told as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxprune import PassManager, State, UserError, load, open_data
from onnxprune.data.sources import Request
from onnxprune.models_zoo import digits
from onnxprune.passes import Prune, Quantize, Save, Select
from onnxprune.pipeline.manager import changed
from onnxprune.rewrites.quantize import quantize

SEEN = Request("onnxprune.models_zoo.digits:seen", limit=128)


def ops(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize(
    ("to", "op", "bytes_left", "most"),
    [
        ("int8", "QuantizeLinear", 0.27, 0.05),
        ("int8-dynamic", "MatMulInteger", 1.0, 0.05),
        ("fp16", "Cast", 0.51, 0.002),
    ],
)
def test_formats(to: str, op: str, bytes_left: float, most: float, tmp_path: Path) -> None:
    state = PassManager([Quantize(to, SEEN), Save(tmp_path / "q.onnx")]).run(digits.model_path())
    original = load(digits.model_path())
    assert op in ops(tmp_path / "q.onnx")
    assert state.model.nbytes <= bytes_left * original.nbytes
    assert state.verification is not None
    off = state.verification.deviation
    assert off is not None
    assert 0 < off < most
    images, labels = digits.data("held_out")
    session = onnxruntime.InferenceSession(tmp_path / "q.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images})
    assert np.mean(logits.argmax(axis=1) == labels) > 0.98
    assert state.notes == (
        f"{to}: outputs are off by {off:.3g}, and 100.0% of the answers are the same, on 128 samples",
    )


def test_the_distance_is_that_of_onnxruntime() -> None:
    """Computed here from the two models' outputs, over the whole of the data."""
    model = load(digits.model_path())
    data = open_data("onnxprune.models_zoo.digits:held_out", model, limit=100)
    found = quantize(model, data, "int8")
    outputs = [digits._logits(each, digits.data("held_out")[0][:100], 1) for each in (model, found.model)]
    apart = np.linalg.norm(outputs[1] - outputs[0]) / np.linalg.norm(outputs[0])
    assert found.evaluation.deviation == pytest.approx(apart, rel=1e-4)
    assert found.evaluation.top1 is not None
    tensor = quantize(model, data, "int8", per_channel=False)
    scales = [weight for weight in found.model.weights.values() if weight.name.endswith("_scale") and weight.shape]
    assert scales
    assert not [w for w in tensor.model.weights.values() if w.name.endswith("_scale") and w.shape not in ((), (1,))]


def test_calibration_sees_all_batches() -> None:
    """The range of an input is that of all samples, not that of the first batch."""
    model = load(digits.model_path())

    def scale(spec: str, **how: Any) -> float:
        found = quantize(model, open_data(spec, model, **how)).model
        node = next(n for n in found.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == digits.INPUT)
        return float(found.weights[node.input[1]].array())

    assert scale("onnxprune.models_zoo.digits:seen", limit=64, batch=8) == pytest.approx(1 / 255)
    wide = scale("random:33", batch=8)
    values = [batch.feeds[digits.INPUT] for batch in open_data("random:33", model, batch=8)]
    lowest, highest = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    assert len(values) == 5
    assert wide == pytest.approx((highest - min(lowest, 0)) / 255, rel=1e-5)


def test_what_was_pruned_stays_known() -> None:
    pruned = PassManager([Prune(select=Select(ratio=0.5))]).run(digits.model_path())
    state = Quantize("int8", SEEN).run(changed(pruned, notes=()))
    assert state.plan is pruned.plan
    assert state.original is pruned.original
    assert state.coupling is None
    assert state.model.nbytes < 0.3 * pruned.model.nbytes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PassManager([Quantize("int4")]), "a model is quantised to int8, int8-dynamic, fp16, not to 'int4'"),
        (lambda: PassManager([Quantize()]), "int8 is calibrated on data: name some"),
        (lambda: PassManager([Quantize("fp16", threads=-1)]), "threads must be"),
        (lambda: _twice("int8"), "cannot be made int8: it is quantised already"),
        (lambda: _twice("fp16"), "cannot be made fp16: onnxruntime does not accept"),
    ],
)
def test_mistakes(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)


def _twice(to: str) -> State:
    few = Request("random:4")
    return PassManager([Quantize(to, few), Quantize(to, few)]).run(digits.model_path())
