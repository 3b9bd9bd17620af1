"""The walk over the bytes finds what onnx finds, copies no weight data, and answers every damage with one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import UserError
from onnxprune.files import wire
from onnxprune.files.store import load
from onnxprune.graph.normalize import normalize
from onnxprune.graph.shapes import infer


def small_model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    big = numpy_helper.from_array(rng.random((16, 40), dtype=np.float32), "big")
    floats = helper.make_tensor("floats", TensorProto.FLOAT, [400], rng.random(400, dtype=np.float32))
    doubles = helper.make_tensor("doubles", TensorProto.DOUBLE, [300], rng.random(300))
    ints = helper.make_tensor("ints", TensorProto.INT64, [500], range(-250, 250))
    tiny = numpy_helper.from_array(np.array([16, -1], np.int64), "tiny")
    nodes = [
        helper.make_node("MatMul", ["x", "big"], ["y"], name="mm"),
        helper.make_node("Reshape", ["y", "tiny"], ["z"], name="rs"),
    ]
    nodes += [helper.make_node("Identity", [name], [f"{name}_out"]) for name in ("floats", "doubles", "ints")]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [big, floats, doubles, ints, tiny], doc_string="doc")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"k": "v"})
    return model


def test_the_walk_agrees_with_onnx_and_leaves_the_data_where_it_is() -> None:
    model = small_model()
    data = model.SerializeToString()
    skeleton, found = wire.split(data, "m.onnx")
    parsed = wire.parse(skeleton, "m.onnx")
    assert [item.header.name for item in found] == [item.name for item in model.graph.initializer]
    located = {item.header.name: data[item.offset : item.offset + item.length] for item in found if item.offset}
    assert located["big"] == model.graph.initializer[0].raw_data
    assert located["floats"] == np.array(model.graph.initializer[1].float_data, np.float32).tobytes()
    assert located["doubles"] == np.array(model.graph.initializer[2].double_data).tobytes()
    assert set(located) == {"big", "floats", "doubles"}
    assert not any(item.header.raw_data for item in found if item.offset)
    parsed.graph.initializer.extend(model.graph.initializer)
    assert parsed == model


def test_unknown_fields_survive() -> None:
    data = small_model().SerializeToString() + wire.frame(99, 3) + b"new"
    skeleton, _ = wire.split(data, "m.onnx")
    assert wire.parse(skeleton, "m.onnx").SerializeToString().endswith(b"new")


def test_a_graph_in_two_pieces_is_merged_as_protobuf_does(tmp_path: Path) -> None:
    model = small_model()
    first, second = onnx.ModelProto(), onnx.ModelProto()
    first.CopyFrom(model)
    del first.graph.initializer[2:]
    second.graph.initializer.extend(model.graph.initializer[2:])
    path = tmp_path / "m.onnx"
    path.write_bytes(first.SerializeToString() + second.SerializeToString())
    assert onnx.load(path) == model
    loaded = load(path)
    assert list(loaded.weights) == ["big", "floats", "doubles", "ints", "tiny"]
    np.testing.assert_array_equal(loaded.weights["ints"].array(), np.arange(-250, 250))


def test_big_constants_are_lifted_and_small_ones_are_not() -> None:
    value = numpy_helper.from_array(np.arange(20_000, dtype=np.float32), "inner")
    nodes = [
        helper.make_node("Constant", [], ["big"], value=value),
        helper.make_node("Constant", [], ["small"], value=numpy_helper.from_array(np.zeros(3, np.float32))),
        helper.make_node("Constant", [], ["list"], value_floats=[0.5] * 20_000),
        helper.make_node("Constant", [], ["alien"], domain="other", value=value),
        helper.make_node("Concat", ["big", "small", "list", "alien"], ["y"], axis=0),
    ]
    graph = helper.make_graph(nodes, "g", [], [helper.make_tensor_value_info("y", 1, None)])
    data = helper.make_model(graph).SerializeToString()
    skeleton, found = wire.split(data, "m.onnx")
    assert [item.header.name for item in found] == ["big"]
    assert data[found[0].offset : found[0].offset + found[0].length] == value.raw_data
    assert [node.output[0] for node in wire.parse(skeleton, "m").graph.node] == ["small", "list", "alien", "y"]


def test_every_truncation_is_one_line_that_says_so(tmp_path: Path) -> None:
    data = small_model().SerializeToString()
    graph_end = data.rindex(b"z") + 1
    path = tmp_path / "cut.onnx"
    said = set()
    assert data[:2] == b"\x08\x08"
    path.write_bytes(data[:1])
    with pytest.raises(UserError, match="truncated at byte 1"):
        load(path)
    for size in [*range(1, 60), *range(60, graph_end, 41)]:
        path.write_bytes(data[:size])
        with pytest.raises(UserError) as caught:
            load(path)
        text = str(caught.value)
        assert text.count("\n") == 0
        assert "cut.onnx' is not a" in text or "no nodes" in text
        said.add(f"truncated at byte {size})" in text)
    assert said == {True, False}
    path.write_bytes(data[: graph_end // 2])
    with pytest.raises(UserError, match=rf"is not a valid ONNX file \(truncated at byte {graph_end // 2}\)"):
        load(path)


@pytest.mark.parametrize(
    "data",
    [
        b"The quick brown fox\n" * 9,
        b"<html></html>",
        b'{"a": 1}',
        b"PK\x03\x04" + bytes(90),
        b"\x89PNG\r\n\x1a\n" + bytes(90),
        b"\x80\x04\x95" + bytes(90),
        b"2,3,4\n1,2,3\n",
        b"\x00" * 64,
        b"\xff" * 64,
        b": a colon first",
        b"\x18\x00\x00\x00ORTM" + bytes(90),
    ],
)
def test_other_formats_are_not_onnx(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(UserError, match=r"x.onnx' is not an ONNX file$"):
        load(tmp_path / "x.onnx")


def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    (tmp_path / "x.onnx").write_bytes(pointer)
    with pytest.raises(UserError, match="git lfs pull"):
        load(tmp_path / "x.onnx")


def test_a_length_that_leaves_its_message_is_malformed_not_followed() -> None:
    data = bytearray(small_model().SerializeToString())
    at = data.index(b"\x4a\x80\x14")  # raw_data of `big`: tag 9, length 2560
    data[at + 1 : at + 3] = b"\xff\x7f"
    with pytest.raises(UserError, match=r"not a valid ONNX file \(malformed at byte"):
        wire.split(bytes(data), "m.onnx")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_flipped_bytes_give_a_model_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, flips, late) -> None:  # type: ignore[no-untyped-def]
    data = bytearray(small_model().SerializeToString())
    weights = data.index(b"big", data.index(b"rs"))  # half of the flips go where the structure is, not the numbers
    for at, value in flips:
        data[at % len(data) if late else at % weights] = value
    path = tmp_path_factory.getbasetemp() / "flipped.onnx"
    path.write_bytes(data)
    try:
        model = normalize(load(path))
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017  either outcome is fine, an unwieldy message is not
        return
    infer(model)
    for weight in model.weights.values():
        weight.array()


def test_written_bytes_are_read_again() -> None:
    model = small_model()
    skeleton, found = wire.split(model.SerializeToString(), "m")
    proto = wire.parse(skeleton, "m")
    entries = [(tensor.SerializeToString(), None) for tensor in model.graph.initializer]
    assert len(found) == len(entries)
    assert onnx.ModelProto.FromString(b"".join(wire.join(proto, entries))) == model
