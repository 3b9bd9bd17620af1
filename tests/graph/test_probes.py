"""Where two models are compared: in front of decisions, in front of what saturates, and at whatever else comes out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from building import Net
from oracle import prepared

from onnxprune.graph.probes import flattened, probes
from onnxprune.graph.shapes import infer


def found(write: Callable[[Net, str], None]) -> list[str]:
    net = Net()
    write(net, net.conv(net.image(), 8, name="scores"))
    model = prepared(net.proto())
    return probes(model.graph, infer(model))


def test_outputs_that_no_decision_precedes() -> None:
    assert found(lambda n, x: n.output(n.op("Relu", x, name="relu"), n.op("Neg", x, name="neg")) and None) == [
        "relu.out",
        "neg.out",
    ]


def classes(n: Net, x: str) -> None:
    n.output(n.op("ArgMax", x, axis=1, name="best"))


def detections(n: Net, x: str) -> None:
    """Values and places of the best, and what is computed from them."""
    values, places = n.ops("TopK", 2, n.op("Flatten", x, name="all"), n.ints(3), name="top")
    boxes = n.op("Flatten", n.conv(x, 4, name="conv"), name="boxes")
    n.output(n.op("Sigmoid", values), n.op("Gather", boxes, places, axis=1))


def rounded(n: Net, x: str) -> None:
    n.output(n.op("Round", x))


def cast(n: Net, x: str) -> None:
    n.output(n.op("Cast", x, to=7))


def compared(n: Net, x: str) -> None:
    n.output(n.op("Where", n.op("Greater", x, n.scalar(0.0)), x, n.scalar(0.0)))


def drawn(n: Net, x: str) -> None:
    n.output(n.op("Add", n.op("RandomNormalLike", x), x))


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (classes, ["scores.out"]),
        (detections, ["all.out", "boxes.out"]),
        (rounded, ["scores.out"]),
        (cast, ["scores.out"]),
        (compared, ["scores.out"]),
        (drawn, ["scores.out"]),
    ],
)
def test_what_enters_a_decision_is_compared_in_place_of_what_follows(
    write: Callable[[Net, str], None], expected: list[str]
) -> None:
    assert found(write) == expected


def test_a_decision_about_the_input_alone_is_none_about_the_model() -> None:
    """An embedding looks up what the input says."""
    net = Net()
    ids = net.op("Cast", net.input("ids", 2, 3), to=7)
    net.output(net.op("Gather", net.weight(9, 4), ids, name="looked.up"))
    model = prepared(net.proto())
    assert probes(model.graph, infer(model)) == []


def test_sizes_are_no_decision_and_must_agree() -> None:
    def write(n: Net, x: str) -> None:
        n.output(n.op("Shape", x, name="shape"), n.op("Relu", x, name="relu"))

    assert found(write) == ["shape.out", "relu.out"]


@pytest.mark.parametrize("kind", ["Sigmoid", "HardSigmoid", "Softmax", "LogSoftmax", "Tanh", "Exp", "Softplus"])
def test_in_front_of_what_saturates(kind: str) -> None:
    net = Net()
    x = net.conv(net.image(), 8, name="logits")
    y = net.op("Flatten", net.transpose(net.op(kind, x, name="flat"), 0, 2, 3, 1), name="moved")
    net.output(y)
    model = prepared(net.proto())
    assert probes(model.graph, infer(model)) == ["logits.out"]
    assert flattened(model.graph) == ["moved.out"]


def test_a_sigmoid_within_the_network_is_no_reason() -> None:
    def write(n: Net, x: str) -> None:
        n.output(n.conv(n.op("Sigmoid", x), 4, name="after"))

    assert found(write) == ["after.out"]


def test_inputs_and_text_are_not_compared() -> None:
    net = Net()
    net.input("text", 2, dtype=8)
    net.output(net.op("Identity", "text", name="same"), net.op("Relu", net.image(), name="relu"))
    model = prepared(net.proto())
    assert probes(model.graph, infer(model)) == ["relu.out"]
