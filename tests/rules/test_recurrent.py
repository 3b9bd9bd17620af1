"""Recurrent layers: a hidden unit goes with its gates, its column of R, its peepholes and its state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from building import Net
from onnx import helper
from oracle import check, disagreement, prepared
from pruning import halved, stored
from rows import Row, row

from onnxprune.analysis.analyze import analyze
from onnxprune.cutting.apply import apply
from onnxprune.files.model import Model
from onnxprune.graph.attributes import set_attribute
from onnxprune.scoring.scores import score
from onnxprune.selection.select import select

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
TIME, BATCH, WIDTH, HIDDEN = 4, 2, 3, 6


def sequence(n: Net, *shape: int | str) -> str:
    return n.input("sequence", *(shape or (TIME, BATCH, WIDTH)))


def layer(
    n: Net,
    op: str,
    x: str,
    *more: str,
    name: str,
    inner: int = WIDTH,
    hidden: int = HIDDEN,
    both: bool = False,
    bias: bool = True,
    outputs: int = 3,
    **attributes: Any,
) -> list[str]:
    """One node; `more` are the inputs behind the bias."""
    gates, directions = GATES[op], 2 if both else 1
    w = n.weight(directions, gates * hidden, inner, name=f"{name}.W", scale=0.6)
    r = n.weight(directions, gates * hidden, hidden, name=f"{name}.R", scale=0.5)
    b = n.weight(directions, 2 * gates * hidden, name=f"{name}.B", scale=0.3) if bias else ""
    if both:
        attributes["direction"] = "bidirectional"
    outputs = min(outputs, 3 if op == "LSTM" else 2)
    return n.ops(op, outputs, x, w, r, b, *more, name=name, hidden_size=hidden, **attributes)


def close_sequence(n: Net, y: str, directions: int = 1, *, layout: int = 0, merged: bool = True) -> None:
    """As exporters end it: Y (time, directions, batch, hidden) -> (time, batch, directions * hidden) -> a layer."""
    if directions == 1:
        y = n.squeeze(y, 2 if layout else 1)
    else:
        y = n.reshape(y if layout else n.transpose(y, 0, 2, 1, 3), 0, 0, -1)
    w = n.weight(directions * HIDDEN, 5, name="last.weight")
    n.output(n.op("MatMul", y, w, name="last"))


def close_state(n: Net, y: str, directions: int = 1) -> None:
    """Y_h or Y_c (directions, batch, hidden)"""
    y = n.squeeze(y, 0) if directions == 1 else n.reshape(n.transpose(y, 1, 0, 2), 0, -1)
    n.output(n.op("Gemm", y, n.weight(directions * HIDDEN, 5, name="last.weight"), name="last"))


def whole(op: str, *, both: bool = False, used: str = "Y", **options: Any) -> Any:
    def write(n: Net) -> None:
        outs = layer(n, op, sequence(n), name="first", both=both, **options)
        if used == "Y":
            close_sequence(n, outs[0], 2 if both else 1)
        else:
            close_state(n, outs[1 if used == "Y_h" else 2], 2 if both else 1)

    return write


def stacked(op: str, *, both: bool = False, depth: int = 2) -> Any:
    """Each layer reads what the one below it made."""

    def write(n: Net) -> None:
        x, inner, directions = sequence(n), WIDTH, 2 if both else 1
        for i in range(depth):
            y = layer(n, op, x, name=f"l{i}", inner=inner, both=both)[0]
            x = n.reshape(n.transpose(y, 0, 2, 1, 3), 0, 0, -1) if both else n.squeeze(y, 1)
            inner = directions * HIDDEN
        n.output(n.op("MatMul", x, n.weight(inner, 5, name="last.weight"), name="last"))

    return write


def two_directions(op: str) -> Any:
    """A forward and a reverse node, concatenated: their units have nothing to do with each other."""

    def write(n: Net) -> None:
        x = sequence(n)
        a = n.squeeze(layer(n, op, x, name="there")[0], 1)
        b = n.squeeze(layer(n, op, x, name="back", direction="reverse")[0], 1)
        n.output(n.op("MatMul", n.concat(a, b, axis=2), n.weight(2 * HIDDEN, 5, name="last.weight"), name="last"))

    return write


def fed_by_a_layer(op: str) -> Any:
    """What enters is made by a convolution, and is cut as well."""

    def write(n: Net) -> None:
        x = n.conv(n.image(2, 3, 1, 6), 8, name="first")
        x = n.transpose(n.squeeze(n.op("Relu", x), 2), 2, 0, 1)
        y = layer(n, op, x, name="second", inner=8, both=True)[0]
        close_sequence(n, y, 2)

    return write


def states(op: str, start: str, *, both: bool = False) -> Any:
    """Where the recurrence starts."""

    def write(n: Net) -> None:
        d = 2 if both else 1
        dynamic = start in ("expanded", "constant of shape", "constant of shape of 1", "from outside, any batch")
        batch: int | str = "batch" if dynamic else BATCH
        x = sequence(n, TIME, batch, WIDTH)

        def made(which: str) -> str:
            target = [n.ints(d), n.length(x, 1), n.ints(HIDDEN)] if dynamic else []
            if start == "zero":
                return n.const(np.zeros((d, BATCH, HIDDEN), np.float32))
            if start == "learned":
                return n.weight(d, BATCH, HIDDEN, name=f"start.{which}")
            if start == "expanded":
                return n.op("Expand", n.weight(d, 1, HIDDEN, name=f"start.{which}"), n.concat(*target, axis=0))
            if start.startswith("constant of shape"):
                value = np.array([1.0 if start.endswith("1") else 0.0], np.float32)
                return n.op("ConstantOfShape", n.concat(*target, axis=0), value=n_tensor(value))
            return n.input(which, d, batch, HIDDEN)

        starts = [made(which) for which in ("h", "c")[: 2 if op == "LSTM" else 1]]
        y = layer(n, op, x, "", *starts, name="first", both=both)[0]
        close_sequence(n, y, d)

    return write


def n_tensor(value: np.ndarray) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(value)


def with_lengths(op: str, constant: bool = False, used: str = "Y") -> Any:
    """Shorter sequences: zeros follow their end."""

    def write(n: Net) -> None:
        x = sequence(n)
        lengths = n.const([4, 2], np.int32) if constant else n.input("lengths", BATCH, dtype=6)
        outs = layer(n, op, x, lengths, name="first", both=True)
        if used == "Y":
            close_sequence(n, outs[0], 2)
        else:
            close_state(n, outs[1], 2)

    return write


def peepholes(n: Net) -> None:
    p = n.weight(2, 3 * HIDDEN, name="first.P", scale=0.4)
    close_sequence(n, layer(n, "LSTM", sequence(n), "", "", "", p, name="first", both=True)[0], 2)


def batch_first(op: str, *, start: bool = False) -> Any:
    """layout 1: (batch, time, width), and Y (batch, time, directions, hidden)"""

    def write(n: Net) -> None:
        x = sequence(n, BATCH, TIME, WIDTH)
        more = ["", n.weight(BATCH, 1, HIDDEN, name="start")] if start else []
        close_sequence(n, layer(n, op, x, *more, name="first", layout=1)[0], 1, layout=1)

    return write


def summed(op: str, *, used: str = "Y", **options: Any) -> Any:
    """A sum over the hidden units shows whether a cut unit stays zero."""

    def write(n: Net) -> None:
        outs = layer(n, op, sequence(n), name="first", **options)
        y = n.reduce("ReduceSum", outs[0] if used == "Y" else outs[1], -1, keepdims=1)
        n.output(n.op("MatMul", y, n.weight(1, 5, name="last.weight"), name="last"))

    return write


def starting_at_expanded_zero(op: str) -> Any:
    """As PyTorch's newer exporter writes it."""

    def write(n: Net) -> None:
        x = sequence(n, TIME, "batch", WIDTH)
        zero = n.op("Expand", n.scalar(0.0), n.concat(n.ints(1), n.length(x, 1), n.ints(HIDDEN), axis=0))
        y = layer(n, op, x, "", *[zero] * (2 if op == "LSTM" else 1), name="first")[0]
        total = n.reduce("ReduceSum", y, -1, keepdims=1)
        n.output(n.op("MatMul", total, n.weight(1, 5, name="last.weight"), name="last"))

    return write


def escapes(op: str) -> Any:
    """The state leaves the graph."""

    def write(n: Net) -> None:
        outs = layer(n, op, sequence(n), name="first")
        n.outputs += outs[1:]
        close_sequence(n, outs[0])

    return write


def all_used(n: Net) -> None:
    """Encoder and decoder: both states start the next layer."""
    x = sequence(n)
    y, h, c = layer(n, "LSTM", x, name="encoder")
    z = layer(n, "LSTM", n.squeeze(y, 1), "", h, c, name="decoder", inner=HIDDEN)[0]
    close_sequence(n, z)


def shared(n: Net) -> None:
    """One layer reads two sequences."""
    w, r = n.weight(1, 3 * HIDDEN, WIDTH, name="W", scale=0.6), n.weight(1, 3 * HIDDEN, HIDDEN, name="R", scale=0.5)
    a, b = (n.ops("GRU", 2, n.input(x, TIME, BATCH, WIDTH), w, r, hidden_size=HIDDEN)[1] for x in "ab")
    close_state(n, n.op("Sub", a, b))


def scaled_state(n: Net) -> None:
    """The state of one layer, changed on its way into the next."""
    _, h = layer(n, "GRU", sequence(n), name="first")
    state = n.op("Mul", h, n.weight(HIDDEN, name="scale"))
    y = layer(n, "GRU", "sequence", "", state, name="second")[0]
    close_sequence(n, y)


def attribute_free(n: Net) -> None:
    """hidden_size may be left out; then R says it."""
    w, r = n.weight(1, 4 * HIDDEN, WIDTH, name="W", scale=0.6), n.weight(1, 4 * HIDDEN, HIDDEN, name="R", scale=0.5)
    close_sequence(n, n.ops("LSTM", 3, sequence(n), w, r, hidden_size=HIDDEN, input_forget=0)[0])


OPS = tuple(GATES)


def each(name: str, make: Any, *units: int, ops: Sequence[str] = OPS, **more: Any) -> list[Row]:
    return [row(f"{op} {name}", make(op), *(units or (HIDDEN,)), **more) for op in ops]


def stays(name: str, make: Any, reason: str, ops: Sequence[str] = OPS) -> list[Row]:
    """Frozen are all gates, once in W and once in R."""
    return [row(f"{op} {name}", make(op), frozen={reason: 2 * GATES[op] * HIDDEN}) for op in ops]


ROWS: list[Row] = [
    *each("forward", whole),
    *each("reverse", lambda op: whole(op, direction="reverse")),
    *each("bidirectional", lambda op: whole(op, both=True)),
    *each("without a bias", lambda op: whole(op, bias=False)),
    *each("Y_h", lambda op: whole(op, used="Y_h")),
    *each("Y_h, bidirectional", lambda op: whole(op, used="Y_h", both=True)),
    row("LSTM Y_c", whole("LSTM", used="Y_c", both=True), HIDDEN),
    *each("opset 7", whole, opset=7),
    *each("opset 22", whole, opset=22),
    *each("stacked", stacked, HIDDEN, HIDDEN),
    *each("stacked, bidirectional", lambda op: stacked(op, both=True), HIDDEN, HIDDEN),
    *each("two nodes, two directions", two_directions, HIDDEN, HIDDEN),
    *each("behind a convolution", fed_by_a_layer, 8, HIDDEN),
    *each("starting at zero", lambda op: states(op, "zero")),
    *each("starting at something learned", lambda op: states(op, "learned", both=True)),
    *each("starting at something expanded", lambda op: states(op, "expanded", both=True)),
    *each("starting at a constant of shape", lambda op: states(op, "constant of shape", both=True)),
    *each("starting at ones of shape", lambda op: states(op, "constant of shape of 1")),
    *stays("starting from outside", lambda op: states(op, "from outside"), "fixed-axis"),
    *stays("starting from outside, any batch", lambda op: states(op, "from outside, any batch"), "fixed-axis"),
    *each("with lengths", with_lengths),
    *each("with constant lengths", lambda op: with_lengths(op, constant=True)),
    *each("with lengths, Y_h", lambda op: with_lengths(op, used="Y_h")),
    row("LSTM with peepholes", peepholes, HIDDEN),
    row("LSTM with coupled gates", whole("LSTM", input_forget=1), HIDDEN),
    *each("with a clip", lambda op: whole(op, clip=0.4)),
    row("GRU, linear before reset", whole("GRU", both=True, linear_before_reset=1), HIDDEN),
    row("GRU, linear before reset, stateful", whole("GRU", used="Y_h", linear_before_reset=1), HIDDEN),
    *each("batch first", batch_first, runs=False),
    *each("batch first, starting at something", lambda op: batch_first(op, start=True), runs=False),
    row("RNN with Relu", whole("RNN", activations=["Relu"]), HIDDEN),
    row("RNN with Sigmoid", whole("RNN", activations=["Sigmoid"]), HIDDEN),
    row(
        "RNN with ScaledTanh",
        whole("RNN", activations=["ScaledTanh"], activation_alpha=[1.2], activation_beta=[0.7]),
        HIDDEN,
    ),
    row("LSTM with HardSigmoid", whole("LSTM", activations=["HardSigmoid", "Tanh", "Tanh"]), HIDDEN),
    row("GRU with HardSigmoid", whole("GRU", activations=["HardSigmoid", "Softsign"]), HIDDEN),
    # Whether a cut unit stays at zero
    *each("starting at an expanded zero, summed", starting_at_expanded_zero),
    *each("summed", summed),
    *each("summed, Y_h", lambda op: summed(op, used="Y_h")),
    *each("summed with a clip", lambda op: summed(op, clip=0.3)),
    *stays("with Sigmoid, summed", lambda op: summed(op, activations=["Sigmoid"]), "reduced", ["RNN"]),
    *stays(
        "with Sigmoid, bidirectional, summed",
        lambda op: summed(op, both=True, activations=["Tanh", "Sigmoid"]),
        "reduced",
        ["RNN"],
    ),
    *stays(
        "with Affine, summed",
        lambda op: summed(op, activations=["Affine"], activation_alpha=[1.0], activation_beta=[0.5]),
        "reduced",
        ["RNN"],
    ),
    *stays(
        "with Sigmoid cells, summed",
        lambda op: summed(op, activations=["Sigmoid", "Sigmoid", "Tanh"]),
        "reduced",
        ["LSTM"],
    ),
    *stays(
        "with Sigmoid states, summed",
        lambda op: summed(op, activations=["Sigmoid", "Tanh", "Sigmoid"]),
        "reduced",
        ["LSTM"],
    ),
    *stays("with Sigmoid states, summed", lambda op: summed(op, activations=["Tanh", "Sigmoid"]), "reduced", ["GRU"]),
    row("LSTM with HardSigmoid gates, summed", summed("LSTM", activations=["HardSigmoid", "Tanh", "Softsign"]), HIDDEN),
    row("GRU with HardSigmoid gates, summed", summed("GRU", activations=["HardSigmoid", "tanh"]), HIDDEN),
    # Around them
    *stays("whose state leaves", escapes, "graph-output"),
    row("LSTM that starts another", all_used, HIDDEN),
    row("GRU used twice", shared, HIDDEN),
    row("GRU whose state is scaled for the next", scaled_state, HIDDEN),
    row("LSTM with few attributes", attribute_free, HIDDEN),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_recurrent(case: Row) -> None:
    case.check()


@pytest.mark.parametrize("op", OPS)
def test_batch_first(op: str) -> None:
    """onnxruntime has no kernel for layout 1: the same node between transpositions says what it computes."""
    net = Net()
    batch_first(op, start=True)(net)
    model = prepared(net.proto())
    coupling = analyze(model, strict=True)
    plan = select(coupling, score(model, coupling), ratio=0.5)
    pruned = apply(model, plan)
    assert pruned.weights["first.R"].shape == (1, GATES[op] * 3, 3)
    assert disagreement(turned(model), turned(pruned), plan) < 1e-5


def turned(model: Model) -> Model:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.node[:], proto.graph.value_info[:]
    for node in model.graph.node:
        if node.op_type not in GATES:
            proto.graph.node.append(node)
            continue
        inner = onnx.NodeProto()
        inner.CopyFrom(node)
        set_attribute(inner, "layout", 0)
        for i in (0, 5):
            inner.input[i] = f"turned{i}"
            proto.graph.node.append(helper.make_node("Transpose", [node.input[i]], [f"turned{i}"], perm=[1, 0, 2]))
        inner.output[0] = "turned.out"
        back = helper.make_node("Transpose", ["turned.out"], [node.output[0]], perm=[2, 0, 1, 3])
        proto.graph.node.extend([inner, back])
    return model.replace(proto=proto)


@pytest.mark.parametrize("op", OPS)
def test_hidden_size_follows(op: str) -> None:
    net = Net()
    stacked(op, both=True)(net)
    pruned = halved(net.proto())
    assert [found["hidden_size"] for found in stored(pruned, op)] == [HIDDEN // 2] * 2
    gates = GATES[op]
    assert pruned.weights["l1.W"].shape == (2, gates * 3, 6)
    assert pruned.weights["l1.R"].shape == (2, gates * 3, 3)
    assert pruned.weights["l1.B"].shape == (2, 2 * gates * 3)


def test_a_batch_only_known_at_run_time() -> None:
    net = Net()
    states("LSTM", "constant of shape", both=True)(net)
    for batch in (1, 3):
        check(net.proto(), expected=[HIDDEN], dims={"batch": batch})
