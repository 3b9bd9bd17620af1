"""Where onnxruntime's time goes: the kernels that it really runs, each with its time and the tensors it stands for.

onnxruntime rewrites a graph before it runs it: it fuses (Conv, Add, Relu become one), changes layouts, reorders. So its
own profiler is asked, on the whole model, and what it names is led back to the tensors of the file:

    kernel   /layer1/relu/Relu_output_0_nchwc        the tensor's name and a suffix
    kernel   InsertedPrecisionFreeCast_conv_nchwc    and a prefix: half floats are computed as floats
    kernel   node_silu_1/QuickGeluFusion/            a node's name and what was made of it
    tensor   reorder_token_7                         what a reorder made of a known tensor, or a Reshape, or a Cast

A kernel of which nothing is known keeps its time and gets no tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.errors import NotRunnable, UserError
from onnxprune.execution.inputs import Feeds, caller
from onnxprune.execution.runtime import check_threads
from onnxprune.files.model import Model
from onnxprune.files.scratch_folder import scratch_folder
from onnxprune.files.store import save
from onnxprune.graph.normalize import graphs

RUNS = 8
"""At least, of which every kernel's fastest counts: whatever disturbs a run only makes it slower."""
SECONDS = 0.3
"""Short models run more often, for about that long."""
MOST_RUNS = 200

_ADDED = re.compile(r"(_bn)?(_nchwc)?(_token_\d+)?$")
"""What onnxruntime puts behind the name of a tensor or node that it makes into another one."""
_CAST = "InsertedPrecisionFreeCast_"
_MOVES = {"ReorderInput", "ReorderOutput", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Cast"}
"""They write what they read, in another order or type: the same part of it is left after a cut."""


@dataclass(frozen=True)
class Kernel:
    """One node of the graph that onnxruntime runs."""

    name: str
    op: str
    microseconds: float
    reads: str | None
    """The file's tensor that its first input stands for; None: unknown, or a weight."""
    makes: str | None
    """The same of its first output that is there."""


def kernels(model: Model, feeds: Feeds, *, threads: int = 1, provider: str = "CPUExecutionProvider") -> list[Kernel]:
    """Every kernel of one run, in the order they run."""
    (found,) = kernels_in_turns([(model, feeds)], threads=threads, provider=provider)
    return found


def kernels_in_turns(
    models: Sequence[tuple[Model, Feeds]], *, threads: int = 1, provider: str = "CPUExecutionProvider"
) -> list[list[Kernel]]:
    """The same of several models that take turns: what else the machine does then befalls all of them alike."""
    with ExitStack() as stack:
        folders = [stack.enter_context(scratch_folder()) for _ in models]
        sessions = []
        for (model, _), folder in zip(models, folders, strict=True):
            save(model, folder / "model.onnx")
            sessions.append(_session(folder, threads, provider))
        try:
            _repeat([caller(session, feeds) for session, (_, feeds) in zip(sessions, models, strict=True)])
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
            raise NotRunnable(f"onnxruntime cannot run the model: {' '.join(str(error).split())[:300]}") from None
        return [
            _kernels_of(model, _times(Path(session.end_profiling())), folder)
            for (model, _), session, folder in zip(models, sessions, folders, strict=True)
        ]


def _kernels_of(model: Model, times: Mapping[str, tuple[str, float]], folder: Path) -> list[Kernel]:
    graph = onnx.load(str(folder / "optimized.onnx"), load_external_data=False).graph
    known = _Origins(model, graph.node)
    by_name = {node.name: node for node in graph.node}
    # what runs inside a Loop is part of the Loop's own time
    inside = {node.name for each in graphs(graph) for node in each.node} - by_name.keys()
    return [
        Kernel(name, op, time, *known.ends(by_name.get(name)))
        for name, (op, time) in times.items()
        if name not in inside
    ]


def fused(model: Model, found: Sequence[Kernel]) -> dict[str, str]:
    """First output of a node -> the kernel that the node is a part of: the one whose output it alone leads to."""
    makers = {kernel.makes: kernel.name for kernel in reversed(found) if kernel.makes}
    first = [next(filter(None, node.output), "") for node in model.graph.node]
    readers: dict[str, list[str]] = {}
    for node, made in zip(model.graph.node, first, strict=True):
        for name in filter(None, node.input):
            readers.setdefault(name, []).append(made)
    part: dict[str, str] = {}
    for made in reversed(first):  # graph order: what reads it has been answered already
        after = readers.get(made, ())
        kernel = makers.get(made) or (part.get(after[0]) if len(after) == 1 else None)
        if made and kernel:
            part[made] = kernel
    return part


def _session(folder: Path, threads: int, provider: str) -> Any:
    import onnxruntime as ort

    check_threads(threads)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    # the weights go to a file of their own: only the graph is read back
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "64")
    try:
        return ort.InferenceSession(str(folder / "model.onnx"), options, providers=[provider])
    except Exception as error:  # noqa: BLE001  as above
        raise NotRunnable(f"onnxruntime does not accept the model: {' '.join(str(error).split())[:300]}") from None


def _repeat(calls: Sequence[Any]) -> None:
    import time

    for call in calls:
        call()
    start = time.perf_counter()
    for done in range(1, MOST_RUNS + 1):
        for call in calls:
            call()
        if done >= RUNS and time.perf_counter() - start > SECONDS:
            break


def _times(path: Path) -> dict[str, tuple[str, float]]:
    """Name -> operator and the fastest run in microseconds; the first run, which warms up, does not count."""
    events = [e for e in json.loads(path.read_bytes()) if e.get("cat") == "Node" and "_kernel_time" in e["name"]]
    found: dict[str, tuple[str, list[float]]] = {}
    for event in events:
        name = event["name"].removesuffix("_kernel_time")
        found.setdefault(name, (event["args"].get("op_name", ""), []))[1].append(float(event["dur"]))
    times: dict[str, tuple[str, float]] = {}
    for name, (op, durations) in found.items():
        later = durations[1:] or durations
        # the clock counts whole microseconds: of a kernel that takes few, the mean of the faster half tells more
        low = np.sort(later)[: max(1, len(later) // 2)]
        times[name] = (op, float(low.mean()) if low[0] < 50 else float(low[0]))
    return times


class _Origins:
    """Which tensors of the file those of the optimised graph stand for."""

    def __init__(self, model: Model, nodes: Iterable[onnx.NodeProto]) -> None:
        self.tensors = {item.name for item in model.graph.input}
        self.tensors |= {name for node in model.graph.node for name in node.output if name}
        self.made: dict[str, str] = {
            node.name: node.output[0] for node in model.graph.node if node.name and node.output
        }
        self.weights = set(model.weights)
        self.alias: dict[str, str] = {}
        for node in nodes:
            for place, name in enumerate(filter(None, node.output)):
                origin = self._origin(node, place, name)
                if origin is not None:
                    self.alias[name] = origin

    def ends(self, node: onnx.NodeProto | None) -> tuple[str | None, str | None]:
        """What a kernel reads first, weights aside, and what it makes."""
        if node is None:
            return None, None
        reads = (self._known(name) for name in node.input)
        makes = (self._known(name) for name in node.output if name)
        return next((name for name in reads if name is not None), None), next(makes, None)

    def _known(self, name: str) -> str | None:
        return name if name in self.tensors else self.alias.get(name)

    def _origin(self, node: onnx.NodeProto, place: int, name: str) -> str | None:
        if name in self.tensors:
            return name
        if place:
            return None
        named = _ADDED.sub("", node.name.removeprefix(_CAST))
        if named in self.tensors:
            return named
        while named:
            if named in self.made:
                return self.made[named]
            named = named.rpartition("/")[0]
        return self._known(node.input[0]) if node.op_type in _MOVES and node.input else None
