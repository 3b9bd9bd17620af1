"""New weights for an old structure, to tell whether what a pruned model inherits is worth anything ("rethinking").

    Conv, ConvTranspose           normal, variance 2 / fan-in              (He et al., 2015)
    Gemm, MatMul                  normal, variance 1 / fan-in
    recurrent layers              uniform within 1 / sqrt(hidden size)
    Gather (embeddings)           normal, deviation 0.02
    PRelu                         0.25
    normalisations                scale 1, shift 0, running mean 0, running variance 1
    biases                        0, also those that an Add brings; a vector that a Mul brings is a scale: 1

fan-in is how many numbers each output is a sum of. Only weights that train are touched, and running statistics; what
none of these lines is about stays as it is and is named. Liu et al., Rethinking the Value of Network Pruning, 2019.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.attributes import attribute

Array = NDArray[Any]
Fill = Callable[[tuple[int, ...], np.random.Generator], Array]
"""From a shape to new values."""

_NORMS = (
    "BatchNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
)
_RECURRENT = ("GRU", "LSTM", "RNN")
_VIEWS = ("Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Unsqueeze")


def reinitialised(model: Model, training: Collection[str], seed: int) -> tuple[Model, list[str]]:
    """The model with new weights, and the names of those that train and were left as they are."""
    found = _fills(model)
    wanted = set(training) | _statistics(model)
    weights: dict[str, Tensor] = dict(model.weights)
    for name in sorted(wanted & found.keys()):
        old = weights[name]
        rng = np.random.default_rng([zlib.crc32(name.encode("utf-8", "backslashreplace")), seed])
        new = found[name](old.shape, rng).astype(onnx.helper.tensor_dtype_to_np_dtype(old.dtype))
        weights[name] = Tensor(name, old.dtype, old.shape, new, old.shape, extra=old.extra)
    return model.replace(weights=weights), sorted(set(training) - found.keys())


def _fills(model: Model) -> Mapping[str, Fill]:
    """How each weight begins, by the first operator that says so."""
    found: dict[str, Fill] = {}
    origin: dict[str, tuple[str, bool]] = {name: (name, False) for name in model.weights}
    """Tensor -> the weight that it is a view of, and whether its last two axes are swapped."""
    for node in model.graph.node:
        for place, tensor in enumerate(node.input):
            if tensor not in origin:
                continue
            name, swapped = origin[tensor]
            if place == 0 and node.op_type in _VIEWS:
                origin[node.output[0]] = (name, swapped)
            elif place == 0 and node.op_type == "Transpose":
                origin[node.output[0]] = (name, not swapped)
            else:
                fill = _fill(node, place, model.weights[name].shape, swapped)
                if fill is not None:
                    found.setdefault(name, fill)
    return found


def _fill(node: onnx.NodeProto, place: int, shape: tuple[int, ...], swapped: bool) -> Fill | None:
    kind = node.op_type
    if kind in ("Conv", "ConvTranspose", "ConvInteger", "FusedConv") and place in (1, 2):
        return _even(0.0) if place == 2 else _normal(math.sqrt(2 / _sums(node, shape)))
    if kind in _NORMS and place > 0:
        return _even({1: 1.0, 4: 1.0}.get(place, 0.0))
    if kind in ("Gemm", "FusedGemm") and place in (1, 2):
        if place == 2:
            return _even(0.0)
        turned = bool(attribute(node, "transB", 0)) != swapped
        return _normal(1 / math.sqrt(max(1, shape[-1] if turned else shape[0])))
    if kind in ("MatMul", "FusedMatMul") and len(shape) >= 2:
        inner = -1 if (place == 0) != swapped else -2
        return _normal(1 / math.sqrt(max(1, shape[inner])))
    if kind in _RECURRENT and place in (1, 2, 3):
        return _uniform(1 / math.sqrt(max(1, int(attribute(node, "hidden_size", shape[-1])))))
    if kind == "Gather" and place == 0 and len(shape) > 1:
        return _normal(0.02)
    if kind == "PRelu" and place == 1:
        return _even(0.25)
    if kind in ("Add", "Mul") and sum(size > 1 for size in shape) == 1:
        return _even(0.0 if kind == "Add" else 1.0)
    return None


def _statistics(model: Model) -> set[str]:
    nodes = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    return {name for node in nodes for name in node.input[3:5]}


def _sums(node: onnx.NodeProto, shape: tuple[int, ...]) -> int:
    """How many products each output of a convolution is a sum of; of a transposed one on average."""
    if node.op_type != "ConvTranspose":
        return max(1, math.prod(shape[1:]))
    strides = attribute(node, "strides", [1])
    group = int(attribute(node, "group", 1))
    return max(1, shape[0] // group * math.prod(shape[2:]) // int(math.prod(strides)))


def _normal(deviation: float) -> Fill:
    return lambda shape, rng: rng.standard_normal(shape) * deviation


def _uniform(most: float) -> Fill:
    return lambda shape, rng: rng.uniform(-most, most, shape)


def _even(value: float) -> Fill:
    return lambda shape, rng: np.full(shape, value)
