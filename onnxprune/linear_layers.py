"""Layers whose outputs are linear in their weights, as matrices: y = x W' + b for rows x, whatever the operator.

    Conv            a row is the patch that one output position reads; one matrix per group
    ConvTranspose   the same, of the input with zeros in between and the kernel turned round
    Gemm, MatMul    a row is the last axis of the input

The bias may be the operator's own, that of an Add behind it, or the shift of a BatchNormalization behind it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.attributes import attribute
from onnxprune.model import Model
from onnxprune.tensors import Tensor

Array = NDArray[Any]
_FLOAT = onnx.TensorProto.FLOAT


@dataclass(frozen=True, eq=False)
class Layer:
    """One product with a weight of its own."""

    node: onnx.NodeProto
    x: str
    """What it reads."""
    weight: str
    bias: str | None
    """A vector that is added to each output channel, and nothing else uses; None: there is none."""
    y: str
    """Where the bias has been added."""
    scale: str | None
    """Of a BatchNormalization between the product and `y`; with mean and variance in `still`."""
    still: tuple[str, ...]
    groups: int
    channel: int
    """Axis of the output channels in `y`; -1: the last."""

    def places(self, x: Array, weight: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what it makes of such an input, with a weight of such a shape."""
        if not self.node.op_type.startswith("Conv"):
            return (*x.shape[:-1], 1)
        padded, window = _as_convolution(self.node, x[:1], weight[2:])
        reach = [(k - 1) * d for k, d in zip(weight[2:], window.dilations, strict=True)]
        sizes = [(n - r - 1) // s + 1 for n, r, s in zip(padded.shape[2:], reach, window.steps, strict=True)]
        return (x.shape[0], 1, *sizes)


def layers(model: Model) -> list[Layer]:
    """Those whose weights are plain float32 initializers that one node reads, in graph order."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {item.name for item in model.graph.output}
    found = (_layer(node, model, readers, outputs) for node in model.graph.node)
    return [layer for layer in found if layer is not None]


def _layer(
    node: onnx.NodeProto, model: Model, readers: Mapping[str, list[onnx.NodeProto]], outputs: set[str]
) -> Layer | None:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or node.domain not in ("", "ai.onnx"):
        return None
    x, name = node.input[0], node.input[1]
    weight = model.weights.get(name)
    if weight is None or x in model.weights or weight.dtype != _FLOAT or len(readers[name]) != 1:
        return None
    if node.op_type == "Gemm" and (attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0):
        return None
    if node.op_type == "MatMul" and len(weight.shape) != 2:
        return None
    if node.op_type == "ConvTranspose" and _unusual(node, weight.shape):
        return None
    convolves = node.op_type.startswith("Conv")
    channel = 1 if convolves else -1
    groups = attribute(node, "group", 1) if convolves else 1
    made = weight.shape[1] * groups if node.op_type == "ConvTranspose" else weight.shape[0] if convolves else 0
    if not convolves:
        made = weight.shape[0] if attribute(node, "transB", 0) else weight.shape[1]
    own = node.input[2] if len(node.input) > 2 and node.input[2] else None
    if own is not None:
        plain = attribute(node, "beta", 1.0) == 1.0
        bias = own if plain and _vector(model, own, made, readers) else None
        return Layer(node, x, name, bias, node.output[0], None, (), groups, channel)
    bare = Layer(node, x, name, None, node.output[0], None, (), groups, channel)
    behind = readers.get(node.output[0], [])
    if len(behind) != 1 or node.output[0] in outputs:
        return bare
    return _with_tail(bare, behind[0], model, made, readers) or bare


def _with_tail(
    bare: Layer, tail: onnx.NodeProto, model: Model, made: int, readers: Mapping[str, list[onnx.NodeProto]]
) -> Layer | None:
    """The layer with the bias that an operator behind it adds."""
    others = [name for name in tail.input if name != bare.y]
    if tail.op_type == "Add" and bare.channel == -1 and len(others) == 1 and _vector(model, others[0], made, readers):
        return replace(bare, bias=others[0], y=tail.output[0])
    normalises = tail.op_type == "BatchNormalization" and not attribute(tail, "training_mode", 0)
    if not normalises or bare.channel != 1 or len(others) != 4:
        return None
    scale, shift, *still = others
    if not all(_vector(model, name, made, readers) for name in (scale, shift)):
        return None
    if not all(name in model.weights for name in still):
        return None
    epsilon = f"{attribute(tail, 'epsilon', 1e-5)}"
    return replace(bare, bias=shift, y=tail.output[0], scale=scale, still=(*still, epsilon))


def _unusual(node: onnx.NodeProto, shape: tuple[int, ...]) -> bool:
    """Where padding is implied, or cuts off more than a window reaches."""
    if attribute(node, "output_shape") or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return True
    dilations = attribute(node, "dilations", [1] * (len(shape) - 2))
    reach = [(k - 1) * d for k, d in zip(shape[2:], dilations, strict=True)]
    return any(p > r for p, r in zip(attribute(node, "pads", [0] * 2 * len(reach)), reach * 2, strict=True))


def _vector(model: Model, name: str, length: int, readers: Mapping[str, list[onnx.NodeProto]]) -> bool:
    tensor = model.weights.get(name)
    return tensor is not None and tensor.shape == (length,) and len(readers[name]) == 1 and tensor.dtype == _FLOAT


@dataclass(frozen=True, eq=False)
class Matrices:
    """A layer's weights as rows see them."""

    weight: Array
    """(groups, outputs of a group, features of a row), what a BatchNormalization does included."""
    bias: Array
    """(groups, outputs of a group); zeros where there is none."""
    factor: Array
    """(groups, outputs of a group): what BatchNormalization multiplies by; ones else."""


def matrices(layer: Layer, weights: Mapping[str, Tensor]) -> Matrices:
    """In float64."""
    raw = weights[layer.weight].array().astype(np.float64)
    node = layer.node
    if node.op_type == "Conv":
        matrix = raw.reshape(layer.groups, raw.shape[0] // layer.groups, -1)
    elif node.op_type == "ConvTranspose":
        turned = np.flip(raw, axis=tuple(range(2, raw.ndim)))
        split = turned.reshape(layer.groups, raw.shape[0] // layer.groups, *raw.shape[1:])
        matrix = np.moveaxis(split, 2, 1).reshape(layer.groups, raw.shape[1], -1)
    else:
        matrix = (raw if attribute(node, "transB", 0) else raw.T)[None]
    shape = matrix.shape[:2]
    bias = weights[layer.bias].array().astype(np.float64).reshape(shape) if layer.bias else np.zeros(shape)
    if layer.scale is None:
        return Matrices(matrix, bias, np.ones(shape))
    mean, variance = (weights[name].array().astype(np.float64).reshape(shape) for name in layer.still[:2])
    scale = weights[layer.scale].array().astype(np.float64).reshape(shape)
    factor = scale / np.sqrt(variance + float(layer.still[2]))
    return Matrices(matrix * factor[..., None], bias - factor * mean, factor)


def stored(layer: Layer, solved: Matrices, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that hold these matrices."""
    node, old = layer.node, weights[layer.weight]
    safe = np.where(np.abs(solved.factor) > 1e-12, solved.factor, 1.0)
    matrix = solved.weight / safe[..., None]
    if node.op_type == "Conv":
        raw = matrix.reshape(old.shape)
    elif node.op_type == "ConvTranspose":
        inputs = old.shape[0] // layer.groups
        split = matrix.reshape(layer.groups, old.shape[1], inputs, *old.shape[2:])
        raw = np.flip(np.moveaxis(split, 2, 1).reshape(old.shape), axis=tuple(range(2, len(old.shape))))
    else:
        raw = matrix[0] if attribute(node, "transB", 0) else matrix[0].T
    found = {layer.weight: Tensor.of(layer.weight, np.ascontiguousarray(raw, np.float32))}
    if layer.bias is not None:
        bias = solved.bias
        if layer.scale is not None:
            mean = weights[layer.still[0]].array().astype(np.float64).reshape(bias.shape)
            bias = bias + solved.factor * mean
        found[layer.bias] = Tensor.of(layer.bias, bias.reshape(-1).astype(np.float32))
    return found


class Rows:
    """Which rows of a batch are looked at: the same of what a layer reads and of what it makes."""

    def __init__(self, layer: Layer, y_shape: tuple[int, ...], most: int, rng: np.random.Generator) -> None:
        self._layer = layer
        axis = layer.channel % len(y_shape)
        places = tuple(size for index, size in enumerate(y_shape) if index != axis)
        total = math.prod(places)
        chosen = np.sort(rng.choice(total, most, replace=False)) if total > most else np.arange(total)
        self._index = np.unravel_index(chosen, places)

    def made(self, y: Array) -> Array:
        """(groups, rows, outputs of a group) of a tensor shaped like the output."""
        return self._grouped(np.moveaxis(y, self._layer.channel, -1)[self._index])

    def read(self, x: Array, shape: tuple[int, ...]) -> Array:
        """(groups, rows, features) of the input of a layer whose weight has this shape."""
        node = self._layer.node
        if not node.op_type.startswith("Conv"):
            return self._grouped(x[self._index])
        x, window = _as_convolution(node, x, shape[2:])
        sample, *places = self._index
        corners = [place * step for place, step in zip(places, window.steps, strict=True)]
        parts = []
        for offset in np.ndindex(*shape[2:]):
            at = tuple(c + o * d for c, o, d in zip(corners, offset, window.dilations, strict=True))
            parts.append(x[(sample, slice(None), *at)])
        patches = np.stack(parts, axis=-1)  # (rows, channels, kernel): in the order of a weight's axes
        return self._grouped(patches.reshape(len(patches), -1))

    def _grouped(self, rows: Array) -> Array:
        groups = self._layer.groups
        return np.moveaxis(rows.reshape(len(rows), groups, rows.shape[-1] // groups), 1, 0)


@dataclass(frozen=True)
class _Window:
    steps: tuple[int, ...]
    dilations: tuple[int, ...]


def _as_convolution(node: onnx.NodeProto, x: Array, kernel: tuple[int, ...]) -> tuple[Array, _Window]:
    """The input padded, and for ConvTranspose with zeros in between, so that each row is a window of it."""
    rank = len(kernel)
    steps = tuple(attribute(node, "strides", [1] * rank))
    dilations = tuple(attribute(node, "dilations", [1] * rank))
    pads = attribute(node, "pads", [0] * (2 * rank))
    edges = list(zip(pads[:rank], pads[rank:], strict=True))
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    if node.op_type == "ConvTranspose":
        wide = np.zeros((*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], steps, strict=True))), x.dtype)
        wide[(slice(None), slice(None), *(slice(None, None, s) for s in steps))] = x
        more = attribute(node, "output_padding", [0] * rank)
        edges = [(r - a, r - b + extra) for r, (a, b), extra in zip(reach, edges, more, strict=True)]
        x, steps = wide, (1,) * rank
    elif attribute(node, "auto_pad", "NOTSET").startswith("SAME"):
        needed = [max((-(-n // s) - 1) * s + r + 1 - n, 0) for n, s, r in zip(x.shape[2:], steps, reach, strict=True)]
        low = attribute(node, "auto_pad", "") == "SAME_LOWER"
        edges = [(-(-n // 2), n // 2) if low else (n // 2, -(-n // 2)) for n in needed]
    return np.pad(x, [(0, 0), (0, 0), *edges]), _Window(steps, dilations)
