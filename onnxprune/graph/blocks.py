"""MatMulNBits keeps a scale, and perhaps a zero point, for each block of inputs of each output.

    scales, flat (N * blocks)   =>   scales (N, blocks)

Both forms hold the same numbers in the same order. Only of the table can outputs and blocks be cut independently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import MutableMapping

import onnx

from onnxprune.files.tensors import Tensor
from onnxprune.graph.attributes import attribute


def tabulate(graph: onnx.GraphProto, weights: MutableMapping[str, Tensor]) -> None:
    """Give flat scales and zero points their two axes."""
    users = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        if node.op_type != "MatMulNBits" or node.domain != "com.microsoft":
            continue
        rows = attribute(node, "N", 0)
        for name in node.input[2:4]:
            tensor = weights.get(name)
            if tensor is None or users[name] > 1 or len(tensor.shape) != 1 or not rows or tensor.shape[0] % rows:
                continue
            weights[name] = Tensor.of(name, tensor.array().reshape(rows, -1))
