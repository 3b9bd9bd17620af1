"""Who reads what, subgraphs and the outside included: only what nobody else reads may be changed for one reader."""

from __future__ import annotations

import math
from collections import Counter

import onnx

from onnxprune.execution.walk import reads
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor

_FLOAT = onnx.TensorProto.FLOAT


class Consumers:
    """Of every tensor of a model."""

    def __init__(self, model: Model) -> None:
        self.weights = model.weights
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        """Nodes that name it among their inputs."""
        self.count = Counter(item.name for item in model.graph.output)
        """Reads of any kind; being an output is one."""
        for node in model.graph.node:
            self.count.update(reads(node))
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def own(self, name: str) -> Tensor | None:
        """A float32 weight with one use."""
        tensor = self.weights.get(name)
        return tensor if tensor is not None and tensor.dtype == _FLOAT and self.count[name] == 1 else None

    def vector(self, name: str, length: int, behind: int, rank: int) -> bool:
        """Whether it is an own weight along one axis: that with so many axes behind it, of at most `rank`."""
        tensor = self.own(name)
        if tensor is None or not behind < len(tensor.shape) <= rank:
            return False
        return math.prod(tensor.shape) == length == tensor.shape[-1 - behind]

    def only(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor, where nothing else does."""
        found = self.readers.get(name, [])
        return found[0] if len(found) == 1 and self.count[name] == 1 else None
