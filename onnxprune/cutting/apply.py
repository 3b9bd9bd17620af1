"""Applying a plan: slice every weight by what it keeps, then mend the few operators that store a size.

No analysis runs here. The plan says which axes of which tensors shrink, activations included, so each fix-up is local:
it compares what its node stores with what the plan says its output will be.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx

from onnxprune.analysis.rules.registry import key
from onnxprune.analysis.trace import captured
from onnxprune.cutting.fixups import FIXUPS
from onnxprune.cutting.plan import Plan, check
from onnxprune.cutting.surgery import Dims, Surgery
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.attributes import subgraphs
from onnxprune.graph.settle import ranked_shapes
from onnxprune.graph.shapes import infer


def apply(model: Model, plan: Plan) -> Model:
    """The pruned model. `model` must be normalised; it is not changed."""
    before: dict[str, Dims | None] = {name: None for node in model.graph.node for name in node.output}
    before.update((name, dims) for name, (_, dims) in ranked_shapes(model).items())
    check(plan, before)
    removed = plan.removed()
    weights = {name: _sliced(tensor, removed) for name, tensor in model.weights.items()}
    names = {name for node in model.graph.node for name in (node.name, *node.output)}
    taken = names | {item.name for item in model.graph.input} | set(weights)
    surgery = Surgery(plan, before, model.weights, weights, model.opset, _users(model.graph), taken)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    for node in nodes:
        surgery.current = node
        fix = FIXUPS.get(key(node))
        if fix is not None and surgery.touches(node):
            fix(surgery, node)
        proto.graph.node.extend([*surgery.pending, node, *surgery.following])
        surgery.pending.clear()
        surgery.following.clear()
        surgery.follow(node)
    pruned = model.replace(proto=proto, weights=surgery.weights)
    _declare(pruned)
    return pruned


def _users(graph: onnx.GraphProto) -> Counter[str]:
    users = Counter(name for node in graph.node for name in node.input)
    users.update(name for node in graph.node for body in subgraphs(node) for name in captured(body))
    users.update(item.name for item in graph.output)
    return users


def _sliced(tensor: Tensor, removed: dict[tuple[str, int], np.ndarray]) -> Tensor:
    for axis in range(len(tensor.shape)):
        index = removed.get((tensor.name, axis))
        if index is not None:
            tensor = tensor.take(axis, np.delete(np.arange(tensor.shape[axis]), index))
    return tensor


def _declare(model: Model) -> None:
    """Write down the new shapes of all intermediate tensors; the old ones went with normalisation."""
    known = {item.name for item in (*model.graph.input, *model.graph.output)}
    made = {name for node in model.graph.node for name in node.output}
    for name, (dtype, dims) in infer(model).items():
        if name in made and name not in known and dtype and dims is not None:
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, dtype, dims))
