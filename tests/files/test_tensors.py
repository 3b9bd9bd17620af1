"""Edits of a lazy weight equal the same edits done eagerly, in any order, and files are read as ONNX wrote them."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import UserError
from onnxprune.files import tensors
from onnxprune.files.regions import File, Region
from onnxprune.files.tensors import Tensor, same


def stored(path: Path, array: np.ndarray, pad: int = 0) -> Tensor:
    """The array as a region of a file that starts `pad` bytes in."""
    path.write_bytes(b"\xff" * pad + array.tobytes())
    region = Region(File(path), pad, array.nbytes)
    return Tensor("w", helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, region, array.shape)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_chain_of_edits_equals_the_eager_one(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    eager = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    lazy = Tensor.of("w", eager)
    for _ in range(data.draw(st.integers(1, 5))):
        axis = data.draw(st.integers(0, len(shape) - 1))
        size = eager.shape[axis]
        index = np.array(data.draw(st.lists(st.integers(0, size - 1), unique=True) if size else st.just([])), np.intp)
        if data.draw(st.booleans()):
            eager, lazy = np.take(eager, index, axis), lazy.take(axis, index)
        else:
            eager = eager.copy()
            eager[(slice(None),) * axis + (index,)] = 0
            lazy = lazy.zero(axis, index)
    assert lazy.shape == eager.shape
    assert lazy.nbytes == eager.nbytes
    np.testing.assert_array_equal(lazy.array(), eager)
    assert b"".join(lazy.chunks()) == eager.tobytes()


@pytest.mark.parametrize("pad", [0, 1, 4096, 5001])
def test_a_big_unedited_region_is_a_view_and_edits_do_not_touch_the_file(tmp_path: Path, pad: int) -> None:
    array = np.random.default_rng(0).random((64, 512), dtype=np.float32)
    weight = stored(tmp_path / "w", array, pad)
    before = (tmp_path / "w").read_bytes()
    view = weight.array()
    assert view.base is not None
    assert not view.flags.writeable
    assert not view.flags.owndata
    np.testing.assert_array_equal(view, array)
    edited = weight.take(0, np.arange(0, 64, 2)).zero(1, np.array([3, 7]))
    expected = array[::2].copy()
    expected[:, [3, 7]] = 0
    np.testing.assert_array_equal(edited.array(), expected)
    assert (tmp_path / "w").read_bytes() == before


def test_chunks_of_an_edited_weight_are_small_and_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "CHUNK", 1000)
    array = np.random.default_rng(1).random((100, 40), dtype=np.float32)
    edited = (
        stored(tmp_path / "w", array, 3).take(0, np.arange(10, 90)).zero(0, np.array([0, 79])).take(1, np.arange(39))
    )
    pieces = [bytes(piece) for piece in edited.chunks()]
    assert max(map(len, pieces)) <= 1000
    assert len(pieces) > 10
    assert b"".join(pieces) == edited.array().tobytes()
    assert not edited.array()[[0, 79]].any()
    assert edited.array()[1].any()


def test_a_region_outlives_its_name(tmp_path: Path) -> None:
    array = np.arange(50_000, dtype=np.float32)
    weight = stored(tmp_path / "w", array)
    (tmp_path / "other").write_bytes(b"\0" * array.nbytes)
    (tmp_path / "other").replace(tmp_path / "w")
    np.testing.assert_array_equal(weight.array(), array)
    assert isinstance(weight.source, Region)
    assert not weight.source.file.current()


def test_the_map_goes_when_the_last_view_goes(tmp_path: Path) -> None:
    weight = stored(tmp_path / "w", np.zeros(100_000, np.float32))
    file = weight.source.file  # type: ignore[union-attr]  # a Region, see above
    first, second = weight.array(), weight.array()
    assert file._map() is not None
    del first
    assert file._map() is not None
    del second
    assert file._map() is None


def test_a_file_that_became_shorter_is_refused(tmp_path: Path) -> None:
    weight = stored(tmp_path / "w", np.zeros(100_000, np.float32))
    (tmp_path / "w").write_bytes(b"")
    with pytest.raises(UserError, match="became shorter"):
        weight.array()


@pytest.mark.parametrize("bad", [np.array([4]), np.array([-1]), np.array([[0]])])
def test_positions_outside_the_axis_are_a_bug(bad: np.ndarray) -> None:
    weight = Tensor.of("w", np.zeros((4, 2)))
    with pytest.raises(ValueError, match="w:0"):
        weight.take(0, bad)
    with pytest.raises(ValueError, match="w:0"):
        weight.zero(0, bad)
    with pytest.raises(ValueError, match="no axis 2"):
        weight.zero(2, np.array([0]))
    with pytest.raises(ValueError, match="twice"):
        weight.take(0, np.array([1, 1]))


def test_later_changes_of_the_index_array_do_not_reach_the_weight() -> None:
    keep = np.array([0, 2])
    weight = Tensor.of("w", np.arange(4.0)).take(0, keep)
    keep[:] = 3
    assert weight.array().tolist() == [0, 2]


def test_arrays_in_memory_are_handed_out_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Tensor.of("w", np.zeros(3)).array()[0] = 1


@pytest.mark.parametrize(
    "dtype",
    [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4, ml_dtypes.uint4, np.bool_]
    + [np.float16, np.float64, np.int8, np.uint64, np.complex64],
)
def test_every_element_type_round_trips_and_is_edited(dtype: type) -> None:
    array = (np.arange(21).reshape(3, 7) % 5).astype(dtype)
    weight = Tensor.of_proto(numpy_helper.from_array(array, "w"))
    back = Tensor.of_proto(weight.to_proto())
    assert back.array().dtype == array.dtype
    np.testing.assert_array_equal(back.array(), array)
    assert len(b"".join(weight.chunks())) == weight.nbytes
    cut = Tensor.of_proto(weight.take(1, np.array([0, 1, 4])).zero(0, np.array([1])).to_proto())
    expected = array[:, [0, 1, 4]].copy()
    expected[1] = 0
    np.testing.assert_array_equal(cut.array(), expected)


def test_packed_types_count_packed() -> None:
    assert Tensor.of("w", np.zeros(7, ml_dtypes.int4)).nbytes == 4
    assert Tensor.of("w", np.zeros((2, 7), ml_dtypes.bfloat16)).nbytes == 28


def test_strings_survive_even_where_they_are_not_utf8() -> None:
    proto = TensorProto(name="s", data_type=TensorProto.STRING, dims=[3], string_data=[b"a", b"\xff\xfe", "ü".encode()])
    weight = Tensor.of_proto(proto)
    assert weight.array()[0] == "a"
    assert list(weight.take(0, np.array([1, 2])).to_proto().string_data) == [b"\xff\xfe", "ü".encode()]
    assert weight.nbytes == 5


def test_doc_string_and_metadata_survive() -> None:
    proto = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    proto.doc_string = "why"
    proto.metadata_props.add(key="k", value="v")
    assert Tensor.of_proto(proto).take(0, np.arange(3)).to_proto() == proto


@pytest.mark.parametrize(
    "proto",
    [
        TensorProto(name="w", data_type=1, dims=[3], raw_data=b"\0" * 8),
        TensorProto(name="w", data_type=1, dims=[3], float_data=[1, 2]),
        TensorProto(name="w", data_type=22, dims=[9], int32_data=[1, 2]),
        TensorProto(name="w", data_type=1, dims=[-1, -3], raw_data=b"\0" * 12),
        TensorProto(name="w", data_type=1, dims=[1 << 40, 1 << 40], float_data=[1]),
        TensorProto(name="w", data_type=1, dims=[0, 1 << 62]),
        TensorProto(name="w", data_type=1, dims=[1] * 70, float_data=[1]),
        TensorProto(name="w", data_type=99, dims=[1], float_data=[1]),
        TensorProto(name="w", dims=[1], float_data=[1]),
        TensorProto(name="w", data_type=8, dims=[2], string_data=[b"a"]),
    ],
)
def test_data_that_does_not_fit_is_refused_by_name(proto: onnx.TensorProto) -> None:
    with pytest.raises(UserError, match="'w'"):
        Tensor.of_proto(proto)


def test_same_compares_bits_and_notices_provenance_without_reading(tmp_path: Path) -> None:
    array = np.array([np.nan, 0.0, 1.0], np.float32)
    assert same(Tensor.of("a", array), Tensor.of("b", array.copy()))
    assert not same(Tensor.of("a", array), Tensor.of("b", np.array([np.nan, -0.0, 1.0], np.float32)))
    assert not same(Tensor.of("a", array), Tensor.of("b", array.astype(np.float64)))
    weight = stored(tmp_path / "w", np.arange(100_000, dtype=np.float32))
    keep = np.arange(0, 99_000, 3)
    one, two, other = weight.take(0, keep), weight.rename("x").take(0, keep.copy()), weight.take(0, keep + 1)
    assert not same(one, other)
    (tmp_path / "w").write_bytes(b"")  # from here on reading would fail
    assert same(one, two)
