"""Layers whose outputs are linear in their weights, as matrices: y = x W' + b for rows x, whatever the operator.

    Conv            a row is the patch that one output position reads; one matrix per group
    ConvTranspose   the same, of the input with zeros in between and the kernel turned round
    Gemm, MatMul    a row is the last axis of the input

The bias may be the operator's own, that of an Add behind it, or the shift of a BatchNormalization behind it. A layer in
any other form (a weight that is computed, shared or an output, a bias that is, a transposed input) is none of these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.execution.walk import reads
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.attributes import attribute
from onnxprune.repair.consumers import Consumers

Array = NDArray[Any]

ROWS_PER_FEATURE = 256
"""What a layer's statistics are made of. Of a ResNet-20 on CIFAR-10, 64 leave 1 % more error, 1000 no less."""
FEWEST_ROWS = 1 << 13
MOST_ROWS = 1 << 17
WIDEST = 9216
"""Features, 1024 channels of 3 x 3 at most, for which a matrix of features by features is made."""
ROWS_BEYOND = 1 << 11
"""Rows of a layer that is wider."""
DEAD = 1e-6
"""A BatchNormalization that multiplies a channel by less than this, relative to its largest factor, hides it."""


@dataclass(frozen=True)
class Normalization:
    """A BatchNormalization between a product and the end of its layer; its shift is the layer's bias."""

    scale: str
    mean: str
    variance: str
    epsilon: float


@dataclass(frozen=True, eq=False)
class Layer:
    """One product with a weight of its own."""

    node: onnx.NodeProto
    x: str
    """What it reads."""
    weight: str
    bias: str | None
    """What is added to each output channel, and nothing else uses; None: there is none."""
    y: str
    """Where the bias has been added."""
    norm: Normalization | None
    groups: int
    channel: int
    """Axis of the output channels in `y`; -1: the last."""

    @property
    def convolves(self) -> bool:
        """Whether rows are patches."""
        return self.node.op_type.startswith("Conv")

    def outputs(self, weight: Sequence[int]) -> int:
        """How many channels it makes with a weight of such a shape."""
        return _outputs(self.node, weight)

    def features(self, weight: Sequence[int]) -> int:
        """How long a row is."""
        return math.prod(weight) // self.outputs(weight)

    def makes(self, x: Sequence[int], weight: Sequence[int]) -> tuple[int, ...] | None:
        """The shape of `y` for an input and a weight of such shapes; None: there are no rows in such an input."""
        if not self.convolves:
            return (*x[:-1], self.outputs(weight)) if len(x) > 1 else None
        return (x[0], self.outputs(weight), *_window(self.node, x[2:], weight[2:]).places)


def layers(model: Model) -> list[Layer]:
    """Those whose weights are plain float32 initializers that nothing else uses, in graph order."""
    uses = Consumers(model)
    found = (_layer(node, uses) for node in model.graph.node)
    return [layer for layer in found if layer is not None]


def sum_behind(layer: Layer, model: Model) -> tuple[str, str] | None:
    """The sum of two computed tensors that a layer's output goes into and nowhere else, and the other of the two."""
    readers = [node for node in model.graph.node if layer.y in reads(node)]
    if len(readers) != 1 or readers[0].op_type != "Add" or readers[0].domain not in ("", "ai.onnx"):
        return None
    others = [name for name in readers[0].input if name != layer.y]
    if len(others) != 1 or others[0] in model.weights:
        return None
    return readers[0].output[0], others[0]


def _layer(node: onnx.NodeProto, uses: Consumers) -> Layer | None:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or node.domain not in ("", "ai.onnx"):
        return None
    x, name = node.input[0], node.input[1]
    weight = uses.own(name)
    if weight is None or x in uses.weights or _unusual(node, weight.shape):
        return None
    convolves = node.op_type.startswith("Conv")
    groups = attribute(node, "group", 1) if convolves else 1
    bare = Layer(node, x, name, None, node.output[0], None, groups, 1 if convolves else -1)
    made = bare.outputs(weight.shape)
    own = node.input[2] if len(node.input) > 2 else ""
    if own:
        rank = 1 if convolves else 2
        return replace(bare, bias=own) if uses.vector(own, made, 0, rank) else None
    behind = uses.only(bare.y)
    return bare if behind is None else _with_tail(bare, behind, len(weight.shape), made, uses) or bare


def _with_tail(bare: Layer, tail: onnx.NodeProto, rank: int, made: int, uses: Consumers) -> Layer | None:
    """The layer with the bias that an operator behind it adds; `rank` is that of the weight and of `y`."""
    others = [name for name in tail.input if name != bare.y]
    if tail.domain not in ("", "ai.onnx"):
        return None
    if tail.op_type == "Add" and len(others) == 1:
        fits = uses.vector(others[0], made, rank - 2 if bare.convolves else 0, rank)
        return replace(bare, bias=others[0], y=tail.output[0]) if fits else None
    if tail.op_type != "BatchNormalization" or bare.node.op_type == "MatMul" or len(others) != 4:
        return None
    scale, shift, mean, variance = others
    still = [uses.weights.get(name) for name in (scale, mean, variance)]
    if attribute(tail, "training_mode", 0) or len([name for name in tail.output if name]) > 1:
        return None
    if not uses.vector(shift, made, 0, 1) or any(each is None or each.shape != (made,) for each in still):
        return None
    norm = Normalization(scale, mean, variance, attribute(tail, "epsilon", 1e-5))
    return replace(bare, bias=shift, y=tail.output[0], norm=norm)


def _unusual(node: onnx.NodeProto, weight: tuple[int, ...]) -> bool:
    if node.op_type == "MatMul":
        return len(weight) != 2
    if node.op_type == "Gemm":
        scaled = attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0
        return scaled or bool(attribute(node, "transA", 0))
    implied = attribute(node, "output_shape") or attribute(node, "auto_pad", "NOTSET").startswith("SAME")
    return node.op_type == "ConvTranspose" and bool(implied)


def _outputs(node: onnx.NodeProto, weight: Sequence[int]) -> int:
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return weight[0]
    return weight[1] * (attribute(node, "group", 1) if node.op_type == "ConvTranspose" else 1)


@dataclass(frozen=True, eq=False)
class Matrices:
    """A layer's weights as rows see them."""

    weight: Array
    """(groups, outputs of a group, features of a row), what a BatchNormalization does included."""
    bias: Array
    """(groups, outputs of a group); zeros where there is none."""
    factor: Array
    """(groups, outputs of a group): what BatchNormalization multiplies by; ones else."""

    @property
    def free(self) -> NDArray[np.bool_]:
        """(groups, outputs of a group): where the weights show in `y`, so that any row can be stored."""
        size = np.abs(self.factor)
        return np.asarray(size > DEAD * size.max(initial=0.0))


def matrices(layer: Layer, weights: Mapping[str, Tensor]) -> Matrices:
    """In float64."""
    matrix = _matrix(layer, weights[layer.weight].array().astype(np.float64))
    shape = matrix.shape[:2]
    bias = _vector(layer.bias, weights).reshape(shape) if layer.bias else np.zeros(shape)
    if layer.norm is None:
        return Matrices(matrix, bias, np.ones(shape))
    scale, mean, variance = (
        _vector(name, weights).reshape(shape) for name in (layer.norm.scale, layer.norm.mean, layer.norm.variance)
    )
    factor = scale / np.sqrt(variance + layer.norm.epsilon)
    return Matrices(matrix * factor[..., None], bias - factor * mean, factor)


def stored(layer: Layer, solved: Matrices, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that hold these matrices; rows that are not free stay what they are in `weights`."""
    old = weights[layer.weight]
    matrix = solved.weight
    if layer.norm is not None:
        still = _matrix(layer, old.array().astype(np.float64))
        safe = np.where(solved.free, solved.factor, 1.0)
        matrix = np.where(solved.free[..., None], matrix / safe[..., None], still)
    found = {layer.weight: _tensor(layer.weight, _raw(layer, matrix, old.shape))}
    if layer.bias is not None:
        bias = solved.bias.ravel()
        if layer.norm is not None:
            bias = bias + solved.factor.ravel() * _vector(layer.norm.mean, weights)
        found[layer.bias] = _tensor(layer.bias, bias.reshape(weights[layer.bias].shape))
    return found


def _tensor(name: str, array: Array) -> Tensor:
    with np.errstate(over="ignore"):  # who has solved it looks whether it can be stored
        return Tensor.of(name, np.ascontiguousarray(array, np.float32))


def _vector(name: str, weights: Mapping[str, Tensor]) -> Array:
    return weights[name].array().astype(np.float64).ravel()


def _matrix(layer: Layer, raw: Array) -> Array:
    """(groups, outputs of a group, features) of a weight as it is stored."""
    if layer.node.op_type == "Conv":
        return raw.reshape(layer.groups, raw.shape[0] // layer.groups, -1)
    if layer.node.op_type == "ConvTranspose":
        turned = np.flip(raw, axis=tuple(range(2, raw.ndim)))
        split = turned.reshape(layer.groups, raw.shape[0] // layer.groups, *raw.shape[1:])
        return np.moveaxis(split, 2, 1).reshape(layer.groups, raw.shape[1], -1)
    return (raw if attribute(layer.node, "transB", 0) else raw.T)[None]


def _raw(layer: Layer, matrix: Array, shape: tuple[int, ...]) -> Array:
    """The reverse."""
    if layer.node.op_type == "Conv":
        return matrix.reshape(shape)
    if layer.node.op_type == "ConvTranspose":
        split = matrix.reshape(layer.groups, shape[1], shape[0] // layer.groups, *shape[2:])
        turned: Array = np.moveaxis(split, 2, 1).reshape(shape)
        return np.flip(turned, axis=tuple(range(2, len(shape))))
    found: Array = matrix[0]
    return found if attribute(layer.node, "transB", 0) else found.T


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

    def read(self, x: Array, weight: tuple[int, ...]) -> Array:
        """(groups, rows, features) of the input of a layer whose weight has this shape."""
        if not self._layer.convolves:
            return self._grouped(x[self._index])
        window = _window(self._layer.node, x.shape[2:], weight[2:])
        sample, *places = self._index
        patches = np.zeros((len(sample), x.shape[1], math.prod(weight[2:])), x.dtype)
        for tap, offset in enumerate(np.ndindex(*weight[2:])):
            inside, at = window.seen(places, offset, x.shape[2:])
            index: tuple[Any, ...] = (sample[inside], slice(None), *at)
            patches[inside, :, tap] = x[index]
        return self._grouped(patches.reshape(len(sample), -1))

    def _grouped(self, rows: Array) -> Array:
        groups = self._layer.groups
        return np.moveaxis(rows.reshape(len(rows), groups, rows.shape[-1] // groups), 1, 0)


def rows_for(features: int) -> int:
    """How many rows a layer's statistics are made of, about, over all batches."""
    return ROWS_BEYOND if features > WIDEST else min(MOST_ROWS, max(FEWEST_ROWS, ROWS_PER_FEATURE * features))


@dataclass(frozen=True)
class _Window:
    """How an operator moves over its input; one entry per spatial axis.

    x         a . b . c          stretched by 2 where a ConvTranspose has strides of 2
    . . . a . b . c . .          low = 3
    ^ ^ ^                        the kernel at its first place; it moves in `steps`
    """

    places: tuple[int, ...]
    steps: tuple[int, ...]
    dilations: tuple[int, ...]
    low: tuple[int, ...]
    stretch: tuple[int, ...]

    def seen(
        self, places: Sequence[Array], offset: Sequence[int], sizes: Sequence[int]
    ) -> tuple[NDArray[np.bool_], list[Array]]:
        """Which places read an entry of the input at this offset of the kernel, and where those find it."""
        inside = np.ones(len(places[0]), bool)
        found = []
        for axis, place in enumerate(places):
            at = place * self.steps[axis] + offset[axis] * self.dilations[axis] - self.low[axis]
            at, between = np.divmod(at, self.stretch[axis])
            inside &= (between == 0) & (at >= 0) & (at < sizes[axis])
            found.append(at)
        return inside, [at[inside] for at in found]


def _window(node: onnx.NodeProto, sizes: Sequence[int], kernel: Sequence[int]) -> _Window:
    rank = len(kernel)
    ones, none = [1] * rank, [0] * rank
    strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
    pads = attribute(node, "pads", none + none)
    low, high = pads[:rank], pads[rank:]
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    steps, stretch = strides, ones
    if node.op_type == "ConvTranspose":
        more = attribute(node, "output_padding", none)
        low = [r - a for r, a in zip(reach, low, strict=True)]
        high = [r - b + extra for r, b, extra in zip(reach, high, more, strict=True)]
        steps, stretch = ones, strides
    elif attribute(node, "auto_pad", "NOTSET").startswith("SAME"):
        made = [-(-n // s) for n, s in zip(sizes, steps, strict=True)]
        needed = [max((m - 1) * s + r + 1 - n, 0) for m, n, s, r in zip(made, sizes, steps, reach, strict=True)]
        less, rest = [n // 2 for n in needed], [-(-n // 2) for n in needed]
        low, high = (rest, less) if attribute(node, "auto_pad") == "SAME_LOWER" else (less, rest)
    wide = [a + (n - 1) * e + 1 + b for a, n, e, b in zip(low, sizes, stretch, high, strict=True)]
    places = [(w - r - 1) // s + 1 for w, r, s in zip(wide, reach, steps, strict=True)]
    return _Window(tuple(places), tuple(steps), tuple(dilations), tuple(low), tuple(stretch))
