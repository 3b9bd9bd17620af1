"""Layers that lost inputs and cannot be solved are named, each with why."""

from __future__ import annotations

import numpy as np
from building import MS, F, Net
from onnx import TensorProto
from oracle import prepared

from onnxprune.analysis.analyze import analyze
from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Plan
from onnxprune.data.sources import Request
from onnxprune.files.model import Model
from onnxprune.passes import Compensate
from onnxprune.pipeline.manager import State
from onnxprune.repair.behind import left_alone
from onnxprune.scoring.scores import score
from onnxprune.selection.select import select


def halved(net: Net) -> tuple[Model, Model, Plan]:
    model = prepared(net.proto())
    coupling = analyze(model, strict=True)
    plan = select(coupling, score(model, coupling, "l1"), ratio=0.5)
    return model, apply(model, plan), plan


def alone(net: Net) -> dict[str, list[str]]:
    _, pruned, plan = halved(net)
    return left_alone(pruned, plan)


def behind(n: Net) -> str:
    return n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 8, name="first"), name="relu")


def test_fused_operators() -> None:
    n = Net()
    x = behind(n)
    y = n.op(f"{MS}::FusedConv", x, n.weight(6, 8, 1, 1, name="w"), activation="Relu", name="fused", made=(2, 6, 6, 6))
    n.output(n.conv(y, 2, name="last"))
    assert alone(n) == {f"FusedConv of {MS}": ["fused"]}


def test_weights_that_are_shared_half_or_quantised() -> None:
    n = Net()
    x = behind(n)
    shared = n.weight(6, 8, 1, 1, name="w")
    half = n.op("Cast", n.const(n.rng.standard_normal((6, 8, 1, 1)), np.float16, name="half"), to=F, name="wide")
    eight = n.const(n.rng.integers(-9, 9, (6, 8, 1, 1)), np.int8, name="eight")
    integers = n.op("DequantizeLinear", eight, n.const(np.float32(0.1)), n.const(0, np.int8), name="dequantize")
    made = [
        n.op("Conv", x, weight, name=name)
        for name, weight in (("one", shared), ("two", shared), ("halves", half), ("quantised", integers))
    ]
    n.output(*made)
    assert alone(n) == {
        "weights that something else reads, too": ["one", "two"],
        "weights that are not float32": ["halves", "quantised"],
    }


def test_what_recurrent_layers_make_of_their_past() -> None:
    n = Net()
    x = n.op("Relu", n.linear(n.input("x", 4, 3, 5), 8, name="first"), name="relu")
    w, r = n.weight(1, 16, 8, name="w"), n.weight(1, 16, 4, name="r")
    y = n.op("Squeeze", n.op("LSTM", x, w, r, hidden_size=4, name="lstm"), n.ints(1), name="flat")
    n.output(n.linear(y, 2, name="last"))
    assert alone(n) == {"what recurrent layers make of their past": ["lstm"]}


def test_nothing_is_said_of_plain_layers() -> None:
    n = Net()
    n.output(n.conv(behind(n), 2, name="last"))
    assert alone(n) == {}


def test_it_is_said_in_one_line() -> None:
    n = Net()
    x = behind(n)
    x = n.op("Cast", x, to=TensorProto.FLOAT16)
    halves = [n.const(n.rng.standard_normal((6, 8, 1, 1)), np.float16) for _ in range(4)]
    n.output(*(n.op("Cast", n.op("Conv", x, w, name=f"half{i}"), to=F) for i, w in enumerate(halves)))
    model, pruned, plan = halved(n)
    after = Compensate(Request("random:8")).run(State(pruned, original=model, plan=plan))
    assert after.notes[0].startswith("nothing to compensate")
    assert after.notes[1] == (
        "lost inputs, and cannot be solved: weights that are not float32 ('half0', 'half1', 'half2' and 1 more)"
    )
