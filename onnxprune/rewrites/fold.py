"""BatchNormalization merged into the layer before it, where that is the only one it changes.

    z = W x + b,  y = factor z + offset   =>   y = (factor W) x + (factor b + offset)

factor and offset being what the normalisation does to each channel in inference. The layer takes over the name of what
comes out; its bias keeps its name or takes that of the shift. `unfold` is the way back.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.files.model import Model, expect_model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.attributes import attribute
from onnxprune.graph.batchnorm import BatchNorm, batch_norm
from onnxprune.graph.shapes import Shape, infer
from onnxprune.repair.consumers import Consumers
from onnxprune.rewrites.rewriting import Names, Rewritten, rewritten

Floats = NDArray[np.float64]
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def fold(model: Model) -> Rewritten:
    """Merge every BatchNormalization that can be."""
    expect_model(model, "fold")
    done: list[str] = []
    while True:  # of two in a row the second has its turn once the first is gone
        model, more, left = _once(model)
        done += more
        if not more:
            return Rewritten(model, tuple(done), left)


def _once(model: Model) -> tuple[Model, list[str], dict[str, str]]:
    uses, names, shapes = Consumers(model), Names(model), infer(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    weights = dict(model.weights)
    merged: dict[str, list[onnx.NodeProto]] = {}
    gone: set[str] = set()
    left: dict[str, str] = {}
    done: list[str] = []
    for node in model.graph.node:
        if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
            continue
        norm, layer = batch_norm(node, weights), makers.get(node.input[0])
        why = "it trains, or its vectors are no float32 initializers" if norm is None else _apart(layer, uses, shapes)
        if why:
            left[node.name] = why
            continue
        assert norm is not None
        assert layer is not None
        merged[layer.name] = _merged(layer, norm, weights, uses, names)
        gone.add(node.name)
        done.append(node.name)
    nodes = [each for node in model.graph.node if node.name not in gone for each in merged.get(node.name, [node])]
    return rewritten(model, nodes, weights), done, left


def _apart(layer: onnx.NodeProto | None, uses: Consumers, shapes: Mapping[str, Shape]) -> str:
    """Why a normalisation cannot become a part of the node before it; nothing where it can."""
    if layer is None or layer.op_type not in _LAYERS or layer.domain not in ("", "ai.onnx"):
        return f"what it normalises comes from {layer.op_type if layer else 'an input'}, which is no layer"
    if uses.only(layer.output[0]) is None:
        return f"{layer.output[0]!r} is read by others, too"
    weight = uses.own(layer.input[1])
    if weight is None:
        return f"the weight of {layer.name!r} is shared, or no float32 initializer"
    if layer.op_type == "MatMul":
        _, made = shapes.get(layer.output[0], (0, None))
        if len(weight.shape) != 2 or made is None or len(made) != 2:
            return f"{layer.name!r} has its channels on the last axis"
    bias = layer.input[2] if len(layer.input) > 2 else ""
    if bias and (bias not in uses.weights or len(uses.weights[bias].shape) != 1):
        return f"the bias of {layer.name!r} is computed, or no vector"
    if attribute(layer, "alpha", 1.0) != 1.0 or attribute(layer, "beta", 1.0) != 1.0:
        return f"{layer.name!r} scales its product"
    return ""


def _merged(
    old: onnx.NodeProto, norm: BatchNorm, weights: dict[str, Tensor], uses: Consumers, names: Names
) -> list[onnx.NodeProto]:
    """The layer, of which a MatMul has its bias added behind it; its new weights go into `weights`."""
    layer = onnx.NodeProto()
    layer.CopyFrom(old)
    factor, offset = norm.line(weights)
    weight, bias = layer.input[1], layer.input[2] if len(layer.input) > 2 else ""
    scaled = _scaled(layer, weights[weight].array().astype(np.float64), factor)
    weights[weight] = Tensor.of(weight, scaled.astype(np.float32))
    if bias:
        offset = offset + factor * weights[bias].array()
    own = next((name for name in (bias, norm.shift) if name and uses.own(name)), "")
    name = own or names.fresh(f"{layer.name}.bias")
    weights[name] = Tensor.of(name, offset.astype(np.float32))
    if layer.op_type == "MatMul":
        behind = onnx.helper.make_node("Add", [layer.output[0], name], [norm.y], name=norm.node.name)
        return [layer, behind]
    del layer.input[2:]
    layer.input.append(name)
    layer.output[0] = norm.y
    return [layer]


def _scaled(layer: onnx.NodeProto, weight: Floats, factor: Floats) -> Floats:
    """The weight with each output channel multiplied."""
    if layer.op_type == "Conv" or (layer.op_type == "Gemm" and attribute(layer, "transB", 0)):
        return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    if layer.op_type == "ConvTranspose":
        groups = attribute(layer, "group", 1)
        split = weight.reshape(groups, -1, *weight.shape[1:])
        line = factor.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        return np.asarray((split * line).reshape(weight.shape))
    return weight * factor
