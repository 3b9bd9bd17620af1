"""Vectors that an exporter merged because they happened to be equal train apart.

    a.bias -> norm a                          a.bias -> norm a
    a.bias -> Identity -> b.bias -> norm b    b.bias -> norm b        (`retied` puts back what is equal in the end)

`normalize` does so for one initializer with several readers; this is for the exporters that write it as an `Identity`,
whose output then bears the second one's name. Matrices that are read through an `Identity` are shared on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from onnxprune.files.model import Model
from onnxprune.files.tensors import same
from onnxprune.graph.attributes import subgraphs
from onnxprune.graph.order import captured

_FLOATS = frozenset([1, 10, 11, 16])


def untied(model: Model) -> Model:
    """Every flat weight behind an `Identity` as a weight of its own."""
    return _without(model, _copies(model), model)


def retied(model: Model, original: Model) -> Model:
    """The model with those copies as `Identity` again that are equal after all."""
    copies = _copies(original)
    apart = [
        copy
        for copy in copies
        if copy.output[0] in model.weights
        and not same(
            model.weights.get(copy.input[0], original.weights[copy.input[0]]),
            model.weights[copy.output[0]].rename(copy.input[0]),
        )
    ]
    return _without(original, apart, model)


def _copies(model: Model) -> list[onnx.NodeProto]:
    outputs = {value.name for value in model.graph.output}
    return [
        node
        for node in model.graph.node
        if node.op_type == "Identity"
        and not node.domain
        and node.input[0] in model.weights
        and model.weights[node.input[0]].dtype in _FLOATS
        and sum(size != 1 for size in model.weights[node.input[0]].shape) == 1
        and node.output[0] not in outputs
    ]


def _without(model: Model, gone: list[onnx.NodeProto], values: Model) -> Model:
    """The graph of one without these nodes, with the weights of the other."""
    weights = {name: values.weights.get(name, weight) for name, weight in model.weights.items()}
    if not gone:
        return model.replace(weights=weights)
    names = {node.output[0] for node in gone}
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    kept = [node for node in proto.graph.node if not names.intersection(node.output)]
    rest = onnx.GraphProto(node=kept)
    del proto.graph.node[:]
    proto.graph.node.extend(rest.node)
    for node in gone:
        copy = values.weights.get(node.output[0], weights[node.input[0]])
        weights[node.output[0]] = copy.rename(node.output[0])
    read = {name for node in proto.graph.node for name in node.input} | set(captured_by(proto.graph))
    unread = {node.input[0] for node in gone} - read
    return model.replace(proto=proto, weights={name: w for name, w in weights.items() if name not in unread})


def captured_by(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that bodies inside read."""
    for node in graph.node:
        for body in subgraphs(node):
            yield from captured(body)
