"""What quantised weights stand for: real value = (stored value - zero point) * scale.

Scale and zero point are inputs of the operator that reads the weight: one for all, one for each channel, or one for
each block of neighbours. Spread to the shape of the weight they serve two ends: masking, for which zero is the zero
point, and scoring, for which a channel is as large as the numbers that it stands for.

    DequantizeLinear, axis 0     w (4, 2, 3, 3)   scale (4,) -> (4, 1, 1, 1)
    blocks of 32 along axis 0    w (64, 10)       scale (2, 10) -> (64, 10)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.attributes import attribute

Array = np.ndarray[Any, Any]
_T = onnx.TensorProto

QUANTISED = frozenset(
    [_T.INT8, _T.UINT8, _T.INT16, _T.UINT16, _T.INT4, _T.UINT4, _T.FLOAT4E2M1]
    + [_T.FLOAT8E4M3FN, _T.FLOAT8E4M3FNUZ, _T.FLOAT8E5M2, _T.FLOAT8E5M2FNUZ]
)
"""Types that are never indices, so what they hold is computed with."""

PLACES: Mapping[str, Mapping[int, tuple[int | None, int, int]]] = {
    "QLinearConv": {3: (4, 5, 0)},
    "QLinearMatMul": {0: (1, 2, -2), 3: (4, 5, -1)},
    "QLinearAdd": {0: (1, 2, 0), 3: (4, 5, 0)},
    "QLinearMul": {0: (1, 2, 0), 3: (4, 5, 0)},
    "ConvInteger": {1: (None, 3, 0)},
    "MatMulInteger": {0: (None, 2, -2), 1: (None, 3, -1)},
    "MatMulIntegerToFloat": {0: (2, 4, -2), 1: (3, 5, -1)},
    "DynamicQuantizeMatMul": {1: (2, 3, -1)},
    "DynamicQuantizeLSTM": {1: (8, 9, 2), 2: (10, 11, 2)},
    "MatMulNBits": {1: (2, 3, 0)},
}
"""Operator -> input that may be a quantised weight -> (input with its scale, with its zero point, axis of channels)."""

_MOVES = frozenset(
    [
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    ]
)
"""What may stand between a weight and its operator: the first input is moved, or part of it is picked."""


@dataclass(frozen=True, eq=False)
class Quantisation:
    """How one weight is stored."""

    scale: Array
    """As zero, broadcastable to the weight's shape; 1 where the scale is applied later."""
    zero: Array
    bits: int = 0
    """Not 0: the bytes along the last axis hold several numbers each, low bits first."""

    def real(self, tensor: Tensor) -> Array:
        """The numbers that the weight stands for, its leading axes where they were."""
        stored = tensor.array()
        if self.bits:
            parts = [(stored >> shift) & ((1 << self.bits) - 1) for shift in range(0, 8, self.bits)]
            stored = np.stack(parts, axis=-1).reshape(*stored.shape[:-1], -1)
        values: Array = (stored.astype(np.float32) - self.zero) * self.scale
        return values


def quantisations(model: Model) -> dict[str, Quantisation]:
    """Every quantised weight that an operator of the main graph reads, with its scale and zero point."""
    makers = {name: node for node in model.graph.node if node.op_type in _MOVES for name in node.output}
    found: dict[str, Quantisation] = {}
    for node in model.graph.node:
        for index, (scale, zero, axis) in _places(node).items():
            name = node.input[index] if index < len(node.input) else ""
            moved = name in makers
            while name in makers:
                name = makers[name].input[0]
            tensor = model.weights.get(name)
            if tensor is None or tensor.dtype not in QUANTISED | {_T.INT32}:
                continue
            params = [_array(model, node, i) for i in (scale, zero)]
            if moved and any(x is not None and x.size > 1 for x in params):
                continue  # the channels stand elsewhere by then
            try:
                if node.op_type == "DynamicQuantizeLSTM":  # for each direction, or for each of its channels
                    params = [None if x is None else x.reshape(tensor.shape[0], 1, -1) for x in params]
                if node.op_type == "MatMulNBits":
                    made = _packed(params, tensor.shape, attribute(node, "bits", 4))
                else:
                    made = _plain(params, tensor.shape, axis, attribute(node, "block_size", 0))
            except (LookupError, ValueError):
                continue  # scales that do not fit: an invalid model, and onnxruntime will say so
            found.setdefault(name, made)
    return found


def _places(node: onnx.NodeProto) -> Mapping[int, tuple[int | None, int, int]]:
    """`PLACES`, and the operators for which attributes or the number of inputs have a say."""
    if node.op_type == "DequantizeLinear":
        return {0: (1, 2, attribute(node, "axis", 1))}
    if node.op_type == "QGemm":
        return {0: (1, 2, 0), 3: (4, 5, 0 if attribute(node, "transB", 0) else 1)}
    if node.op_type == "QLinearConcat":
        return {i: (i + 1, i + 2, 0) for i in range(2, len(node.input), 3)}
    return PLACES.get(node.op_type, {})


def _plain(params: Sequence[Array | None], shape: tuple[int, ...], axis: int, block: int) -> Quantisation:
    scale, zero = (None if x is None else _spread(x.astype(np.float32), shape, axis, block) for x in params)
    return Quantisation(_ONE if scale is None else scale, _ZERO if zero is None else zero)


def _packed(params: Sequence[Array | None], shape: tuple[int, ...], bits: int) -> Quantisation:
    """MatMulNBits: (outputs, blocks, bytes). Without zero points the middle of the range is zero."""
    (rows, blocks, _), (scale, zero) = shape, params
    wide = _ONE if scale is None else scale.astype(np.float32).reshape(rows, blocks, 1)
    if zero is None:
        return Quantisation(wide, np.full((), 1 << (bits - 1), np.float32), bits)
    if zero.dtype == np.uint8:
        zero = Quantisation(_ONE, _ZERO, bits).real(Tensor.of("", zero.reshape(rows, -1)))[:, :blocks]
    return Quantisation(wide, zero.astype(np.float32).reshape(rows, blocks, 1), bits)


_ONE, _ZERO = np.ones((), np.float32), np.zeros((), np.float32)


def _array(model: Model, node: onnx.NodeProto, index: int | None) -> Array | None:
    name = node.input[index] if index is not None and index < len(node.input) else ""
    return model.weights[name].array() if name in model.weights else None


def _spread(values: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """One value for all, for each position of an axis, or for each block along it."""
    if values.size == 1:
        return values.reshape(())
    if block:
        values = np.repeat(values, block, axis)[(slice(None),) * (axis % len(shape)) + (slice(shape[axis]),)]
    elif values.ndim == 1:
        values = values.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])
    return np.broadcast_to(values, shape)
