"""The masked original: everything that a plan cuts reads as zero. It is what the pruned model must agree with.

The zero of a quantised weight is its zero point. Divisors, scales and variances (role `keep`) stay: nothing is ever
divided by what was masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from onnxprune.attributes import attribute
from onnxprune.model import Model
from onnxprune.plan import Plan
from onnxprune.probes import FLOATS
from onnxprune.tensors import Tensor

Array = np.ndarray[Any, Any]

ZERO_POINTS: Mapping[str, Mapping[int, tuple[int, int]]] = {
    "DequantizeLinear": {0: (2, 1)},
    "QLinearConv": {3: (5, 0)},
    "QLinearMatMul": {0: (2, -2), 3: (5, -1)},
    "ConvInteger": {1: (3, 0)},
    "MatMulInteger": {0: (2, -2), 1: (3, -1)},
    "MatMulIntegerToFloat": {0: (4, -2), 1: (5, -1)},
    "DynamicQuantizeMatMul": {1: (3, -1)},
    "QGemm": {0: (2, 0), 3: (5, 1)},
}
"""Operator -> input that may be a quantised weight -> (input with its zero point, axis of a zero point per channel)."""


BYTES = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
"""Never indices, so what they hold is computed with, whatever the role."""


def mask(model: Model, plan: Plan) -> Model:
    """The original with the cut slices of every weight set to zero."""
    weights = dict(model.weights)
    zeros: dict[str, Array] | None = None
    for cut in plan.cuts:
        index = np.array(cut.index, np.int64)
        for slot in cut.slots:
            tensor = weights.get(slot.tensor)
            if tensor is None or slot.role == "keep":
                continue
            if tensor.dtype in FLOATS:
                weights[slot.tensor] = tensor.zero(slot.axis, index)
            elif slot.role or tensor.dtype in BYTES:
                zeros = zero_points(model) if zeros is None else zeros
                weights[slot.tensor] = _filled(tensor, slot.axis, index, zeros.get(slot.tensor))
    return model.replace(weights=weights)


def zero_points(model: Model) -> dict[str, Array]:
    """Quantised weights that have a zero point other than 0, with it, shaped so that it broadcasts."""
    found: dict[str, Array] = {}
    for node in model.graph.node:
        for weight, (point, axis) in ZERO_POINTS.get(node.op_type, {}).items():
            if len(node.input) <= point or node.input[weight] not in model.weights:
                continue
            tensor, zero = model.weights[node.input[weight]], model.weights.get(node.input[point])
            if zero is None or not zero.array().any():
                continue
            shape = [1] * len(tensor.shape)
            if zero.array().size > 1:
                place = attribute(node, "axis", axis) if node.op_type == "DequantizeLinear" else axis
                shape[place] = zero.array().size
            found[tensor.name] = zero.array().reshape(shape)
    return found


def _filled(tensor: Tensor, axis: int, index: Array, zero: Array | None) -> Tensor:
    if zero is None:
        return tensor.zero(axis, index)
    array = tensor.array().copy()
    where = (slice(None),) * axis + (index,)
    array[where] = np.broadcast_to(zero, array.shape)[where]
    return Tensor.of(tensor.name, array)
