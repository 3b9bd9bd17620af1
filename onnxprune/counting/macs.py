"""Multiply-accumulates of one node: one small formula per operator, from the shapes of what it reads and writes.

Every formula counts the products that are summed; biases, activations and zero points cost nothing:

    Conv            output elements x (input channels per group x kernel)
    ConvTranspose   input elements x (output channels per group x kernel)
    MatMul          batch x M x N x K
    Einsum          product of the lengths of all its letters
    LSTM, GRU, RNN  steps x batch x elements of W and R
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.graph.attributes import attribute, subgraphs

Shape = tuple[int, ...]


class UnknownShape(LookupError):
    """A formula needs a shape that inference did not find."""


@dataclass(frozen=True)
class Operands:
    """The shapes around one node, by position."""

    node: onnx.NodeProto
    shapes: Mapping[str, Shape]
    """Fully known ones only."""

    def input(self, index: int) -> Shape:
        return self._shape(self.node.input, index)

    def output(self, index: int = 0) -> Shape:
        return self._shape(self.node.output, index)

    def flag(self, name: str) -> bool:
        return bool(attribute(self.node, name, 0))

    def _shape(self, names: object, index: int) -> Shape:
        known = list(names)  # type: ignore[call-overload]  # protobuf's repeated field has no stubs
        shape = self.shapes.get(known[index]) if index < len(known) else None
        if shape is None:
            raise UnknownShape
        return shape


Formula = Callable[[Operands], int]
FORMULAS: dict[str, Formula] = {}
"""By operator type, whatever the domain."""

NO_FORMULA = {"Attention", "FlexAttention", "LinearAttention", "CausalConvWithState"}
"""Standard operators that multiply but are not counted yet."""

_FREE_CONTRIB = {
    "BiasAdd", "BiasDropout", "BiasGelu", "BiasSoftmax", "BiasSplitGelu", "BitmaskDropout", "DequantizeLinear",
    "EmbedLayerNormalization", "FastGelu", "Gelu", "GroupNorm", "LayerNormalization", "NhwcMaxPool", "QLinearAdd",
    "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul",
    "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere", "QuantizeLinear", "QuickGelu",
    "RemovePadding", "RestorePadding", "RotaryEmbedding", "SimplifiedLayerNormalization", "SkipGroupNorm",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "Trilu",
}  # fmt: skip
"""onnxruntime's own operators that sum no products."""


def formula(*op_types: str) -> Callable[[Formula], Formula]:
    """Register the formula of these operators."""

    def register(function: Formula) -> Formula:
        for op_type in op_types:
            if op_type in FORMULAS:
                raise ValueError(f"{op_type} already has a formula")
            FORMULAS[op_type] = function
        return function

    return register


def macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """What the node costs; 0 for one that sums no products, None where nobody can tell."""
    if node.op_type in FORMULAS:
        try:
            return FORMULAS[node.op_type](Operands(node, shapes))
        except UnknownShape:
            return None
    return None if _opaque(node) else 0


def _opaque(node: onnx.NodeProto) -> bool:
    if node.domain == "com.microsoft":
        return node.op_type not in _FREE_CONTRIB
    if node.domain not in ("", "ai.onnx", "ai.onnx.ml") or node.op_type in NO_FORMULA:
        return True
    # a loop's body runs as often as the data says
    return any(inner.op_type in FORMULAS or _opaque(inner) for body in subgraphs(node) for inner in body.node)


@formula("Conv", "FusedConv", "NhwcFusedConv", "NhwcConv", "ConvInteger", "DeformConv")
def _conv(x: Operands) -> int:
    return math.prod(x.output()) * math.prod(x.input(1)[1:])


@formula("QLinearConv")
def _qlinear_conv(x: Operands) -> int:
    return math.prod(x.output()) * math.prod(x.input(3)[1:])


@formula("ConvTranspose", "ConvTransposeWithDynamicPads")
def _conv_transpose(x: Operands) -> int:
    return math.prod(x.input(0)) * math.prod(x.input(1)[1:])


@formula("Gemm", "FusedGemm", "GemmFloat8")
def _gemm(x: Operands) -> int:
    return _gemm_of(x, x.input(0), x.input(1))


@formula("QGemm")
def _qgemm(x: Operands) -> int:
    return _gemm_of(x, x.input(0), x.input(3))


@formula("MatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
def _matmul(x: Operands) -> int:
    return _matmul_of(x.input(0), x.input(1))


@formula("QLinearMatMul")
def _qlinear_matmul(x: Operands) -> int:
    return _matmul_of(x.input(0), x.input(3))


@formula("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul")
def _fused_matmul(x: Operands) -> int:
    return _matmul_of(_laid_out(x, "A", x.input(0)), _laid_out(x, "B", x.input(1)))


@formula("MatMulNBits", "MatMulBnb4", "MatMulFpQ4")
def _packed_matmul(x: Operands) -> int:
    """The weight is packed; its true width is that of the output, or an attribute."""
    try:
        return math.prod(x.input(0)) * x.output()[-1]
    except UnknownShape:
        columns = attribute(x.node, "N")
        if columns is None:
            raise
        return math.prod(x.input(0)) * int(columns)


@formula("Einsum")
def _einsum(x: Operands) -> int:
    if len(x.node.input) == 1:
        return 0
    if len(x.node.input) > 2:  # the order of contraction is the runtime's
        raise UnknownShape
    terms = attribute(x.node, "equation", "").replace(" ", "").split("->")[0].split(",")
    lengths: dict[str, int] = {}
    batch: Shape = ()
    for term, shape in zip(terms, (x.input(0), x.input(1)), strict=True):
        head, dots, tail = term.partition("...")
        batch = np.broadcast_shapes(batch, shape[len(head) : len(shape) - len(tail)]) if dots else batch
        ends = [*shape[: len(head)], *(shape[len(shape) - len(tail) :])]
        for letter, length in zip(head + tail, ends, strict=True):
            lengths[letter] = max(length, lengths.get(letter, 1))
    return math.prod(lengths.values()) * math.prod(batch)


@formula("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
def _recurrent(x: Operands) -> int:
    steps_and_batch = math.prod(x.input(0)[:2])
    return steps_and_batch * (math.prod(x.input(1)) + math.prod(x.input(2)))


def _gemm_of(x: Operands, a: Shape, b: Shape) -> int:
    return math.prod(a) * b[0 if x.flag("transB") else 1]


def _matmul_of(a: Shape, b: Shape) -> int:
    batch = np.broadcast_shapes(a[:-2], b[:-2])
    columns = b[-1] if len(b) > 1 else 1
    return math.prod(batch) * math.prod(a[-2:]) * columns


def _laid_out(x: Operands, side: str, shape: Shape) -> Shape:
    """As MatMul would want it: `transBatch` puts the first axis behind the batch axes, `trans` swaps the last two."""
    if x.flag(f"transBatch{side}"):
        shape = (*shape[1:-1], shape[0], shape[-1])
    if x.flag(f"trans{side}") and len(shape) > 1:
        shape = (*shape[:-2], shape[-1], shape[-2])
    return shape
