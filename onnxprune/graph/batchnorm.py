"""BatchNormalization as inference sees it: y = factor (x - mean) + shift, a line for each channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.files.tensors import Tensor
from onnxprune.graph.attributes import attribute

Floats = NDArray[np.float64]
EPSILON = 1e-5
_FLOAT = onnx.TensorProto.FLOAT


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """One node that does not train."""

    node: onnx.NodeProto
    x: str
    y: str
    scale: str
    shift: str
    mean: str
    variance: str
    epsilon: float

    def line(self, weights: Mapping[str, Tensor]) -> tuple[Floats, Floats]:
        """(factor, offset) with y = factor x + offset."""
        scale, shift, mean, variance = (
            weights[name].array().astype(np.float64) for name in (self.scale, self.shift, self.mean, self.variance)
        )
        factor = scale / np.sqrt(variance + self.epsilon)
        return factor, shift - factor * mean


def batch_norm(node: onnx.NodeProto, weights: Mapping[str, Tensor]) -> BatchNorm | None:
    """The node, where it is one that does not train and its four vectors are float32 weights."""
    if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx") or len(node.input) != 5:
        return None
    if attribute(node, "training_mode", 0) or len([name for name in node.output if name]) > 1:
        return None
    vectors = [weights.get(name) for name in node.input[1:]]
    shapes = {each.shape if each is not None and each.dtype == _FLOAT else () for each in vectors}
    if len(shapes) > 1 or len(shapes.pop()) != 1:
        return None
    x, scale, shift, mean, variance = node.input
    return BatchNorm(node, x, node.output[0], scale, shift, mean, variance, attribute(node, "epsilon", EPSILON))
