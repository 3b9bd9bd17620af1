"""Shapes are inferred from the graph and the small constants alone; the weights' data is never read.

Weights of up to 1 KiB (axes, target shapes, sizes) are put into the graph so that inference can compute with them;
the others are only declared. What cannot be inferred is absent from the answer, and a model too odd for inference
still yields its inputs and weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import shape_inference

from onnxprune.files import external, wire
from onnxprune.files.model import Model
from onnxprune.graph.stand_ins import use_stand_ins

Shape = tuple[int, tuple[int | str | None, ...] | None]
"""Element type (a TensorProto number), and the dims: sizes, names, or None for unknown; None alone: unknown rank."""


def infer(model: Model, dims: Mapping[str, int] | None = None) -> dict[str, Shape]:
    """Shapes of all values of the main graph. `dims` gives sizes to symbolic dims, by name or as `input:axis`."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for weight in model.weights.values():
        known = not external.separable(weight)
        proto.graph.initializer.append(weight.to_proto() if known else wire.placed(weight, "weights", 0))
    del proto.graph.value_info[:]
    use_stand_ins(proto.graph, {name: weight.shape for name, weight in model.weights.items()})
    if dims:
        _bind(proto.graph, dims)
    found: dict[str, Shape] = {}
    for graph in (_inferred(proto).graph, proto.graph):
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.HasField("tensor_type") and value.name not in found:
                found[value.name] = _shape(value.type.tensor_type)
    for name, weight in model.weights.items():
        found[name] = (weight.dtype, weight.shape)
    return found


def _inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    for propagate in (True, False):
        try:
            return shape_inference.infer_shapes(proto, strict_mode=False, data_prop=propagate)
        except Exception:  # noqa: BLE001  odd models make the C++ side raise anything; less is known then, that is all
            continue
    return proto


def _bind(graph: onnx.GraphProto, dims: Mapping[str, int]) -> None:
    for value in (*graph.input, *graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            size = dims.get(f"{value.name}:{axis}", dims.get(dim.dim_param) if dim.dim_param else None)
            if size is not None and not dim.HasField("dim_value"):
                dim.dim_value = size


def _shape(kind: onnx.TypeProto.Tensor) -> Shape:
    if not kind.HasField("shape"):
        return kind.elem_type, None
    dims = tuple(_dim(dim) for dim in kind.shape.dim)
    return kind.elem_type, dims


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    """Some exporters write -1 for a length that is not known."""
    return (dim.dim_value if dim.dim_value >= 0 else None) if dim.HasField("dim_value") else dim.dim_param or None
