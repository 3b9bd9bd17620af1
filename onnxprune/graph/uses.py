"""What the readers of a graph input say about it.

A reader fixes what the declared type leaves open: `Conv(x, w)` can only run if axis 1 of `x` has `w.shape[1] * group`
entries, `Gather(table, x)` only if every entry of `x` is below the length of the table. The facts are followed back
through the nodes between input and reader, as long as each axis of the value is still one axis of the input:

    image [N, H, W, C] -Transpose(0, 3, 1, 2)-> [N, C, H, W] -Conv, w [64, 3, 7, 7]->      so C = 3
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

from onnx import NodeProto

from onnxprune.files.model import Model
from onnxprune.graph.attributes import attribute

_SAME_AXES = {"Cast", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear", "Clip", "Relu"}
_ARITHMETIC = {"Add", "Sub", "Mul", "Div"}
_SAME_ENTRIES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Slice", "Split", "Concat", "Tile", "Pad"}
_RECURRENT = {"LSTM", "GRU", "RNN"}
Axes = tuple[int, ...] | Literal["own", "lost"]
"""For each axis of a value the axis of the input that it is; `own`: they are the input's, their number is not known;
`lost`: only entries can be followed."""
_MAX_VALUES = 64
"""A walk that has not met a reader after so many values will not learn anything useful from the next one."""


@dataclass
class Uses:
    """What is known of one input; filled while walking, read-only afterwards."""

    axes: dict[int, int] = field(default_factory=dict)
    """Axis (negative: counted from the end of an input of unknown rank) to the only length it can have."""
    rank: int | None = None
    below: int | None = None
    """Entries are indices into a table of this length."""
    is_length: bool = False
    """Entries are sequence lengths of a recurrent node."""


class Readers:
    """The consumers of every value and the shapes of the weights, indexed once for all inputs."""

    def __init__(self, model: Model) -> None:
        self._weights = {name: tensor.shape for name, tensor in model.weights.items()}
        self._consumers: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
        self._producer: dict[str, NodeProto] = {}
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                self._consumers[name].append((node, index))
            for name in node.output:
                self._producer[name] = node

    def uses(self, name: str, rank: int | None, *, integer: bool) -> Uses:
        """Walk from the input called `name` towards its readers."""
        found = Uses(rank=rank)
        frontier: list[tuple[str, Axes]] = [(name, "own" if rank is None else tuple(range(rank)))]
        seen = {name}
        while frontier and len(seen) < _MAX_VALUES:
            value, axes = frontier.pop(0)
            for node, index in self._consumers.get(value, ()):
                self._read(found, node, index, axes)
                onward = self._onward(node, index, axes, integer)
                if onward is not None and node.output[0] not in seen:
                    seen.add(node.output[0])
                    frontier.append((node.output[0], onward))
        return found

    def _read(self, found: Uses, node: NodeProto, index: int, axes: Axes) -> None:
        table = self._table(node, index)
        if table is not None:
            found.below = table if found.below is None else min(found.below, table)
        if node.op_type in _RECURRENT and index == 4:
            found.is_length = True
        if node.op_type == "Transpose" and axes == "own" and found.rank is None:
            found.rank = len(_perm(node)) or None
        fact = self._fact(node, index)
        if fact is None or axes == "lost":
            return
        axis, length, rank = fact
        if axes == "own":
            found.rank = found.rank or rank
            found.axes.setdefault(axis, length)
        elif -len(axes) <= axis < len(axes):
            found.axes.setdefault(axes[axis], length)

    def _fact(self, node: NodeProto, index: int) -> tuple[int, int, int | None] | None:
        """(axis, its length, rank of the value or None) where this reader fixes one."""
        shapes = [self._shape(name) for name in node.input]
        w = shapes[1] if len(shapes) > 1 else None
        match node.op_type, index:
            case "Conv", 0 if w:
                return 1, w[1] * int(attribute(node, "group", 1)), len(w)
            case "ConvTranspose", 0 if w:
                return 1, w[0], len(w)
            case "BatchNormalization", 0 if w:
                return 1, w[0], None
            case "LayerNormalization", 0 if w and len(w) == 1:
                return -1, w[0], None
            case "Gemm", 0 if w:
                return 1 - int(attribute(node, "transA", 0)), w[attribute(node, "transB", 0)], 2
            case "MatMul", 0 if w and len(w) > 1:
                return -1, w[-2], None
            case (("LSTM" | "GRU" | "RNN"), 0) if w:
                return 2, w[2], 3
        return None

    def _table(self, node: NodeProto, index: int) -> int | None:
        """Length of the table that this input of the node indexes."""
        if node.op_type == "Gather" and index == 1:
            shape = self._shape(node.input[0])
            return shape[attribute(node, "axis", 0)] if shape else None
        if node.op_type == "EmbedLayerNormalization" and index < 2:
            shape = self._shape(node.input[2 if index == 0 else 4])
            return shape[0] if shape else None
        return None

    def _shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a weight, also where it reaches its reader through a cast, a dequantisation or a transposition."""
        perms = []
        while name not in self._weights:
            node = self._producer.get(name)
            if node is None or not (node.op_type in _SAME_AXES or node.op_type == "Transpose"):
                return None
            if node.op_type == "Transpose":
                perms.append(_perm(node))
            name = node.input[0]
        shape = self._weights[name]
        for perm in reversed(perms):
            shape = tuple(shape[i] for i in perm) if perm else shape[::-1]
        return shape

    def _onward(self, node: NodeProto, index: int, axes: Axes, integer: bool) -> Axes | None:
        """The input's axes as they lie in the node's first output; None where its entries do not get there."""
        if node.op_type in _SAME_AXES and index == 0:
            return axes
        if node.op_type in _ARITHMETIC and not integer:
            # integers stop here: an offset would make "below the table's length" wrong
            other = self._shape(node.input[1 - index])
            return axes if other is not None and (isinstance(axes, str) or len(other) <= len(axes)) else None
        if node.op_type == "Transpose":
            perm = _perm(node)
            if isinstance(axes, str):
                return perm if perm and axes == "own" else "lost"
            return tuple(axes[i] for i in perm) if len(perm) == len(axes) else axes[::-1]
        if node.op_type in _SAME_ENTRIES and (index == 0 or node.op_type == "Concat"):
            return "lost"
        return None


def _perm(node: NodeProto) -> tuple[int, ...]:
    """Empty where the axes are reversed."""
    return tuple(attribute(node, "perm", ()))
