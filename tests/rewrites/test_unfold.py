"""BatchNormalization goes in where an exporter took it out, holds the statistics of the data, and changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from building import Net
from oracle import prepared

from onnxprune.analysis.analyze import analyze
from onnxprune.checking.verify import verify
from onnxprune.cutting.apply import apply
from onnxprune.data.sources import Request, open_data
from onnxprune.errors import UserError, VerificationError
from onnxprune.execution import runtime
from onnxprune.execution.batches import Batch
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor, same
from onnxprune.graph.batchnorm import EPSILON
from onnxprune.passes import Analyze, Apply, Fold, Score, Select, Unfold, Verify
from onnxprune.pipeline.manager import PassManager
from onnxprune.rewrites.agreement import difference
from onnxprune.rewrites.fold import fold
from onnxprune.rewrites.rewriting import Rewritten
from onnxprune.rewrites.unfold import unfold
from onnxprune.scoring.scores import score
from onnxprune.selection.select import select

NOISE = 1e-5


def convolutions() -> Model:
    """Of every kind: with bias and without, grouped, depthwise, transposed, behind each other and beside each other."""
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 8, 8), 8, 3, name="plain"))
    y = n.op("Relu", n.conv(x, 8, 3, group=8, name="depthwise"))
    y = n.op("Relu", n.conv(y, 8, 3, group=4, bias=False, name="grouped"))
    x = n.op("Relu", n.op("Add", n.conv(y, 8, name="linear"), x))
    x = n.op("Relu", n.deconv(x, 6, group=2, name="transposed"))
    x = n.op("Relu", n.norm(n.conv(x, 6, 3, bias=False, name="kept"), name="bn"))
    gate = n.conv(n.op("GlobalAveragePool", x), 6, name="gate")
    x = n.op("Mul", x, n.op("Sigmoid", gate))
    n.output(n.conv(n.op("Relu", n.conv(x, 7, name="neck")), 5, name="head"))
    return prepared(n.proto())


def put_in(model: Model, samples: int = 40) -> tuple[Rewritten, list[Batch]]:
    data = open_data(f"random:{samples}", model, batch=16)
    return unfold(model, data), list(data)


def array(model: Model, name: str) -> Any:
    return model.weights[name].array().astype(np.float64)


def test_it_goes_where_it_was_and_nowhere_else() -> None:
    model = convolutions()
    found, batches = put_in(model)
    assert found.done == ("plain", "depthwise", "grouped", "linear", "transposed", "neck")
    assert found.left == {
        "gate": "it makes one position of each sample: a batch would be too little to learn from",
        "head": "no other layer follows it",
    }
    kinds = [node.op_type for node in found.model.graph.node]
    assert kinds.count("BatchNormalization") == 7
    assert difference(model, found.model, [batch.feeds for batch in batches]) < NOISE
    assert [item.name for item in found.model.graph.output] == [item.name for item in model.graph.output]


def test_it_holds_the_statistics_of_the_data() -> None:
    model = convolutions()
    found, batches = put_in(model)
    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    names = {"depthwise": "depthwise.out", "grouped": "grouped.out", "transposed": "transposed.out"}
    proto.graph.output.extend(type(proto.graph.output[0])(name=name) for name in names.values())
    session = runtime.session(model.replace(proto=proto))
    made = [runtime.run(session, batch.feeds) for batch in batches]
    for layer, tensor in names.items():
        z = np.concatenate([each[tensor] for each in made]).astype(np.float64)
        bias = array(model, f"{layer}.bias") if f"{layer}.bias" in model.weights else 0.0
        shift = f"{layer}.bias" if f"{layer}.bias" in model.weights else f"{layer}.bn.shift"
        mean, var = z.mean(axis=(0, 2, 3)), z.var(axis=(0, 2, 3))
        np.testing.assert_allclose(array(found.model, f"{layer}.bn.mean"), mean - bias, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(array(found.model, f"{layer}.bn.var"), var, rtol=1e-4)
        np.testing.assert_allclose(array(found.model, f"{layer}.bn.scale"), np.sqrt(var + EPSILON), rtol=1e-4)
        np.testing.assert_allclose(array(found.model, shift), mean, rtol=1e-4, atol=1e-5)
        node = next(node for node in found.model.graph.node if node.name == layer)
        assert len(node.input) == 2, "its bias has gone into the shift"


def test_there_and_back() -> None:
    model = convolutions()
    there, _ = put_in(model)
    back = fold(there.model)
    assert len(back.done) == 7, "one that was there before as well"
    assert back.left == {}
    assert {name for name in back.model.weights if name.startswith(("plain", "transposed", "neck"))} == {
        f"{layer}.{kind}" for layer in ("plain", "transposed", "neck") for kind in ("weight", "bias")
    }
    for name, weight in back.model.weights.items():
        if name in model.weights and not name.startswith(("bn", "kept")):
            np.testing.assert_allclose(weight.array(), array(model, name), rtol=0, atol=1e-5)
    feeds = [batch.feeds for batch in open_data("random:8", model, seed=3)]
    assert difference(model, back.model, feeds) < NOISE
    again = fold(back.model)
    assert again.done == ()
    assert all(again.model.weights[name] is weight for name, weight in back.model.weights.items())


def test_dead_channels_stay_dead_and_finite() -> None:
    model = convolutions()
    weight = model.weights["plain.weight"].array().copy()
    weight[2] = 0
    model = model.replace(weights={**model.weights, "plain.weight": Tensor.of("plain.weight", weight)})
    found, batches = put_in(model)
    assert array(found.model, "plain.bn.var")[2] == 0
    assert array(found.model, "plain.bn.scale")[2] == pytest.approx(EPSILON**0.5)
    assert difference(model, found.model, [batch.feeds for batch in batches]) < NOISE


def test_shared_and_computed_weights_are_left() -> None:
    n = Net()
    x = n.conv(n.image("batch", 4, 6, 6), 4, 3, name="first")
    y = n.op("Conv", n.op("Relu", x), "first.weight", name="second", pads=[1] * 4)
    w = n.op("Abs", n.weight(4, 4, 1, 1, name="raw"))
    n.output(n.conv(n.op("Relu", n.op("Conv", y, w, name="third")), 3, name="head"))
    found, _ = put_in(prepared(n.proto()))
    assert found.done == ()
    assert found.left == {
        "first": "its weight is shared with other nodes",
        "second": "its weight is shared with other nodes",
        "third": "its weight is no float32 initializer",
        "head": "no other layer follows it",
    }


def test_outputs_and_biases_that_others_use() -> None:
    """The tensor keeps its name, and the bias that two convolutions share goes to each of them."""
    n = Net()
    x = n.conv(n.image("batch", 4, 6, 6), 4, 3, name="first")
    y = n.op("Conv", x, n.weight(4, 4, 1, 1, name="w"), "first.bias", name="second")
    n.output(x, n.conv(y, 3, name="head"))
    proto = n.proto()
    bare = prepared(proto)
    model = bare.replace(proto=bare.proto)
    node = next(node for node in model.graph.node if node.name == "second")
    node.input[2] = "first.bias"  # normalisation has taken it apart
    found, batches = put_in(model)
    assert found.done == ("first", "second")
    assert difference(model, found.model, [batch.feeds for batch in batches]) < NOISE
    assert "first.bias" not in found.model.weights


def test_pruning_after_unfolding_takes_it_along() -> None:
    model = convolutions()
    there = put_in(model)[0].model
    coupling = analyze(there, strict=True)
    plan = select(coupling, score(there, coupling, "l1"), ratio=0.5)
    pruned = apply(there, plan)
    assert verify(there, pruned, plan).require().error is not None
    assert pruned.weights["depthwise.bn.mean"].shape == (4,)
    back = fold(pruned)
    feeds = [batch.feeds for batch in open_data("random:8", model)]
    assert difference(pruned, back.model, feeds) < NOISE
    assert len(back.done) == 7
    assert back.model.weights["depthwise.bias"].shape == (4,)


def test_a_pruned_model_can_be_unfolded() -> None:
    model = convolutions()
    coupling = analyze(model, strict=True)
    plan = select(coupling, score(model, coupling, "l1"), ratio=0.4)
    pruned = apply(model, plan)
    found, batches = put_in(pruned)
    assert found.done == ("plain", "depthwise", "grouped", "linear", "transposed", "neck")
    assert difference(pruned, found.model, [batch.feeds for batch in batches]) < NOISE


def test_the_same_data_gives_the_same_bits() -> None:
    model = convolutions()
    one, two = (put_in(model)[0].model for _ in range(2))
    assert all(same(weight, two.weights[name]) for name, weight in one.weights.items())


def test_as_passes() -> None:
    request = Request("random:32")
    steps = [Unfold(request), Analyze(), Score("l1"), Select(ratio=0.5), Apply(), Verify(), Fold()]
    state = PassManager(steps).run(convolutions())
    assert state.notes[0].startswith("7 BatchNormalization nodes merged; outputs equal within ")
    assert state.verification is not None
    assert not any(node.op_type == "BatchNormalization" for node in state.model.graph.node)
    with pytest.raises(UserError, match="no data to calibrate"):
        unfold(convolutions(), [])


def test_a_model_that_computes_something_else_is_noticed() -> None:
    model = convolutions()
    found, batches = put_in(model)
    mean = array(found.model, "neck.bn.mean").astype(np.float32) + 1e-3
    off = found.model.replace(weights={**found.model.weights, "neck.bn.mean": Tensor.of("neck.bn.mean", mean)})
    with pytest.raises(VerificationError, match=r"'head.out' differs by"):
        difference(model, off, [batch.feeds for batch in batches])
