"""What a model would cost if so many units of each group went, without cutting it.

Every slot loses (units gone) x (positions per unit), so the shape of every tensor after a cut is known, and the
formulas that count a model count it on those shapes. Only what a group touches is counted anew.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.analysis.coupling import Coupling, Indices
from onnxprune.counting.cost import concrete, content, is_param
from onnxprune.counting.macs import macs
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor, item_bits
from onnxprune.graph.dims import Dims

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
                shape = self.shapes.get(slot.tensor, ())
                if slot.axis < len(shape):
                    # of a period, the factor's own length counts: a head is one of every so many positions
                    repeats = shape[slot.axis] / slot.size if slot.role == "period" else 1.0
                    entry = (slot.axis, group.name, repeats * len(slot.positions) / group.size)
                    self._per_unit.setdefault(slot.tensor, []).append(entry)
        stored: dict[object, Tensor] = {}
        for weight in model.weights.values():
            stored.setdefault((content(weight), tuple(self._per_unit.get(weight.name, ()))), weight)
        self.weights = {weight.name: weight for weight in stored.values()}
        """What is stored once and cut alike stands here once."""
        nodes = [(node, macs(node, self.shapes) or 0) for node in model.graph.node]
        self._moving = [node for node, work in nodes if work and self._touched(node)]
        self._still = sum(work for node, work in nodes if not self._touched(node))
        self._live = _Lifetimes(model, self.shapes)

    def _touched(self, node: onnx.NodeProto) -> bool:
        return any(name in self._per_unit for name in (*node.input, *node.output))

    def after(self, removed: Mapping[str, int]) -> dict[str, Shape]:
        """Shapes of all tensors once so many units of each group are gone."""
        return self.shapes | {name: self._shape(name, removed) for name in self._per_unit}

    def _shape(self, name: str, removed: Mapping[str, int]) -> Shape:
        sizes = list(self.shapes[name])
        for axis, group, per_unit in self._per_unit[name]:
            sizes[axis] -= round(removed.get(group, 0) * per_unit)
        return tuple(sizes)

    def random_counts(self, rng: np.random.Generator) -> dict[str, int]:
        """Some units of every group, not all."""
        return {name: int(rng.integers(0, size)) for name, size in self._sizes.items()}

    def usage(self, removed: Mapping[str, int]) -> Usage:
        """Everything countable at these widths."""
        shapes = self.after(removed)
        work = self._still + sum(macs(node, shapes) or 0 for node in self._moving)
        params, nbytes = _held(self.weights.values(), shapes)
        return Usage(work, params, nbytes, nbytes + self._live.peak(self._live.sizes(shapes)))

    def without_each(self, removed: Mapping[str, int]) -> Iterator[tuple[str, Usage]]:
        """The same with each group gone entirely, one at a time; only what that group touches is counted anew."""
        shapes = self.after(removed)
        whole, alive = self.usage(removed), self._live.sizes(shapes)
        tensors: dict[str, list[str]] = {name: [] for name in self._sizes}
        for tensor, entries in self._per_unit.items():
            for group in dict.fromkeys(group for _, group, _ in entries):
                tensors[group].append(tensor)
        readers: dict[str, dict[int, onnx.NodeProto]] = {}
        for index, node in enumerate(self._moving):
            for tensor in (*node.input, *node.output):
                readers.setdefault(tensor, {})[index] = node
        for group, size in self._sizes.items():
            gone = {**removed, group: size}
            less = ChainMap({tensor: self._shape(tensor, gone) for tensor in tensors[group]}, shapes)
            nodes = {index: node for tensor in tensors[group] for index, node in readers.get(tensor, {}).items()}
            work = sum((macs(node, less) or 0) - (macs(node, shapes) or 0) for node in nodes.values())
            weights = [self.weights[tensor] for tensor in tensors[group] if tensor in self.weights]
            (params, nbytes), (some, some_bytes) = _held(weights, less), _held(weights, shapes)
            left = alive.copy()
            self._live.update(left, less, tensors[group])
            nbytes += whole.bytes - some_bytes
            usage = Usage(whole.macs + work, whole.params + params - some, nbytes, nbytes + self._live.peak(left))
            yield group, usage


def _held(weights: Iterable[Tensor], shapes: Mapping[str, Shape]) -> tuple[int, int]:
    """Parameters and bytes of these weights."""
    params = nbytes = 0
    for weight in weights:
        count = math.prod(shapes[weight.name])
        params += count if is_param(weight.dtype, weight.shape) else 0
        nbytes += math.ceil(count * item_bits(weight.dtype) / 8)
    return params, nbytes


class _Lifetimes:
    """When each activation is made and last read, in steps of the graph's own order."""

    def __init__(self, model: Model, shapes: Mapping[str, Shape]) -> None:
        nodes = model.graph.node
        last = {name: i for i, node in enumerate(nodes) for name in node.input}
        last |= {item.name: len(nodes) - 1 for item in model.graph.output}
        made = {item.name: 0 for item in model.graph.input}
        made |= {name: i for i, node in enumerate(nodes) for name in node.output if name}
        self.places = {name: place for place, name in enumerate(name for name in made if name in shapes)}
        self.start = np.array([made[name] for name in self.places], np.int64)
        self.end = np.array([max(made[name], last.get(name, 0)) for name in self.places], np.int64)
        # nearly all activations are float32; the few that are not weigh little
        self.width, self.steps = _width(model), len(nodes)

    def sizes(self, shapes: Mapping[str, Shape]) -> Indices:
        """Bytes of every activation."""
        found = np.zeros(len(self.places), np.int64)
        self.update(found, shapes, self.places)
        return found

    def update(self, sizes: Indices, shapes: Mapping[str, Shape], tensors: Iterable[str]) -> None:
        """The same again for some of them."""
        for name in tensors:
            if name in self.places:
                sizes[self.places[name]] = math.ceil(math.prod(shapes[name]) * self.width)

    def peak(self, sizes: Indices) -> int:
        """Bytes that are alive at the worst moment."""
        change = np.zeros(self.steps + 2, np.int64)
        np.add.at(change, self.start, sizes)
        np.subtract.at(change, self.end + 1, sizes)
        return int(np.cumsum(change).max(initial=0))


def _width(model: Model) -> float:
    kinds = [item.type.tensor_type.elem_type for item in model.graph.input]
    floats = {onnx.TensorProto.FLOAT16: 2.0, onnx.TensorProto.BFLOAT16: 2.0, onnx.TensorProto.DOUBLE: 8.0}
    return next((floats[kind] for kind in kinds if kind in floats), 4.0)
