"""What recurrent layers do with their input, as one Gemm: x W' + b, before anything of the past is added.

    W (directions, gates * hidden, input)  ─►  (directions * gates * hidden, input)
    B (directions, 2 * gates * hidden)     ─►  its first half, as one vector; the second belongs to the past

No tensor holds that product, so the original's is computed from what it reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.execution.walk import Walk
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.repair.consumers import Consumers
from onnxprune.repair.layer_fit import Lost
from onnxprune.repair.linear_layers import Layer, matrices

Array = NDArray[Any]
Weights = Mapping[str, Tensor]

RECURRENT = ("LSTM", "GRU", "RNN")


def recurrent_layers(model: Model) -> list[tuple[int, Layer]]:
    """Their input projections, with the places of their nodes; `y` is what they read, as what they make is nowhere."""
    uses = Consumers(model)
    found = []
    for at, node in enumerate(model.graph.node):
        if node.op_type not in RECURRENT or node.domain not in ("", "ai.onnx") or node.input[0] in model.weights:
            continue
        w, b = node.input[1], node.input[3] if len(node.input) > 3 else ""
        if uses.own(w) is None or (b and uses.own(b) is None):
            continue
        product = onnx.helper.make_node("Gemm", list(node.input[:2]), [], name=node.name, transB=1)
        found.append((at, Layer(product, node.input[0], w, b or None, node.input[0], None, 1, -1)))
    return found


def as_matrix(layer: Layer, weights: Weights) -> dict[str, Tensor]:
    """The weights of a projection as its Gemm has them."""
    w = weights[layer.weight].array()
    found = {layer.weight: Tensor.of(layer.weight, np.ascontiguousarray(w.reshape(-1, w.shape[2])))}
    if layer.bias is not None:
        half = weights[layer.bias].array()[:, : w.shape[1]]
        found[layer.bias] = Tensor.of(layer.bias, np.ascontiguousarray(half.ravel()))
    return found


def as_stored(layer: Layer, solved: Weights, weights: Weights) -> dict[str, Tensor]:
    """The reverse, of weights that were solved."""
    if not solved:
        return {}
    shape = weights[layer.weight].shape
    found = {layer.weight: Tensor.of(layer.weight, solved[layer.weight].array().reshape(shape))}
    if layer.bias is not None:
        both = weights[layer.bias].array().copy()
        both[:, : shape[1]] = solved[layer.bias].array().reshape(shape[0], shape[1])
        found[layer.bias] = Tensor.of(layer.bias, both)
    return found


def projected(layer: Layer, original: Walk, lost: Lost) -> Iterator[Array]:
    """What the original makes of its input, for the hidden units that are left, batch by batch."""
    weights = original.model.weights
    directions, rows, _ = weights[layer.weight].shape
    now = matrices(layer, as_matrix(layer, weights))
    every = np.arange(directions * rows).reshape(directions, rows)
    kept = np.delete(every, lost.get((layer.weight, 1), []), axis=1).ravel()
    weight, bias = now.weight[0][kept].astype(np.float32), now.bias[0][kept].astype(np.float32)
    for x in original.numbers(layer.x):
        yield x @ weight.T + bias
