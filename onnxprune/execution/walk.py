"""A model run piece by piece over a whole data set: every node runs once for every batch, whatever is looked at.

    nodes   0 1 2 3 | 4 5 6 | 7 8 ...        a piece ends where somebody wants to look
    alive   x y     | z     |                what later nodes still read is kept for all batches, the rest is dropped

What is alive is held in memory up to a limit, beyond it in files of a temporary folder. Weights may be exchanged
between two pieces: what has not run yet then runs with the new ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.analysis.trace import captured
from onnxprune.errors import NotFinite, UserError
from onnxprune.execution import runtime
from onnxprune.execution.batches import Batch
from onnxprune.files.model import Model
from onnxprune.files.scratch_folder import scratch_folder
from onnxprune.files.tensors import Tensor
from onnxprune.graph.attributes import subgraphs

Array = NDArray[Any]

ROOM = 1 << 30
"""Bytes of tensors that are held in memory by one walk."""

_PLAIN = frozenset(
    ["float", "float16", "double", "string", "bool"]
    + ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)
"""What onnxruntime hands over as the NumPy array that it takes back."""


class Walk:
    """Where a model stands, on all batches of the data: `with Walk(model) as walk`, then `take` them."""

    def __init__(self, model: Model, *, threads: int = 1, room: int = ROOM) -> None:
        self.model, self.threads = model, threads
        self.position = 0
        """The first node that has not run yet."""
        self.data: Iterable[Batch] = ()
        """Where the batches came from."""
        self.counts: list[int] = []
        """Of each batch, the samples that count."""
        self._sizes: list[int] = []
        self._ending = ExitStack()
        self._folder = self._ending.enter_context(scratch_folder())
        self._room, self._files = room, 0
        self._kept: dict[str, list[Array | Path]] = {}
        self._reads = [reads(node) for node in model.graph.node]
        self._last = {name: index for index, names in enumerate(self._reads) for name in names}

    def __enter__(self) -> Walk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.close()

    def take(self, batch: Batch) -> None:
        """One more batch to walk with; before the first node has run."""
        self.counts.append(batch.count)
        self._sizes.append(batch.count + batch.spare)
        for name, array in batch.feeds.items():
            self._keep(name, array)

    def exchange(self, weights: Mapping[str, Tensor]) -> None:
        """Other weights for what has not run yet."""
        self.model = self.model.replace(weights={**self.model.weights, **weights})

    def until(self, stop: int, wanted: Iterable[str] = ()) -> None:
        """Run all nodes before `stop`; afterwards what later nodes read and what is `wanted` can be looked at."""
        wanted = set(wanted)
        if stop > self.position:
            made = {name for node in self.model.graph.node[self.position : stop] for name in node.output if name}
            outputs = sorted(name for name in made if name in wanted or self._last.get(name, -1) >= stop)
            if outputs:
                for results in self._ran(stop, outputs):
                    for name, array in results.items():
                        self._keep(name, array)
            self.position = stop
        for name in [name for name in self._kept if name not in wanted and self._last.get(name, -1) < stop]:
            self._drop(name)

    def holds(self, name: str) -> bool:
        """Whether a tensor can be looked at."""
        return name in self._kept

    def arrays(self, name: str) -> Iterator[Array]:
        """A tensor, batch by batch, without samples that do not count."""
        for index, kept in enumerate(self._kept[name]):
            yield self._counted(_loaded(kept), index)

    def numbers(self, name: str) -> Iterator[Array]:
        """The same of floats; NaN and Inf are refused."""
        for index, array in enumerate(self.arrays(name)):
            yield self._finite(name, array, index)

    def ahead(self, stop: int, name: str) -> Iterator[Array]:
        """The same of a tensor that a node before `stop` will make; weights may still be exchanged afterwards."""
        for index, made in enumerate(self._ran(stop, [name])):
            yield self._finite(name, self._counted(made[name], index), index)

    def ending(self, names: Iterable[str]) -> Iterator[dict[str, Array]]:
        """Of these tensors those that are still to be made, batch by batch; nodes that are ahead stay there."""
        ahead = {name for node in self.model.graph.node[self.position :] for name in node.output}
        outputs = [name for name in names if name in ahead]
        for index, made in enumerate(self._ran(len(self.model.graph.node), outputs) if outputs else ()):
            yield {name: self._counted(array, index) for name, array in made.items()}

    def _counted(self, array: Array, index: int) -> Array:
        count, size = self.counts[index], self._sizes[index]
        stacked = array.ndim > 0 and array.shape[0] == size
        return array[:count] if stacked and count < size else array

    def _finite(self, name: str, array: Array, index: int) -> Array:
        if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
            batch = next(itertools.islice(self.data, index, None), None)
            where = origin(self.model, batch, name, threads=self.threads)
            raise NotFinite(f"on this data there is NaN or Inf in {where}")
        return array

    def _ran(self, stop: int, outputs: list[str]) -> Iterator[dict[str, Array]]:
        """What the nodes before `stop` make of each batch."""
        nodes = self.model.graph.node[self.position : stop]
        read = dict.fromkeys(name for names in self._reads[self.position : stop] for name in names)
        weights = {name: self.model.weights[name] for name in read if name in self.model.weights}
        fed = {name: self._kept[name] for name in read if name not in weights and name in self._kept}
        proto = onnx.ModelProto()
        proto.CopyFrom(self.model.proto)
        del proto.graph.node[:], proto.graph.input[:], proto.graph.output[:], proto.graph.value_info[:]
        proto.graph.node.extend(nodes)
        proto.graph.input.extend(_declared(name, _loaded(kept[0])) for name, kept in fed.items())
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        session = runtime.session(self.model.replace(proto=proto, weights=weights, inputs=()), threads=self.threads)
        for output in session.get_outputs():
            if output.type.removeprefix("tensor(").removesuffix(")") not in _PLAIN:
                raise UserError(f"{output.name!r} is a {output.type}, which cannot be followed from batch to batch")
        for index in range(len(self.counts)):
            feeds = {name: _loaded(kept[index]) for name, kept in fed.items()}
            yield runtime.run(session, feeds)

    def _keep(self, name: str, array: Array) -> None:
        kept = self._kept.setdefault(name, [])
        if array.dtype.kind == "O" or array.nbytes <= max(self._room, 0):
            self._room -= array.nbytes
            kept.append(array)
            return
        self._files += 1
        path = self._folder / f"{self._files}.npy"
        np.save(path, array, allow_pickle=False)
        kept.append(path)

    def _drop(self, name: str) -> None:
        for kept in self._kept.pop(name):
            if isinstance(kept, Path):
                kept.unlink()
            else:
                self._room += kept.nbytes


def take_all(data: Iterable[Batch], *walks: Walk, to: str) -> None:
    """All walks go with all batches; without any there is nothing `to` do."""
    for walk in walks:
        walk.data = data
    for batch in data:
        for walk in walks:
            walk.take(batch)
    if not walks[0].counts:
        raise UserError(f"there is no data to {to}")


def origin(model: Model, batch: Batch | None, name: str, *, threads: int = 1) -> str:
    """Where the NaN or Inf in a tensor comes from: what has it, though nothing that it is made of does.

    A way back that follows NaN alone, if there is any: to mask by -Inf is no mistake. No batch, no way.
    """
    makers = {made: at for at, node in enumerate(model.graph.node) for made in node.output if made}
    nan, inf = _not_finite(model, batch, makers.get(name, -1) + 1, threads) if batch is not None else (set(), set())
    bad = nan if name in nan else inf
    while name in makers:
        node = model.graph.node[makers[name]]
        before = next((each for each in reads(node) if each in bad), None)
        if before is None:
            return f"{name!r}, which node {node.name!r} makes"
        name = before
    return f"input {name!r}"


def _not_finite(model: Model, batch: Batch, stop: int, threads: int) -> tuple[set[str], set[str]]:
    """The tensors with NaN and those with Inf before a node, each looked at as soon as it is there."""
    nan: set[str] = set()
    inf: set[str] = set()
    with Walk(model, threads=threads) as walk:
        walk.take(batch)
        for at in range(stop + 1):
            new = list(batch.feeds) if not at else [made for made in model.graph.node[at - 1].output if made]
            walk.until(at, new)
            for name in filter(walk.holds, new):
                arrays = [array for array in walk.arrays(name) if array.dtype.kind == "f"]
                nan.update(name for array in arrays if np.isnan(array).any())
                inf.update(name for array in arrays if np.isinf(array).any())
    return nan, inf


def reads(node: onnx.NodeProto) -> list[str]:
    """What a node reads, its subgraphs included."""
    found = [name for name in node.input if name]
    return found + [name for body in subgraphs(node) for name in sorted(captured(body))]


def _loaded(kept: Array | Path) -> Array:
    return np.load(kept, allow_pickle=False) if isinstance(kept, Path) else kept


def _declared(name: str, array: Array) -> onnx.ValueInfoProto:
    # lengths may differ from batch to batch, the rank may not
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, [None] * array.ndim)
