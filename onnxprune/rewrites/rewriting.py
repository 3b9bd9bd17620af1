"""What rewritings of the graph have in common that change nothing of what a model computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from onnxprune.execution.walk import reads
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor


@dataclass(frozen=True, eq=False)
class Rewritten:
    """A model that computes what it did before, in another form."""

    model: Model
    done: tuple[str, ...]
    """The nodes that were rewritten, in graph order."""
    left: Mapping[str, str]
    """The nodes that stay as they are, in graph order, and why."""


class Names:
    """Names that nothing in a model has yet."""

    def __init__(self, model: Model) -> None:
        self._taken = {*model.weights, *(item.name for item in model.graph.input)}
        self._taken |= {name for node in model.graph.node for name in (node.name, *node.output, *reads(node))}

    def fresh(self, name: str) -> str:
        """This one, or one like it."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def rewritten(model: Model, nodes: Iterable[onnx.NodeProto], weights: Mapping[str, Tensor]) -> Model:
    """The model with these nodes, and those of the weights that they read."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    used = {name for node in proto.graph.node for name in reads(node)} | {item.name for item in proto.graph.output}
    return model.replace(proto=proto, weights={name: weight for name, weight in weights.items() if name in used})
