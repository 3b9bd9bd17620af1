"""Where a run's time goes: to the layers, as far as kernels belong to one, and to everything else by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from onnxprune.execution.inputs import runnable_feeds
from onnxprune.execution.runtime import session
from onnxprune.files.model import Model
from onnxprune.graph.dims import Dims
from onnxprune.report.layers import Layer
from onnxprune.targets.kernels import Kernel, fused, kernels_in_turns


def timed(models: Sequence[Model], *, threads: int = 1, dims: Dims | None = None) -> tuple[tuple[Kernel, ...], ...]:
    """Every kernel of one run of each, measured on random inputs, the models in turns."""
    ready = [runnable_feeds(model, partial(session, model, threads=threads), dims=dims) for model in models]
    pairs = [(model, each.feeds) for model, each in zip(models, ready, strict=True)]
    return tuple(map(tuple, kernels_in_turns(pairs, threads=threads)))


def shared_out(
    model: Model, found: Sequence[Kernel], layers: Sequence[Layer]
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Milliseconds by layer's node and, of what belongs to none, by operator. A shared kernel is split by the work."""
    part = fused(model, found)
    first = {node.name: next(filter(None, node.output), "") for node in model.graph.node}
    parts: dict[str, list[Layer]] = {}
    for layer in layers:
        kernel = part.get(first.get(layer.node, ""))
        if kernel is not None:
            parts.setdefault(kernel, []).append(layer)
    by_node: dict[str, float] = {}
    others: dict[str, float] = {}
    for each in found:
        time, mine = each.microseconds / 1000, parts.get(each.name, [])
        work = sum(layer.macs for layer in mine)
        for layer in mine:
            by_node[layer.node] = time * (layer.macs / work if work else 1 / len(mine))
        if not mine:
            others[each.op] = others.get(each.op, 0.0) + time
    return by_node, others
