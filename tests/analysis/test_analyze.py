"""What analysis reports: names that people know, slots, reasons, and the graph of what is coupled with what."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from building import Net
from nets import NETS, densenet, mobilenet, resnet, transformer
from oracle import prepared

from onnxprune.analysis.analyze import analyze
from onnxprune.analysis.coupling import Coupling
from onnxprune.analysis.rules import RULES, Flow


def analysed(net: Net) -> Coupling:
    return analyze(prepared(net.proto()), strict=True)


def names(coupling: Coupling) -> list[str]:
    return [group.name for group in coupling.groups]


def test_groups_are_named_after_what_makes_them() -> None:
    coupling = analyze(prepared(resnet()))
    assert names(coupling) == ["stem.conv", "layer1.0.conv", "layer2.0.conv", "layer2.1.conv"]
    assert coupling.group("stem.conv").nodes == ("stem.conv", "layer1.1.conv")
    assert coupling.group("layer2.1.conv").nodes == ("layer2.1.conv", "layer2.down")


def test_weights_without_a_telling_name_give_way_to_their_node() -> None:
    net = Net()
    x = net.op("Conv", net.image(), net.weight(8, 3, 1, 1, name="onnx::Conv_42"), name="/features/0/Conv")
    net.close(x)
    assert names(analysed(net)) == ["/features/0/Conv"]


def test_equal_names_are_numbered_in_the_order_of_their_channels() -> None:
    net = Net()
    x = net.conv(net.image(), 8, name="first")
    a, b, c = net.split(x, 1, 2, 3, 3)
    net.output(net.conv(a, 5, name="last"), net.conv(b, 5, name="last.b"), net.conv(c, 5, name="last.c"))
    coupling = analysed(net)
    assert names(coupling) == ["first", "first#2", "first#3"]
    assert [group.size for group in coupling.groups] == [2, 3, 3]
    firsts = [int(group.slots[0].positions[0]) for group in coupling.groups]
    assert firsts == [0, 2, 5]


@pytest.mark.parametrize("build", NETS.values(), ids=list(NETS))
def test_analysis_is_repeatable(build: object) -> None:
    first, second = (analyze(prepared(build())) for _ in range(2))  # type: ignore[operator]  # a function
    assert names(first) == names(second)
    for a, b in zip(first.groups, second.groups, strict=True):
        assert [str(s) for s in a.slots] == [str(s) for s in b.slots]
        assert all(np.array_equal(s.units, t.units) for s, t in zip(a.slots, b.slots, strict=True))


@pytest.mark.parametrize("build", NETS.values(), ids=list(NETS))
def test_slots_hold_every_unit_equally_often(build: object) -> None:
    model = prepared(build())  # type: ignore[operator]  # a function
    for group in analyze(model).groups:
        for slot in group.slots:
            counts = np.bincount(slot.units, minlength=group.size)
            assert counts.size == group.size
            assert counts.min() == counts.max() > 0, f"{slot} of {group.name}"
            assert (np.diff(slot.positions) > 0).all()
            assert slot.positions[-1] < slot.size
            if slot.weight:
                assert model.weights[slot.tensor].shape[slot.axis] == slot.size


@pytest.mark.parametrize("build", NETS.values(), ids=list(NETS))
def test_no_position_belongs_to_two_groups(build: object) -> None:
    seen: set[tuple[str, int, int]] = set()
    for group in analyze(prepared(build())).groups:  # type: ignore[operator]  # a function
        for slot in group.slots:
            places = {(slot.tensor, slot.axis, int(p)) for p in slot.positions}
            assert not places & seen
            seen |= places


def test_roles_say_what_a_weight_does_with_a_channel() -> None:
    coupling = analyze(prepared(mobilenet()))
    roles = {str(s): s.role for s in coupling.group("expand").slots if s.weight}
    assert roles == {
        "expand.weight:0": "out",
        "expand.bias:0": "shift",
        "dw.weight:0": "out",
        "dw.bias:0": "shift",
        "se.down.weight:1": "in",
        "se.up.weight:0": "out",
        "se.up.bias:0": "shift",
        "project.weight:1": "in",
    }
    assert {s.op for s in coupling.group("expand").slots if s.weight} == {"Conv"}
    assert {s.op for s in coupling.group("expand").slots if not s.weight} == {""}


def test_what_is_frozen_is_listed_with_its_reason() -> None:
    coupling = analyze(prepared(transformer()))
    found = {f"{x.tensor}:{x.axis}": (x.size, x.node, x.reason.code, x.reason.node) for x in coupling.frozen}
    assert found["embed.weight:1"] == (12, "embed", "normalised", "ln")
    assert found["head.weight:1"] == (7, "head", "graph-output", "")
    assert str(coupling.frozen[0].reason) == (
        "is normalised over: the kept positions get another mean and variance (normalised, at ln)"
    )
    assert str(coupling.frozen[-1].reason) == "reaches the graph output 'head.add.out' (graph-output)"


def test_several_reasons_share_one_weight() -> None:
    net = Net()
    x = net.conv(net.image(), 8, name="first")
    kept, out = net.split(x, 1, 5, 3)
    net.output(out)
    net.close(kept)
    coupling = analysed(net)
    assert [(x.tensor, x.size, x.reason.code) for x in coupling.frozen if x.tensor == "first.weight"] == [
        ("first.weight", 3, "graph-output")
    ]
    assert [(group.name, group.size) for group in coupling.groups] == [("first", 5)]


def test_unknown_operators_are_counted() -> None:
    net = Net()
    x = net.conv(net.image(), 8, name="first")
    for _ in range(2):
        x = net.op("custom::Mystery", x, made=(2, 8, 6, 6))
    net.close(x)
    assert dict(analysed(net).unknown_ops) == {"custom::Mystery": 2}


def test_inexact_cuts_come_only_on_request() -> None:
    model = prepared(transformer())
    exact, inexact = analyze(model), analyze(model, allow_inexact=True)
    assert "embed" not in names(exact)
    group = inexact.group("embed")
    assert (group.size, [reason.code for reason in group.inexact]) == (12, ["normalised"])
    assert not inexact.group("up").inexact


def edges(coupling: Coupling) -> dict[tuple[str, str], str]:
    def label(slot: tuple[str, int]) -> str:
        return f"{slot[0]}:{slot[1]}"

    return {
        tuple(sorted((label(a), label(b)))): data["node"]  # type: ignore[misc]  # two of them
        for a, b, data in coupling.graph.edges(data=True)
    }


def test_the_graph_names_the_operator_that_couples_two_slots() -> None:
    net = Net()
    x = net.op("Relu", net.conv(net.image(), 8, name="first"), name="relu")
    net.close(x)
    coupling = analysed(net)
    assert edges(coupling) == {
        ("first.bias:0", "first.weight:0"): "first",
        ("first.out:1", "first.weight:0"): "first",
        ("first.out:1", "relu.out:1"): "relu",
        ("last.weight:1", "relu.out:1"): "last",
    }
    node = coupling.graph.nodes["first.weight", 0]
    assert (node["size"], node["weight"], node["groups"]) == (8, True, ["first"])


def test_why_two_layers_are_coupled_is_a_path() -> None:
    graph = analyze(prepared(resnet())).graph
    path = nx.shortest_path(graph, ("stem.conv.weight", 0), ("layer1.1.conv.weight", 0))
    said = [graph.edges[a, b]["node"] for a, b in pairwise(path)]
    assert said == ["stem.conv", "stem.bn", "stem.relu", "layer1.add", "layer1.1.bn", "layer1.1.conv"]
    assert not nx.has_path(graph, ("stem.conv.weight", 0), ("layer2.0.conv.weight", 0))


def test_a_slot_of_several_groups_knows_them_all() -> None:
    graph = analyze(prepared(densenet())).graph
    assert graph.nodes["transition.conv.weight", 1]["groups"] == ["stem", "dense0.conv", "dense1.conv"]


def test_every_group_is_connected() -> None:
    for build in NETS.values():
        coupling = analyze(prepared(build()))
        for group in coupling.groups:
            own = coupling.graph.subgraph({(s.tensor, s.axis) for s in group.slots})
            assert nx.is_connected(own), group.name


def broken(f: Flow, node: object, x: object) -> Sequence[Sequence[object]]:
    raise ValueError("a form nobody thought of")


def test_a_rule_that_fails_freezes_or_in_tests_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "Relu", broken)
    net = Net()
    net.close(net.op("Relu", net.conv(net.image(), 8, name="first")))
    model = prepared(net.proto())
    coupling = analyze(model)
    assert not coupling.groups
    assert [x.reason.code for x in coupling.frozen if x.tensor == "first.weight"] == ["unexpected-form"]
    assert "a form nobody thought of" in coupling.frozen[0].reason.sentence
    with pytest.raises(ValueError, match="nobody thought of"):
        analyze(model, strict=True)


def test_a_rule_that_contradicts_shape_inference_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "Relu", lambda f, node, x: [x.axes[::-1]])
    net = Net()
    net.close(net.op("Relu", net.conv(net.image(), 8, name="first")))
    coupling = analyze(prepared(net.proto()))
    assert [x.reason.code for x in coupling.frozen if x.tensor == "first.weight"] == ["unexpected-form"]


def test_an_axis_that_a_rule_forgets_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new rule may forget an axis: then nothing is cut along it."""
    monkeypatch.setitem(RULES, "Relu", lambda f, node, x: [(x.axes[0], f.fresh(8), *x.axes[2:])])
    net = Net()
    net.close(net.op("Relu", net.conv(net.image(), 8, name="first")))
    coupling = analyze(prepared(net.proto()))
    assert [x.reason.code for x in coupling.frozen if x.tensor == "first.weight"] == ["unaccounted"]


def test_two_rules_for_one_operator_are_an_error() -> None:
    from onnxprune.analysis.rules import rule

    with pytest.raises(ValueError, match="Conv has two rules"):
        rule("Conv")(broken)
