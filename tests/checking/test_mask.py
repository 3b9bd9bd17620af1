"""The masked original: what reads as zero, and what must not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from building import MS, Net
from onnx import TensorProto
from oracle import prepared
from quantised import scales, step

from onnxprune.checking.mask import mask
from onnxprune.cutting.plan import Cut, Plan, SlotRef
from onnxprune.files.model import Model


def cutting(model: Model, name: str, axis: int, index: Sequence[int], role: str = "out") -> np.ndarray:
    """What the mask makes of one weight."""
    slot = SlotRef(name, axis, model.weights[name].shape[axis], role)
    masked = mask(model, Plan((Cut("group", tuple(index), (slot,)),)))
    for other, tensor in model.weights.items():
        if other != name:
            assert masked.weights[other] is tensor
    return masked.weights[name].array()


def one_layer(dtype: Any = np.float32) -> Model:
    net = Net(20)
    w = net.const(net.rng.uniform(0.5, 1.5, (3, 4)), dtype, name="w")
    net.output(
        net.op(
            "MatMul",
            net.op("Cast", net.input("x", 2, 3), to=TensorProto.FLOAT),
            net.op("Cast", w, to=TensorProto.FLOAT),
        )
    )
    return prepared(net.proto())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("role", ["out", "in", "scale", "shift", ""])
def test_floats_become_zero_whatever_their_role(dtype: Any, role: str) -> None:
    model = one_layer(dtype)
    before = model.weights["w"].array().copy()
    after = cutting(model, "w", 1, (0, 3), role)
    assert not after[:, [0, 3]].any()
    np.testing.assert_array_equal(after[:, [1, 2]], before[:, [1, 2]])
    np.testing.assert_array_equal(model.weights["w"].array(), before)


def test_what_is_divided_by_stays() -> None:
    model = one_layer()
    np.testing.assert_array_equal(cutting(model, "w", 1, (0, 3), "keep"), model.weights["w"].array())


def test_indices_stay() -> None:
    """An integer without a role is no number to compute with: a zero would be another index."""
    net = Net()
    picked = net.op("Gather", net.weight(5, 4, name="table"), net.const([3, 1, 4], np.int64, name="picks"))
    net.output(net.op("Add", net.input("x", 3, 4), picked))
    model = prepared(net.proto())
    assert cutting(model, "picks", 0, (0,), "").tolist() == [3, 1, 4]


def quantised(dtype: Any, zero: Any, axis: int | None, **more: Any) -> Model:
    net = Net(21)
    w = net.const(net.rng.integers(1, 7, (4, 6)).astype(np.int8).astype(dtype), name="w")
    point = net.const(np.asarray(zero).astype(np.int8).astype(dtype))
    scale = net.const(np.full(np.shape(zero), 0.1, np.float32))
    net.output(net.op("MatMul", net.input("x", 2, 4), net.op("DequantizeLinear", w, scale, point, axis=axis, **more)))
    return prepared(net.proto())


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, ml_dtypes.int4, ml_dtypes.uint4])
def test_quantised_zero_is_the_zero_point(dtype: Any) -> None:
    after = cutting(quantised(dtype, 7, None), "w", 1, (2,)).astype(int)
    assert (after[:, 2] == 7).all()
    assert (np.delete(after, 2, 1) < 7).all()


@pytest.mark.parametrize("axis", [1, -1])
def test_each_channel_has_its_zero_point(axis: int) -> None:
    model = quantised(np.uint8, [20, 21, 22, 23, 24, 25], axis)
    assert cutting(model, "w", 1, (1, 4))[:, [1, 4]].tolist() == [[21, 24]] * 4
    assert cutting(model, "w", 0, (2,))[2].tolist() == [20, 21, 22, 23, 24, 25]


def test_each_block_has_its_zero_point() -> None:
    model = quantised(np.uint8, np.arange(30, 42).reshape(2, 6), 0, block_size=2)
    after = cutting(model, "w", 1, (5,))
    assert after[:, 5].tolist() == [35, 35, 41, 41]
    after = cutting(model, "w", 0, (0, 1))
    assert after[:2].tolist() == [list(range(30, 36))] * 2


def test_without_a_zero_point_zero_is_zero() -> None:
    net = Net()
    w = net.const(net.rng.integers(1, 9, (4, 6)), np.int8, name="w")
    net.output(net.op("MatMul", net.input("x", 2, 4), net.op("DequantizeLinear", w, net.scalar(0.1))))
    assert not cutting(prepared(net.proto()), "w", 1, (0,))[:, 0].any()


def test_bytes_without_a_role_are_quantised_numbers() -> None:
    assert (cutting(quantised(np.uint8, 9, None), "w", 1, (3,), "")[:, 3] == 9).all()


def test_weight_turned_before_it_is_dequantised() -> None:
    net = Net()
    w, point = net.const(net.rng.integers(1, 9, (6, 4)), np.uint8, name="w"), net.const(50, np.uint8)
    y = net.op("DequantizeLinear", net.transpose(w, 1, 0), net.scalar(0.1), point)
    net.output(net.op("MatMul", net.input("x", 2, 4), y))
    assert (cutting(prepared(net.proto()), "w", 0, (1,))[1] == 50).all()


def test_table_that_is_dequantised_after_the_look_up() -> None:
    net = Net()
    w, point = net.const(net.rng.integers(1, 9, (6, 4)), np.uint8, name="w"), net.const(50, np.uint8)
    rows = net.transpose(net.op("Gather", w, net.input("ids", 3, dtype=TensorProto.INT64)), 1, 0)
    net.output(net.op("DequantizeLinear", rows, net.scalar(0.1), point))
    assert (cutting(prepared(net.proto()), "w", 1, (1,))[:, 1] == 50).all()


@pytest.mark.parametrize("transposed", [0, 1])
def test_columns_of_a_transposed_product(transposed: int) -> None:
    """A square weight gives nothing away: only transB says where the channels are."""
    net = Net()
    w, points = net.const(np.ones((4, 4)), np.uint8, name="w"), net.const([60, 61, 62, 63], np.uint8)
    x = net.op("QuantizeLinear", net.input("x", 2, 4), *step(net))
    y = net.op(f"{MS}::QGemm", x, *step(net), w, scales(net, 4), points, "", *step(net), transB=transposed)
    net.made[y] = (2, 4)
    net.output(net.op("DequantizeLinear", y, *step(net)))
    model = prepared(net.proto())
    after = cutting(model, "w", 1 - transposed, (2,))
    channel = after[2] if transposed else after[:, 2]
    assert channel.tolist() == [62] * 4
    inputs = cutting(model, "w", transposed, (0,))
    assert (inputs[:, 0] if transposed else inputs[0]).tolist() == [60, 61, 62, 63]


def test_constant_operands_of_quantised_sums() -> None:
    net = Net()
    x = net.op("QuantizeLinear", net.input("x", 2, 4), *step(net))
    c, point = net.const([9, 9, 9, 9], np.uint8, name="c"), net.const(77, np.uint8)
    y = net.op(f"{MS}::QLinearAdd", x, *step(net), c, net.scalar(0.1), point, *step(net), made=(2, 4))
    net.output(net.op("DequantizeLinear", y, *step(net)))
    assert cutting(prepared(net.proto()), "c", 0, (0, 2), "shift").tolist() == [77, 9, 77, 9]


def test_cuts_of_one_weight_add_up() -> None:
    model = one_layer()
    cuts = [Cut("a", (0,), (SlotRef("w", 0, 3, "in"),)), Cut("b", (3,), (SlotRef("w", 1, 4, "out"),))]
    after = mask(model, Plan(tuple(cuts))).weights["w"].array()
    assert not after[0].any()
    assert not after[:, 3].any()
    np.testing.assert_array_equal(after[1:, :3], model.weights["w"].array()[1:, :3])


def test_activations_are_not_masked() -> None:
    model = one_layer()
    plan = Plan((Cut("a", (1,), (SlotRef("x", 1, 3), SlotRef("w", 0, 3, "in"))),))
    assert mask(model, plan).proto is model.proto
