"""`analyze`: every group with what it holds, everything frozen with its reason, couplings explained as paths."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.cli import why
from onnxprune.selection.template import read

from .conftest import Said

Run = Callable[..., Said]

STEM = (8 * 3 + 16 * 8 + 8 * 16) * 9 + 8 + 10 * 8
"""Parameters that the units of the stem hold: their own, and what reads them."""
BODY = (16 * 8 + 8 * 16) * 9
PIXELS = 64


def test_the_figures(run: Run, model: Path) -> None:
    data = run("analyze", model, "--json").data
    convolutions = (8 * 3 + 16 * 8 + 8 * 16) * 9 * PIXELS
    assert data["model"] == {
        "path": str(model),
        "producer": "",
        "opset": 17,
        "nodes": 9,
        "params": (8 * 3 + 16 * 8 + 8 * 16) * 9 + 8 + 80 + 10,
        "macs": convolutions + 80,
        "bytes": 4 * ((8 * 3 + 16 * 8 + 8 * 16) * 9 + 8 + 80 + 10),
        "dims": {"batch": 1},
        "macs_unknown": [],
    }
    assert data["reach"] == {"macs": convolutions + 80, "share": 1.0}
    stem, body = data["groups"]
    assert (stem["name"], stem["units"], stem["nodes"]) == ("stem", 8, ["stem", "body2"])
    assert (body["name"], body["units"], body["nodes"]) == ("body.1", 16, ["body1"])
    assert (stem["params"], body["params"]) == (STEM, BODY)
    assert (stem["macs"], body["macs"]) == (convolutions + 80, BODY * PIXELS)
    assert {"tensor": "body.2.weight", "axis": 0, "size": 8, "positions": 8, "role": "out"} in stem["members"]
    (frozen,) = data["frozen"]
    assert (frozen["code"], frozen["channels"], frozen["macs"]) == ("graph-output", 10, 80)
    assert frozen["parts"][0]["tensor"] == "head.weight"
    assert data["unknown_ops"] == {}


def test_the_table(run: Run, model: Path) -> None:
    shown = run("analyze", model)
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert lines[0] == "net.onnx: 9 nodes, opset 17"
    assert lines[1].endswith("parameters in 10.5 kB, 161 k MACs at batch=1")
    row = next(line for line in lines if line.startswith("body.1 "))
    assert row.split() == ["body.1", "16", "16", "2", "2.30", "k", "147", "k", "91.4%"]
    assert lines[-1] == "2 groups, 24 prunable units; pruning reaches 100.0% of the MACs."


def test_dims_change_the_macs(run: Run, model: Path) -> None:
    one, four = (run("analyze", model, "--json", "--dim", f"batch={n}").data["model"] for n in (1, 4))
    assert four["macs"] == 4 * one["macs"]
    assert four["dims"] == {"batch": 4}


def test_verbose_lists_every_slot(run: Run, model: Path) -> None:
    said = run("analyze", model, "-v")
    normal = onnxprune.load(model)
    for group in onnxprune.analyze(normal).groups:
        for slot in group.slots:
            assert re.search(rf"^{re.escape(slot.tensor)} +{slot.axis} \({slot.size}\)", said.out, re.MULTILINE), slot
    assert "head.weight:0 (10 channels of head): reaches the graph output 'logits'" in said.out
    assert re.search(r"^Analyze +\d+\.\d+ s$", said.err, re.MULTILINE)


def test_tables_fit_eighty_columns_whatever_the_names(
    run: Run, edited: Callable[[Callable[[onnx.ModelProto], None]], Path]
) -> None:
    def lengthen(proto: onnx.ModelProto) -> None:
        for node in proto.graph.node:
            node.name = "/model/" + "backbone/" * 12 + node.name

    path = edited(lengthen)
    said = run("analyze", path)
    assert max(map(len, said.out.splitlines())) <= 80
    verbose = run("analyze", path, "-v")
    assert max(map(len, verbose.out.splitlines())) <= 80
    assert "body.1" in said.out


def test_unknown_operators_are_named(run: Run, edited: Callable[[Callable[[onnx.ModelProto], None]], Path]) -> None:
    def invent(proto: onnx.ModelProto) -> None:
        proto.graph.node[3].op_type, proto.graph.node[3].domain = "Sparkle", "org.example"
        proto.opset_import.append(onnx.helper.make_opsetid("org.example", 1))

    path = edited(invent)
    assert run("analyze", path, "--json").data["unknown_ops"] == {"org.example::Sparkle": 1}
    assert "org.example::Sparkle (1x)" in " ".join(run("analyze", path).out.split())


def test_inexact_groups_are_offered_on_request(run: Run, tmp_path: Path) -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 4, 6] x, float[6, 8] w, float[8] s, float[8] t, float[8, 3] v) => (float[1, 4, 3] y) {
            a = MatMul (x, w)
            b = LayerNormalization (a, s, t)
            y = MatMul (b, v)
        }
    """)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (6, 8)), ("s", (8,)), ("t", (8,)), ("v", (8, 3))):
        proto.graph.initializer.append(numpy_helper.from_array(rng.uniform(0.5, 1.5, shape).astype(np.float32), name))
    del proto.graph.input[1:]
    onnx.save(proto, tmp_path / "norm.onnx")
    exact = run("analyze", "norm.onnx", "--json").data
    assert exact["groups"] == []
    assert "normalised" in [freeze["code"] for freeze in exact["frozen"]]
    (group,) = run("analyze", "norm.onnx", "--json", "--allow-inexact").data["groups"]
    assert group["units"] == 8
    assert group["inexact"][0]["code"] == "normalised"
    assert "(inexact)" in run("analyze", "norm.onnx", "--allow-inexact").out

    pruned = run("prune", "norm.onnx", "--allow-inexact", "--no-bench", "--plan", "p.json")
    assert pruned.code == 0
    assert "not comparable" in pruned.out
    checked = run("verify", "norm.onnx", "norm-pruned.onnx", "--plan", "p.json", "--json", "--allow-inexact")
    assert (checked.code, checked.data["error"], checked.data["inexact"]) == (0, None, ["normalised"])
    assert checked.data["deviation"] > 1e-3


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("stem", "body2"),
        ("stem_out", "body2_out"),
        ("stem.weight:0", "body.2.weight:0"),
        ("stem.weight", "head"),
        ("body2", "stem"),
    ],
)
def test_why_two_things_are_coupled(run: Run, model: Path, a: str, b: str) -> None:
    if "head" in (a, b):
        b = "head.weight:1"
    data = run("analyze", model, "--json", "--why", a, b).data["why"]
    assert data["coupled"] is True
    assert data["group"] == "stem"
    path = [(slot["tensor"], slot["axis"]) for slot in data["path"]]
    assert len(path) == len(set(path)) == len(data["ties"]) + 1
    normal = onnxprune.load(model)
    touched = {node.name: {*node.input, *node.output} for node in normal.graph.node}
    for (one, _), (two, _), tie in zip(path, path[1:], data["ties"], strict=False):
        assert {one, two} <= touched[tie]


def test_why_goes_through_the_residual(run: Run, model: Path) -> None:
    lines = run("analyze", model, "--why", "stem", "body2").out.splitlines()
    assert lines[0] == "stem and body2 are coupled: both are in group stem of 8 units."
    assert "    | Add add" in lines
    assert lines[1].strip().startswith("stem_out")
    assert lines[-1].strip() == "body2_out:1"


def test_why_two_things_are_not_coupled(run: Run, model: Path) -> None:
    said = run("analyze", model, "--why", "stem", "body1")
    assert said.code == 0
    assert "not coupled" in said.out
    assert "group body.1" in said.out
    frozen = run("analyze", model, "--why", "stem", "head", "--json").data["why"]
    assert frozen["coupled"] is False
    assert "graph-output" in frozen["b"]["frozen"][0]
    assert "no axis that can be cut" in run("analyze", model, "--why", "image", "stem").out


def test_why_of_an_unknown_name(run: Run, model: Path) -> None:
    said = run("analyze", model, "--why", "stem", "bdy1")
    assert said.code == 2
    assert "'bdy1'; did you mean" in said.err
    assert "'body1'" in said.err


def test_a_tensor_name_may_look_like_a_slot(
    run: Run, edited: Callable[[Callable[[onnx.ModelProto], None]], Path]
) -> None:
    def rename(proto: onnx.ModelProto) -> None:
        proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = "stem/BiasAdd:0"

    normal = onnxprune.load(edited(rename))
    coupling = onnxprune.analyze(normal)
    assert why.find(normal, coupling, "stem/BiasAdd:0").kind == "tensor"
    assert why.find(normal, coupling, "stem/BiasAdd:0:1").slots == (("stem/BiasAdd:0", 1),)
    assert why.find(normal, coupling, "stem/BiasAdd:0:0").slots == ()


def test_a_group_stands_for_what_it_makes(model: Path) -> None:
    normal = onnxprune.load(model)
    coupling = onnxprune.analyze(normal)
    found = why.explain(normal, coupling, "body.1", "body.1.weight")
    assert found.path == (("body1_out", 1), ("body.1.weight", 0))
    assert found.ties == ("body1",)


def test_the_drawing(run: Run, edited: Callable[[Callable[[onnx.ModelProto], None]], Path], tmp_path: Path) -> None:
    def quote(proto: onnx.ModelProto) -> None:
        proto.graph.initializer[2].name = proto.graph.node[2].input[1] = 'a "quoted\\ name\\'

    path = edited(quote)
    said = run("analyze", path, "--dot", "slots.dot")
    assert said.err == "wrote slots.dot\n"
    text = (tmp_path / "slots.dot").read_text()
    graph = onnxprune.analyze(onnxprune.load(path)).graph
    string = r'"(?:[^"\\]|\\.)*"'
    nodes = re.findall(rf"^  ({string}) \[label={string}, shape=(?:box|ellipse), ", text, re.MULTILINE)
    edges = re.findall(rf"^  ({string}) -- ({string}) \[label={string}, tooltip={string}\];$", text, re.MULTILINE)
    assert len(nodes) == len(set(nodes)) == graph.number_of_nodes() > 10
    assert len(edges) == graph.number_of_edges() > 8
    assert {end for edge in edges for end in edge} <= set(nodes)
    assert r'"a \"quoted\\ name\\:0"' in nodes
    assert len(text.splitlines()) == len(nodes) + len(edges) + 4
    assert text.startswith("graph onnxprune {\n")
    assert text.endswith("}\n")


def test_the_template(run: Run, model: Path, tmp_path: Path) -> None:
    assert run("analyze", model, "--template", "p.toml", "-q").err == ""
    assert '# "body.1" = 0.3' in (tmp_path / "p.toml").read_text()
    assert read(tmp_path / "p.toml").ratio is None
    (tmp_path / "p.toml").write_text((tmp_path / "p.toml").read_text().replace('# "body.1" = 0.3', '"body.1" = 0.75'))
    data = run("prune", model, "--config", "p.toml", "--no-verify", "--plan", "p.json", "--json").data
    assert data["options"]["ratios"] == {"body.1": 0.75}
    removed = {group.name: group.removed for group in onnxprune.load_plan(tmp_path / "p.json").groups}
    assert removed == {"stem": 2, "body.1": 12}


def test_the_shipped_network_is_the_default(run: Run) -> None:
    data = run("analyze", "--json").data
    assert data["model"]["path"].endswith("digits.onnx")
    assert len(data["groups"]) > 3


def test_why_takes_a_layer_by_the_name_that_pytorch_gives_it(run: Run, model: Path) -> None:
    layer, weight = (run("analyze", model, "--why", name, "stem", "--json").data["why"] for name in ("body.2", "sum"))
    assert layer["coupled"] is weight["coupled"] is True
    assert layer["a"]["name"] == "body.2.weight"
    assert layer["group"] == "stem"
