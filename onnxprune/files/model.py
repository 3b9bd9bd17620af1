"""A model is a graph without its weights, and its weights by name; neither is ever changed in place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from onnxprune.errors import UserError
from onnxprune.files.tensors import Tensor
from onnxprune.text.shown import Shown


@dataclass(frozen=True, eq=False)
class Model(Shown):
    """What `load` returns and `save` writes."""

    proto: onnx.ModelProto
    """Everything but the dense initializers of the main graph: `proto.graph.initializer` is always empty."""
    weights: Mapping[str, Tensor]
    """Every dense initializer of the main graph, in file order."""
    path: Path | None = None
    """The file it came from."""
    external: bool = False
    """Whether weights lay beside the model file, so that they are written beside it again."""
    files: frozenset[Path] = frozenset()
    """Every file that it is read from, links resolved."""

    inputs: tuple[onnx.ValueInfoProto, ...] = ()
    """The inputs as the file has them, kept by `normalize` where it takes away those that have a default value."""

    @property
    def graph(self) -> onnx.GraphProto:
        """The main graph."""
        return self.proto.graph

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(weight.nbytes for weight in self.weights.values())

    @property
    def opset(self) -> int:
        """Version of the default operator set; 0 where the model does not import it."""
        versions = [item.version for item in self.proto.opset_import if item.domain in ("", "ai.onnx")]
        return max(versions, default=0)

    def replace(self, **changes: Any) -> Model:
        """A copy with these fields changed."""
        return dataclasses.replace(self, **changes)


def expect_model(thing: object, function: str) -> None:
    """The commonest mistake: a path, or onnx's own ModelProto, where a `Model` belongs."""
    if not isinstance(thing, Model):
        raise UserError(f"{function} takes the Model that onnxprune.load(path) returns, not {type(thing).__name__}")
