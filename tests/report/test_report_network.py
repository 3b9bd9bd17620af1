"""What is drawn: layers, joints, blocks, repeats, and where they stand."""

from __future__ import annotations

import itertools

import pytest
from building import Net
from onnx import TensorProto
from oracle import prepared

import onnxprune
from onnxprune.counting.cost import cost
from onnxprune.files.model import Model
from onnxprune.report.draw import drawn
from onnxprune.report.layers import Layer, dotted, layers_of
from onnxprune.report.layout import GAP, laid_out
from onnxprune.report.network import Block, Place, blocks_of, colours, common, connected, depth, folded, ranks
from onnxprune.report.svg import fitted


def residual(blocks: int, width: int = 8) -> Model:
    """A stem, blocks of two convolutions around a shortcut, each with a flag from a side input, and a head."""
    n = Net()
    flag = n.input("flag", 1, 1, 1, 1, dtype=TensorProto.BOOL)
    x = n.op("Relu", n.conv(n.input("x", 1, 3, 8, 8), width, 3, bias=False, name="stem"))
    for index in range(blocks):
        y = n.op("Relu", n.conv(x, 2 * width, 3, bias=False, name=f"body.{index}.a"))
        y = n.op("Relu", n.conv(y, width, 3, bias=False, name=f"body.{index}.b"))
        x = n.op("Add", n.op("Where", flag, y, x, name=f"kept{index}"), x, name=f"add{index}")
    n.output(n.conv(x, 4, name="head"))
    return prepared(n.proto())


def layers(model: Model, ratio: float = 0.0) -> list[Layer]:
    coupling = onnxprune.analyze(model)
    if not ratio:
        return layers_of(model, coupling, cost(model), None, None)
    plan = onnxprune.select(coupling, onnxprune.score(model, coupling), ratio=ratio)
    return layers_of(model, coupling, cost(model), plan, cost(onnxprune.apply(model, plan)))


def test_layers_and_widths() -> None:
    model = residual(2)
    found = layers(model, 0.5)
    assert [(x.label, x.width, x.kept) for x in found] == [
        ("stem", 8, 4),
        ("body.0.a", 16, 8),
        ("body.0.b", 8, 4),
        ("body.1.a", 16, 8),
        ("body.1.b", 8, 4),
        ("head", 4, 4),
    ]
    assert [x.group for x in found] == ["stem", "body.0.a", "stem", "body.1.a", "stem", ""]
    assert [bool(x.frozen) for x in found] == [False] * 5 + [True]
    stem = found[0]
    assert (stem.macs, stem.macs_after) == (8 * 3 * 9 * 64, 4 * 3 * 9 * 64)


def test_places_and_edges() -> None:
    model = residual(1)
    places, edges = connected(model, layers(model))
    assert [(place.kind, place.name) for place in places] == [
        ("input", "x"),
        ("layer", "stem"),
        ("layer", "body.0.a"),
        ("layer", "body.0.b"),
        ("joint", "kept0"),
        ("joint", "add0"),
        ("layer", "head"),
    ], "activations pass on what they read, and a flag is no part of the flow"
    assert sorted(edges) == [(0, 1), (1, 2), (1, 4), (1, 5), (2, 3), (3, 4), (4, 5), (5, 6)]


def test_blocks_end_where_no_edge_jumps_over_and_repeats_are_folded() -> None:
    model = residual(5)
    found = blocks_of(model, layers(model))
    assert [[place.name for place in block.places] for block in found] == [
        ["x", "stem"],
        ["body.0.a", "body.0.b", "kept0", "add0"],
        ["head"],
    ]
    assert found[1].name == "body.0"
    assert found[1].repeats == ("body.1", "body.2", "body.3", "body.4")
    assert found[1].edges == ((-1, 0), (0, 1), (1, 2), (-1, 2), (2, 3), (-1, 3))
    assert sum(len(block.layers) * (1 + len(block.repeats)) for block in found) == len(layers(model))


def block(name: str, width: int = 8) -> Block:
    layer = Layer(name, name, "Conv", f"{name}.weight", width, width, "g", "", 1, 1)
    return Block((Place("layer", name, "Conv", layer),), ((-1, 0),))


def test_folding_takes_what_covers_most() -> None:
    names = [f"{letter}{turn}" for turn in range(3) for letter in "ab"]
    two = [block(name, {"a": 8, "b": 16}[name[0]]) for name in names]
    found = folded([*two, block("c", 4), block("d", 4)])
    assert [(x.name, x.repeats, x.turn) for x in found] == [
        ("a0", ("a1", "a2"), (1, 2)),
        ("b0", ("b1", "b2"), (2, 2)),
        ("c", ("d",), (1, 1)),
    ]
    different = folded([block("a", 8), block("b", 9)])
    assert [x.repeats for x in different] == [(), ()], "other widths are another block"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(["a.b.c", "a.b.d"], "a.b"), (["a"], "a"), (["ab.c", "a.c"], ""), ([], ""), (["a.b", "a.b.c"], "a.b")],
)
def test_common(labels: list[str], expected: str) -> None:
    assert common(labels) == expected


def test_names_as_people_say_them() -> None:
    assert dotted("/layer1/layer1.0/conv1/Conv") == "layer1.0.conv1"
    assert dotted("node_conv_3") == "node_conv_3"
    assert fitted("abcdefgh", 5) == "…efgh"
    assert fitted("abc", 5) == "abc"


def test_layout_has_room_for_all_and_flows_down() -> None:
    model = residual(2)
    places, edges = connected(model, layers(model))
    whole = Block(tuple(places), tuple(edges))
    sizes = [(100.0, 40.0) if place.kind == "layer" else (20.0, 20.0) for place in places]
    found = laid_out(whole, sizes)
    rank = ranks(whole)
    assert depth(whole) == max(rank) + 1 == 11
    for path, (a, b) in zip(found.paths, whole.edges, strict=True):
        assert len(path) == rank[b] - rank[a] + 1
        ys = [y for _, y in path]
        assert ys == sorted(ys)
        assert (path[0], path[-1]) == (found.centres[a], found.centres[b])
    for (x, y), (width, height) in zip(found.centres, sizes, strict=True):
        assert x - width / 2 >= -1e-6
        assert x + width / 2 <= found.width + 1e-6
        assert y - height / 2 >= -1e-6
        assert y + height / 2 <= found.height + 1e-6


def test_neighbours_do_not_overlap() -> None:
    fan = Block(
        tuple(Place("joint", str(i), "Add") for i in range(7)),
        ((0, 1), (0, 2), (0, 3), (0, 4), (1, 5), (2, 5), (3, 5), (4, 5), (0, 6), (5, 6)),
    )
    found = laid_out(fan, [(50.0, 20.0)] * 7)
    row = sorted(found.centres[i][0] for i in range(1, 5))
    assert min(b - a for a, b in itertools.pairwise(row)) >= 50 + GAP - 1e-6
    middle = sum(row) / 4
    assert abs(found.centres[5][0] - middle) < 50, "a joint stands below what it joins"


def test_colours_take_turns() -> None:
    found = layers(residual(2))
    assert colours(found, 2) == {"stem": 0, "body.0.a": 1, "body.1.a": 0}


def test_drawing_says_what_it_shows() -> None:
    model = residual(1)
    found = layers(model, 0.5)
    (one,) = [x for x in blocks_of(model, found) if x.name == "body.0"]
    text = drawn(one, {"stem": "G1", "body.0.a": "G2"}, {"stem": 0, "body.0.a": 1}).svg
    assert 'aria-label="2 layers: body.0.a 16 → 8; body.0.b 8 → 4"' in text
    assert text.count('class="layer"') == 2
    assert 'class="stripe g1"' in text
    assert "body.0.a, Conv, 16 channels, 8 kept, group G2 body.0.a" in text
