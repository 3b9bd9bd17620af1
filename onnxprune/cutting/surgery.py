"""The model under a plan: sizes before and after the cut, and the constants that hold them.

A size may be an attribute, a constant input, or the end of shape arithmetic. Where the arithmetic yields the new size
by itself nothing is touched; a constant is rewritten; and where computed and stored parts are mixed, the stored ones
are laid over the computed ones (`Where`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnxprune.analysis.coupling import Indices
from onnxprune.cutting.plan import PERIOD, Plan
from onnxprune.errors import WrongPlan
from onnxprune.files.tensors import Tensor
from onnxprune.graph.contents import Content, constant, evaluate, sizes_of
from onnxprune.graph.sizes import Size

Dims = Sequence[int | str | None]
READABLE = 1 << 20


@dataclass(eq=False)
class Surgery:
    """The model while a plan is applied to it: sizes before and after, and the constants being rewritten."""

    plan: Plan
    shapes: Mapping[str, Dims | None]
    originals: Mapping[str, Tensor]
    weights: dict[str, Tensor]
    opset: int
    users: Mapping[str, int]
    """How often each name is read, by nodes, by bodies, and as an output."""
    taken: set[str]
    """Names of values and nodes."""
    current: onnx.NodeProto = field(default_factory=onnx.NodeProto)
    pending: list[onnx.NodeProto] = field(default_factory=list)
    """Nodes to insert before the current one."""
    following: list[onnx.NodeProto] = field(default_factory=list)
    """Nodes to insert behind it."""
    old: dict[str, Content] = field(default_factory=dict)
    new: dict[str, Content] = field(default_factory=dict)
    """What computed integer tensors hold before and after the cut."""

    def __post_init__(self) -> None:
        self.removed, self.periods = self.plan.removed(), self.plan.periods()
        slots = [slot for cut in self.plan.cuts for slot in cut.slots if slot.role != PERIOD]
        self._sizes = {(slot.tensor, slot.axis): slot.size for slot in slots}
        self._cut = {tensor for tensor, _ in (*self.removed, *self.periods)}

    def touches(self, node: onnx.NodeProto) -> bool:
        """A tensor of the node shrinks, or one of its sizes is computed (and may have changed)."""
        return any(name in self._cut or name in self.new for name in (*node.input, *node.output))

    def before(self, name: str, rank: int | None = None) -> Dims | None:
        """The shape as inferred, completed from the plan; `rank` helps where inference knows nothing."""
        dims = self.shapes.get(name)
        if dims is None:
            if rank is None:
                return None
            dims = [None] * rank
        return [self._sizes.get((name, i), n) for i, n in enumerate(dims)]

    def after(self, name: str, rank: int | None = None) -> list[int | str | None] | None:
        dims = self.before(name, rank)
        if dims is None:
            return None
        return [n - len(self.lost(name, i)) if isinstance(n, int) else n for i, n in enumerate(dims)]

    def goal(self, name: str, old: Sequence[Size] | None, rank: int) -> list[Size]:
        """The shape a value should have after the cut: as planned, else as inferred, else as its target said before."""
        dims = self.after(name, rank) or [None] * rank
        told = old if old is not None and len(old) == rank else [None] * rank
        stays = [isinstance(n, int) and n > 0 and (name, i) not in self.periods for i, n in enumerate(told)]
        return [n if isinstance(n, int) or not stays[i] else told[i] for i, n in enumerate(dims)]

    def follow(self, node: onnx.NodeProto) -> None:
        """Carry shape arithmetic over a node, on the old sizes and on the new."""
        first = node.input[0] if node.input else ""
        for contents, weights, shape in (
            (self.old, self.originals, self.before(first)),
            (self.new, self.weights, self.after(first)),
        ):
            inputs = [_content(name, weights, contents) for name in node.input]
            for name, content in zip(node.output, evaluate(node, inputs, shape) or (), strict=False):
                contents[name] = content

    def sizes(self, index: int, *, old: bool = False) -> list[Size] | None:
        """The entries of an integer input of the current node, as they will be or as they were."""
        if len(self.current.input) <= index:
            return None
        contents, weights = (self.old, self.originals) if old else (self.new, self.weights)
        content = _content(self.current.input[index], weights, contents)
        return None if content is None else sizes_of(content)

    def lost(self, name: str, axis: int) -> Indices:
        """Positions that the axis loses."""
        return self.removed.get((name, axis), np.zeros(0, np.int64))

    def length(self, name: str, axis: int) -> int:
        """A length after the cut that has to be known."""
        dims = self.after(name, axis + 1)
        size = dims[axis] if dims else None
        if not isinstance(size, int):
            raise WrongPlan(
                f"cannot apply the plan: axis {axis} of {name!r} has no known length (node {self.current.name!r})"
            )
        return size

    def rank_after(self, name: str, axis: int, positions: Sequence[int] | Indices) -> list[int]:
        """Where positions of the old axis stand on the new one (a removed one: where the next kept one stands)."""
        return [int(p) - int(np.searchsorted(self.lost(name, axis), p)) for p in positions]

    def put(self, index: int, values: np.ndarray) -> None:
        """Give the current node a constant at this input: the initializer it has, or a new one."""
        node = self.current
        while len(node.input) <= index:
            node.input.append("")
        name = node.input[index]
        if name not in self.weights or self.users[name] > 1:
            name = node.input[index] = self.unique(f"{node.name}:{index}:sizes")
        self.weights[name] = Tensor.of(name, values)

    def unique(self, name: str) -> str:
        """A name that nothing has yet; a model may have been pruned before."""
        found, count = name, 1
        while found in self.taken:
            count += 1
            found = f"{name}~{count}"
        self.taken.add(found)
        return found

    def axis(self, name: str, axis: int) -> int:
        """A position of an axis, counted from the front."""
        if axis >= 0:
            return axis
        dims = self.before(name)
        if dims is None:
            raise WrongPlan(f"cannot apply the plan: the rank of {name!r} is not known (node {self.current.name!r})")
        return axis + len(dims)

    def settle(self, index: int, wanted: Sequence[int | None]) -> None:
        """See that the integer input `index` holds `wanted` at run time; None means: as it comes.

        The entries of constants are compared with what is wanted; computed ones with what they will be.
        """
        name = self.current.input[index]
        found = self.sizes(index) or [None] * len(wanted)
        wrong = [
            i for i, (have, want) in enumerate(zip(found, wanted, strict=True)) if want is not None and have != want
        ]
        if not wrong:
            return
        mixed = [want if i in wrong else have for i, (have, want) in enumerate(zip(found, wanted, strict=True))]
        if name in self.weights or all(isinstance(size, int) for size in mixed):
            dtype = self.weights[name].array().dtype if name in self.weights else np.int64
            self.put(index, np.array(mixed, dtype))
        else:
            self._overlay(index, wrong, wanted)

    def scale(self, index: int, ratios: Mapping[int, tuple[int, int]], size: int) -> None:
        """Multiply entries of a computed input: batch * 12 heads becomes batch * 6."""
        if ratios:
            nodes, made = self._multiplied(f"{self.current.name}:{index}", self.current.input[index], ratios, size)
            self.pending.extend(nodes)
            self.current.input[index] = made

    def restore(self, ratios: Mapping[int, tuple[int, int]], size: int) -> None:
        """Give the current node's output, of `size` entries, the lengths that it had before the cut."""
        if not ratios:
            return
        name = self.current.output[0]
        self.current.output[0] = self.unique(f"{name}:cut")
        inverse = {i: (of, kept) for i, (kept, of) in ratios.items()}
        nodes, _ = self._multiplied(name, self.current.output[0], inverse, size)
        nodes[-1].output[0] = name
        self.following.extend(nodes)

    def _multiplied(
        self, stem: str, name: str, ratios: Mapping[int, tuple[int, int]], size: int
    ) -> tuple[list[onnx.NodeProto], str]:
        nodes = []
        for op, part in (("Mul", 0), ("Div", 1)):
            factors = self._constant(f"{stem}:{op}", [ratios.get(i, (1, 1))[part] for i in range(size)])
            made = self.unique(f"{stem}:{op}:scaled")
            nodes.append(onnx.helper.make_node(op, [name, factors], [made], name=self.unique(f"{stem}:{op}:node")))
            name = made
        return nodes, name

    def _overlay(self, index: int, wrong: list[int], wanted: Sequence[int | None]) -> None:
        stem = f"{self.current.name}:{index}"
        which = self._constant(f"{stem}:which", [i in wrong for i in range(len(wanted))], bool)
        values = self._constant(f"{stem}:values", [want or 0 if i in wrong else 0 for i, want in enumerate(wanted)])
        made = self.unique(f"{stem}:settled")
        inputs = [which, values, self.current.input[index]]
        self.pending.append(onnx.helper.make_node("Where", inputs, [made], name=self.unique(f"{stem}:settle")))
        self.current.input[index] = made

    def _constant(self, name: str, values: Sequence[int], dtype: type = np.int64) -> str:
        name = self.unique(name)
        self.weights[name] = Tensor.of(name, np.array(values, dtype))
        return name


def _content(name: str, weights: Mapping[str, Tensor], contents: Mapping[str, Content]) -> Content | None:
    tensor = weights.get(name)
    if tensor is None:
        return contents.get(name)
    return constant(tensor.array()) if tensor.dtype in _INTEGERS and tensor.nbytes <= READABLE else None


_INTEGERS = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}
