"""Shapes of a model whose inputs have none but fixed sizes: every size in it is a number, computed or inferred.

Inference stops where a size is computed by arithmetic it does not follow (`chunk` is exported as Shape, Gather, Div,
Slice). So what it left open is made up for in one walk: small integer tensors are evaluated (see `contents`), and a
node whose output is still open is inferred on its own, its computed sizes given as constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import shape_inference

from onnxprune.files.model import Model
from onnxprune.graph.contents import LIMIT, TRACED, Content, constant, evaluate, sizes_of
from onnxprune.graph.shapes import Shape, infer

Fixed = tuple[int, ...]


def settled_shapes(model: Model, dims: Mapping[str, int]) -> dict[str, Fixed]:
    """The fully known shapes. The model's inputs must be bound already; `dims` binds what else bears their names."""
    shapes = infer(model, dims)
    _fill_in(model, shapes, lambda shape: _fixed(shape) is not None)
    known = {name: _fixed(shape) for name, shape in shapes.items()}
    return {name: shape for name, shape in known.items() if shape is not None}


def ranked_shapes(model: Model) -> dict[str, Shape]:
    """As inferred, and where inference gave up even on the rank, what one node at a time gives."""
    shapes = infer(model)
    _fill_in(model, shapes, lambda shape: shape is not None and shape[1] is not None)
    return shapes


def _fill_in(model: Model, shapes: dict[str, Shape], enough: Callable[[Shape | None], bool]) -> None:
    """Complete `shapes` where they do not tell enough."""
    if all(enough(shapes.get(name)) for node in model.graph.node for name in node.output if name):
        return
    contents: dict[str, Content] = {}
    for name, weight in model.weights.items():
        content = constant(weight.array()) if weight.nbytes <= 8 * LIMIT else None
        if content is not None:
            contents[name] = content
    opsets = {item.domain: item.version for item in model.proto.opset_import}
    for node in model.graph.node:
        if not all(enough(shapes.get(name)) for name in node.output if name):
            shapes.update(_alone(node, shapes, contents, opsets, model.proto.ir_version))
        if node.op_type in TRACED and node.domain in ("", "ai.onnx"):
            contents.update(_contents(node, shapes, contents))


def _alone(
    node: onnx.NodeProto,
    shapes: Mapping[str, Shape],
    contents: Mapping[str, Content],
    opsets: Mapping[str, int],
    ir_version: int,
) -> dict[str, Shape]:
    """What can be said of this node's outputs, given what is known of its inputs."""
    read = [name for name in node.input if name]
    if any(name not in shapes for name in read):
        return {}
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(domain, opsets.get("ai.onnx", 1)), domain)
        types = {name: onnx.helper.make_tensor_type_proto(*shapes[name]) for name in read}
        data = {name: _tensor(name, shapes[name][0], contents[name]) for name in read if _numbers(contents.get(name))}
        imports = [onnx.helper.make_opsetid(name, version) for name, version in opsets.items()]
        found = shape_inference.infer_node_outputs(schema, node, types, data, None, imports, ir_version)
    except Exception:  # noqa: BLE001  the C++ side raises anything; less is known then, that is all
        return {}
    tensors = {name: kind.tensor_type for name, kind in found.items() if kind.HasField("tensor_type")}
    return {name: (kind.elem_type, _dims(kind)) for name, kind in tensors.items() if kind.HasField("shape")}


def _contents(node: onnx.NodeProto, shapes: Mapping[str, Shape], contents: Mapping[str, Content]) -> dict[str, Content]:
    shape = shapes.get(node.input[0], (0, None))[1] if node.input else None
    try:
        found = evaluate(node, [contents.get(name) for name in node.input], shape)
    except (ArithmeticError, LookupError, TypeError, ValueError):  # an invalid node; onnxruntime will say so
        found = None
    return {} if found is None else {name: x for name, x in zip(node.output, found, strict=False) if name}


def _numbers(content: Content | None) -> bool:
    return content is not None and all(isinstance(size, int) for size in sizes_of(content))


def _tensor(name: str, dtype: int, content: Content) -> onnx.TensorProto:
    values = np.array(sizes_of(content), onnx.helper.tensor_dtype_to_np_dtype(dtype)).reshape(content.shape)
    return onnx.numpy_helper.from_array(values, name)


def _dims(kind: onnx.TypeProto.Tensor) -> tuple[int | str | None, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim)


def _fixed(shape: Shape | None) -> Fixed | None:
    sizes = shape[1] if shape is not None else None
    if sizes is None:
        return None
    numbers = tuple(size for size in sizes if isinstance(size, int))
    return numbers if len(numbers) == len(sizes) else None
