"""Arithmetic on constants is done once: pad amounts, resize scales, axes and target shapes become initializers.

Only small results are folded, integers or a handful of floats: what an operator is told, never what a model has
learned. So no weight changes its name, and a shape that was asked of a weight (`Shape(w)`) stays a question, for a cut
changes the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
import onnx

from onnxprune.files.tensors import Tensor
from onnxprune.graph.attributes import subgraphs
from onnxprune.graph.contents import LIMIT

FLOATS = 8
"""More floats than this are weights."""

_LEFT_ALONE = frozenset(
    ["DequantizeLinear", "QuantizeLinear", "Constant"]
    + ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]
)


def fold_constants(graph: onnx.GraphProto, weights: MutableMapping[str, Tensor], opset: int) -> None:
    """Replace nodes on small constants by their results. The graph must be sorted."""
    outputs = {item.name for item in graph.output}
    kept = []
    for node in graph.node:
        results = None if outputs.intersection(node.output) else _results(node, weights, opset)
        if results is None:
            kept.append(node)
        else:
            weights.update((name, Tensor.of(name, array)) for name, array in results.items())
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def _results(node: onnx.NodeProto, weights: Mapping[str, Tensor], opset: int) -> dict[str, np.ndarray[Any, Any]] | None:
    if node.domain not in ("", "ai.onnx") or node.op_type in _LEFT_ALONE or subgraphs(node):
        return None
    inputs = {name: weights.get(name) for name in node.input if name}
    if node.op_type in ("Shape", "Size") and any(t is None or t.dtype not in _INTEGERS for t in inputs.values()):
        return None
    if not inputs or not all(tensor is not None and _small(tensor.dtype, tensor.shape) for tensor in inputs.values()):
        return None
    arrays = _run(node, {name: tensor.array() for name, tensor in inputs.items() if tensor is not None}, opset)
    if arrays is None or not all(isinstance(array, np.ndarray) for array in arrays):
        return None
    found = {name: array for name, array in zip(node.output, arrays, strict=False) if name}
    fits = (_small(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape) for array in found.values())
    return found if all(fits) else None


def _small(dtype: int, shape: tuple[int, ...]) -> bool:
    count = int(np.prod(shape, dtype=np.int64))
    if dtype in _INTEGERS:
        return count <= LIMIT
    return dtype in _FLOATS and count <= FLOATS and len(shape) <= 1


def _run(node: onnx.NodeProto, feeds: dict[str, Any], opset: int) -> list[Any] | None:
    from onnx.reference import ReferenceEvaluator

    helper = onnx.helper
    try:
        kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
        known = [helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in feeds.items()]
        results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], "fold", known, results)
        evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))
        return [np.asarray(value) for value in evaluator.run(None, feeds)]
    except Exception:  # noqa: BLE001  what the reference cannot compute stays as it is
        return None


_T = onnx.TensorProto
_INTEGERS = {_T.INT64, _T.INT32, _T.BOOL}
_FLOATS = {_T.FLOAT, _T.DOUBLE, _T.FLOAT16}
