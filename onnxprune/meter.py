"""What a model would cost if so many units of each group went, without cutting it.

Every slot loses (units gone) x (positions per unit), so the shape of every tensor after a cut is known, and the
formulas that count a model count it on those shapes. Only what a group touches is counted anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.cost import concrete, is_param
from onnxprune.coupling import Coupling
from onnxprune.dims import Dims
from onnxprune.macs import macs
from onnxprune.model import Model
from onnxprune.tensors import item_bits

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Usage:
    """The cost of one run."""

    macs: int
    params: int
    bytes: int
    """Of the weights."""
    peak_memory: int
    """Weights, and the activations that are alive at the worst moment. What the runtime adds is not in it."""


class Meter:
    """Counts one model at any width of its groups."""

    def __init__(self, model: Model, coupling: Coupling, dims: Dims | None = None) -> None:
        self.shapes, self.dims = concrete(model, dims)
        self._sizes = {group.name: group.size for group in coupling.groups}
        self._per_unit: dict[str, list[tuple[int, str, float]]] = {}
        for group in coupling.groups:
            for slot in group.slots:
                if slot.role != "period":
                    entry = (slot.axis, group.name, len(slot.positions) / group.size)
                    self._per_unit.setdefault(slot.tensor, []).append(entry)
        self._weights = [(w.name, is_param(w.dtype, w.shape), item_bits(w.dtype) / 8) for w in model.weights.values()]
        self._nodes = [node for node in model.graph.node if macs(node, self.shapes)]
        self._moving = [node for node in self._nodes if self._touches(node)]
        still = {id(node) for node in self._moving}
        self._still = sum(macs(node, self.shapes) or 0 for node in self._nodes if id(node) not in still)
        self._live = _lifetimes(model, self.shapes)

    def _touches(self, node: onnx.NodeProto) -> bool:
        return any(name in self._per_unit for name in (*node.input, *node.output))

    def after(self, removed: Mapping[str, int]) -> dict[str, Shape]:
        """Shapes of all tensors once so many units of each group are gone."""
        shapes = dict(self.shapes)
        for name, entries in self._per_unit.items():
            shape = shapes.get(name)
            if shape is None:
                continue
            sizes = list(shape)
            for axis, group, per_unit in entries:
                sizes[axis] -= round(removed.get(group, 0) * per_unit)
            shapes[name] = tuple(sizes)
        return shapes

    def random_counts(self, rng: np.random.Generator) -> dict[str, int]:
        """Some units of every group, not all."""
        return {name: int(rng.integers(0, size)) for name, size in self._sizes.items()}

    def usage(self, removed: Mapping[str, int]) -> Usage:
        """Everything countable at these widths."""
        shapes = self.after(removed)
        work = self._still + sum(macs(node, shapes) or 0 for node in self._moving)
        params = nbytes = 0
        for name, learned, width in self._weights:
            count = math.prod(shapes[name])
            params += count if learned else 0
            nbytes += math.ceil(count * width)
        return Usage(work, params, nbytes, nbytes + self._peak(shapes))

    def _peak(self, shapes: Mapping[str, Shape]) -> int:
        change = np.zeros(self._live.steps + 1, np.int64)
        for name, (start, end) in self._live.spans.items():
            size = math.ceil(math.prod(shapes[name]) * self._live.widths[name])
            change[start] += size
            change[end + 1] -= size
        return int(np.cumsum(change).max(initial=0))


@dataclass(frozen=True)
class _Lifetimes:
    """When each activation is made and last read, in steps of the graph's own order."""

    steps: int
    spans: Mapping[str, tuple[int, int]]
    widths: Mapping[str, float]


def _lifetimes(model: Model, shapes: Mapping[str, Shape]) -> _Lifetimes:
    nodes = model.graph.node
    last = {name: i for i, node in enumerate(nodes) for name in node.input}
    last |= {item.name: len(nodes) - 1 for item in model.graph.output}
    made = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    made |= {item.name: 0 for item in model.graph.input}
    spans = {name: (start, max(start, last.get(name, start))) for name, start in made.items() if name in shapes}
    # nearly all activations are float32; the few that are not weigh little
    return _Lifetimes(len(nodes), spans, dict.fromkeys(spans, _width(model)))


def _width(model: Model) -> float:
    kinds = [item.type.tensor_type.elem_type for item in model.graph.input]
    floats = {onnx.TensorProto.FLOAT16: 2.0, onnx.TensorProto.BFLOAT16: 2.0, onnx.TensorProto.DOUBLE: 8.0}
    return next((floats[kind] for kind in kinds if kind in floats), 4.0)
