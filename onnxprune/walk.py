"""A model run piece by piece over a whole data set: every node runs once for every batch, whatever is looked at.

    nodes   0 1 2 3 | 4 5 6 | 7 8 ...        a piece ends where somebody wants to look
    alive   x y     | z     |                what later nodes still read is kept for all batches, the rest is dropped

What is alive is held in memory up to a limit, beyond it in files of a temporary folder. Weights may be exchanged
between two pieces: what has not run yet then runs with the new ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune import runtime
from onnxprune.attributes import subgraphs
from onnxprune.batches import Batch
from onnxprune.errors import UserError
from onnxprune.inputs import Feeds
from onnxprune.model import Model
from onnxprune.tensors import Tensor
from onnxprune.trace import captured

Array = NDArray[Any]

ROOM = 1 << 30
"""Bytes of tensors that are held in memory by one walk."""


class Walk:
    """Where a model stands, on all batches of the data."""

    def __init__(self, model: Model, batches: Iterable[Batch], *, threads: int = 1, room: int = ROOM) -> None:
        self.model, self.threads = model, threads
        self.position = 0
        self.counts: list[int] = []
        self.sizes: list[int] = []
        self._folder = tempfile.TemporaryDirectory(prefix="onnxprune-")
        self._room = room
        self._kept: dict[str, list[Array | Path]] = {}
        self._reads = [_reads(node) for node in model.graph.node]
        self._last = {name: index for index, names in enumerate(self._reads) for name in names}
        for batch in batches:
            self.counts.append(batch.count)
            self.sizes.append(batch.count + batch.spare)
            for name, array in batch.feeds.items():
                self._keep(name, array)

    def __enter__(self) -> Walk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

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
                self._run(stop, outputs)
            self.position = stop
        for name in [name for name in self._kept if name not in wanted and self._last.get(name, -1) < stop]:
            self._drop(name)

    def arrays(self, name: str) -> Iterator[Array]:
        """A tensor, batch by batch, without samples that do not count."""
        for kept, count, size in zip(self._kept[name], self.counts, self.sizes, strict=True):
            array = np.load(kept, mmap_mode="r", allow_pickle=False) if isinstance(kept, Path) else kept
            stacked = array.ndim > 0 and array.shape[0] == size
            yield array[:count] if stacked and count < size else array

    def holds(self, name: str) -> bool:
        """Whether a tensor can be looked at."""
        return name in self._kept

    def _run(self, stop: int, outputs: list[str]) -> None:
        nodes = self.model.graph.node[self.position : stop]
        read = dict.fromkeys(name for names in self._reads[self.position : stop] for name in names)
        made = {name for node in nodes for name in node.output}
        weights = {name: self.model.weights[name] for name in read if name in self.model.weights}
        fed = [name for name in read if name not in weights and name not in made and name in self._kept]
        first = {name: next(self.arrays(name)) for name in fed}
        proto = onnx.ModelProto()
        proto.CopyFrom(self.model.proto)
        del proto.graph.node[:], proto.graph.input[:], proto.graph.output[:], proto.graph.value_info[:]
        proto.graph.node.extend(nodes)
        proto.graph.input.extend(_declared(name, array) for name, array in first.items())
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        session = runtime.session(self.model.replace(proto=proto, weights=weights, inputs=()), threads=self.threads)
        whole = {name: self._kept[name] for name in fed}
        for index in range(len(self.counts)):
            feeds: Feeds = {}
            for name, kept in whole.items():
                one = kept[index]
                feeds[name] = np.load(one, allow_pickle=False) if isinstance(one, Path) else one
            for name, array in runtime.run(session, feeds).items():
                self._keep(name, array)

    def _keep(self, name: str, array: Array) -> None:
        if not isinstance(array, np.ndarray):
            raise UserError(f"tensor {name!r} is a sequence, which cannot be followed batch by batch")
        kept = self._kept.setdefault(name, [])
        if array.nbytes <= self._room or array.dtype.kind == "O":
            self._room -= array.nbytes
            kept.append(array)
            return
        path = Path(self._folder.name, f"{len(kept)}-{abs(hash(name)):x}.npy")
        np.save(path, array, allow_pickle=False)
        kept.append(path)

    def _drop(self, name: str) -> None:
        for kept in self._kept.pop(name):
            if isinstance(kept, Path):
                kept.unlink()
            else:
                self._room += kept.nbytes


def _reads(node: onnx.NodeProto) -> list[str]:
    found = [name for name in node.input if name]
    return found + [name for body in subgraphs(node) for name in sorted(captured(body))]


def _declared(name: str, array: Array) -> onnx.ValueInfoProto:
    # lengths may differ from batch to batch, the rank may not
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, [None] * array.ndim)
