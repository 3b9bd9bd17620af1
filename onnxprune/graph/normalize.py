"""Afterwards every weight is an initializer with one meaning, and every node has a name of its own.

What computes stays what it was: functions are inlined, `Constant` nodes become initializers, arithmetic on small
constants is done (see `constants`), and small constants that an exporter merged because they happened to be equal are
taken apart again, one per use:

    bias -> conv1 (input 2)              bias                 -> conv1
    bias -> conv2 (input 2)     =>       bias::conv2:2        -> conv2     (`merge_clones` joins equal ones again)

A float matrix used twice is shared on purpose (tied embeddings, a detector's heads) and stays shared. A default
value that the caller might override (an initializer that is also a graph input) is a weight like any other, and an
input again when the model is written; before IR 4, where every initializer had to be listed so, it is no longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import onnx

from onnxprune.errors import InvalidModel
from onnxprune.files.model import Model, expect_model
from onnxprune.files.tensors import Tensor, same
from onnxprune.graph.blocks import tabulate
from onnxprune.graph.constants import fold_constants
from onnxprune.graph.order import sort_nodes

_T = onnx.TensorProto
_WIDE_INTEGERS = frozenset({_T.BOOL, _T.INT16, _T.UINT16, _T.INT32, _T.UINT32, _T.INT64, _T.UINT64})
"""Shapes, indices and masks. Narrower integers of rank 2 and more are quantised weights: shared on purpose."""


def normalize(model: Model) -> Model:
    """The same computation in the form that analysis expects."""
    expect_model(model, "normalize")
    proto = _inlined(model.proto)
    graph = proto.graph
    weights = dict(model.weights)
    for each in graphs(graph):
        del each.value_info[:]
        for node in each.node:
            if node.domain == "ai.onnx":
                node.domain = ""
    _lift_constants(graph, weights)
    inputs = _drop_default_inputs(graph, weights)
    if proto.ir_version < 4:  # every initializer had to be an input, which nobody fed
        inputs = ()
    proto.ir_version = max(proto.ir_version, 4)
    _name_nodes(graph)
    sort_nodes(graph, weights)
    fold_constants(graph, weights, model.opset)
    kept = _held(proto)
    _clone_shared(graph, weights, kept)
    tabulate(graph, weights)
    used = kept.union(*(node.input for node in graph.node))
    weights = {name: weight for name, weight in weights.items() if name in used}
    return model.replace(proto=proto, weights=weights, inputs=model.inputs or inputs)


def restore(model: Model) -> Model:
    """The form in which a model is written: equal clones are one again, and default values are inputs."""
    model = merge_clones(model)
    if not model.inputs:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.input[:]
    fed = {value.name: value for value in model.graph.input}
    for value in model.inputs:
        proto.graph.input.append(fed.get(value.name, value))
        weight = model.weights.get(value.name)
        if weight is not None:
            dims = proto.graph.input[-1].type.tensor_type.shape.dim
            for dim, size in zip(dims, weight.shape, strict=False):  # a shape may be left out
                if dim.HasField("dim_value"):
                    dim.dim_value = size  # what was cut is shorter now; a free length stays free
        elif value.name not in fed:
            del proto.graph.input[-1]  # nothing reads it any more
    return model.replace(proto=proto, inputs=())


def merge_clones(model: Model) -> Model:
    """Put back together what `normalize` took apart, where both still hold the same bits."""
    weights = dict(model.weights)
    renamed: dict[tuple[str, int], str] = {}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            base = name.removesuffix(_suffix(node, position))
            if base != name and base in weights and name in weights and same(weights[base], weights[name]):
                renamed[node.name, position] = base
                del weights[name]
    if not renamed:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for node in proto.graph.node:
        for position in range(len(node.input)):
            node.input[position] = renamed.get((node.name, position), node.input[position])
    return model.replace(proto=proto, weights=weights)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """This graph and all graphs inside it."""
    todo = [graph]
    while todo:
        found = todo.pop()
        yield found
        for node in found.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    todo.append(attribute.g)
                todo.extend(attribute.graphs)


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    if not proto.functions:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        return copy
    from onnx import inliner

    inlined = proto
    for convert in (False, True):  # a function may be written for another opset than its caller
        try:
            inlined = inliner.inline_local_functions(inlined, convert)
        except Exception:  # noqa: BLE001  the C++ side raises whatever it likes; a call that stays is an operator without rule
            break
        if not inlined.functions:
            return inlined
    copy = onnx.ModelProto()
    copy.CopyFrom(inlined)
    return copy


def _lift_constants(graph: onnx.GraphProto, weights: dict[str, Tensor]) -> None:
    stay = []
    for node in graph.node:
        weight = constant_of(node) if node.op_type == "Constant" and not node.domain else None
        if weight is None:
            stay.append(node)
        elif weight.name in weights:
            raise InvalidModel(
                f"the model is not valid: {weight.name!r} is both an initializer and the output of a Constant node"
            )
        else:
            weights[weight.name] = weight
    if len(stay) < len(graph.node):
        _set_nodes(graph, stay)


def constant_of(node: onnx.NodeProto) -> Tensor | None:
    """The value of a Constant node; None where it holds no dense tensor."""
    if len(node.attribute) != 1 or len(node.output) != 1:
        return None
    value = node.attribute[0]
    name = node.output[0]
    match value.name:
        case "value":
            return Tensor.of_proto(value.t).rename(name)
        case "value_float":
            return Tensor.of(name, np.float32(value.f))
        case "value_floats":
            return Tensor.of(name, np.array(value.floats, np.float32))
        case "value_int":
            return Tensor.of(name, np.int64(value.i))
        case "value_ints":
            return Tensor.of(name, np.array(value.ints, np.int64))
    return None


def _drop_default_inputs(graph: onnx.GraphProto, weights: dict[str, Tensor]) -> tuple[onnx.ValueInfoProto, ...]:
    """Leave only what must be fed; the inputs as they were, where that made a difference."""
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in graph.input]
    del graph.input[:]
    graph.input.extend(value for value in copies if value.name not in weights)
    return tuple(copies) if len(graph.input) < len(copies) else ()


def _set_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    rest = onnx.GraphProto()
    rest.node.extend(nodes)
    del graph.node[:]
    graph.node.extend(rest.node)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Unnamed nodes are called after their first output, the later of equally named ones get it appended."""
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    for node in graph.node:
        if not node.name or node.name in seen:
            output = next(filter(None, node.output), "")
            name = base = f"{node.name or node.op_type}_{output}"
            count = 1
            while name in taken:
                count += 1
                name = f"{base}_{count}"
            node.name = name
            taken.add(name)
        seen.add(node.name)


def _held(proto: onnx.ModelProto) -> frozenset[str]:
    """Names that something other than a node's input refers to: they keep one name and are never dropped."""
    names = {value.name for value in proto.graph.output}
    inner = [each for each in graphs(proto.graph) if each is not proto.graph]
    for training in proto.training_info:
        inner += [*graphs(training.initialization), *graphs(training.algorithm)]
        for binding in (*training.initialization_binding, *training.update_binding):
            names |= {binding.key, binding.value}
    for graph in inner:
        names.update(value.name for value in graph.output)
        for node in graph.node:
            names.update(node.input)
    for annotation in proto.graph.quantization_annotation:
        names.add(annotation.tensor_name)
        names.update(item.value for item in annotation.quant_parameter_tensor_names)
    return frozenset(names)


def _clone_shared(graph: onnx.GraphProto, weights: dict[str, Tensor], kept: frozenset[str]) -> None:
    count = Counter(name for node in graph.node for name in node.input)
    shared = {name for name, weight in weights.items() if count[name] > 1 and name not in kept and _incidental(weight)}
    taken = set(weights).union(*(node.output for node in graph.node), (value.name for value in graph.input))
    first = set(shared)
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name not in shared:
                continue
            if name in first:
                first.remove(name)
                continue
            clone = name + _suffix(node, position)
            if clone in taken:
                continue  # someone else's name: sharing costs some pruning, never correctness
            taken.add(clone)
            weights[clone] = weights[name].rename(clone)
            node.input[position] = clone


def _suffix(node: onnx.NodeProto, position: int) -> str:
    return f"::{node.name}:{position}"


def _incidental(weight: Tensor) -> bool:
    """Whether it may be shared only because the values are equal."""
    flat = sum(size != 1 for size in weight.shape) <= 1
    return weight.dtype in _WIDE_INTEGERS or (flat and weight.dtype != _T.STRING)
