"""A model as people speak of it: the layers that carry weights, in order, each with its width before and after.

A *layer* is a node that multiplies by a weight of rank 2 or more, or looks rows up in one. Its width is the length of
the axis that its channels come out on; its group is the one that owns most of that axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from onnxprune.analysis.coupling import Coupling
from onnxprune.counting.cost import Cost, is_param, origins
from onnxprune.cutting.plan import Plan
from onnxprune.files.model import Model

_LOOKUPS = {"Gather"}
"""They multiply nothing, yet what they read is a layer: an embedding."""


@dataclass(frozen=True)
class Layer:
    """One node that carries weights."""

    node: str
    label: str
    """Its name without what the exporter put around it."""
    op: str
    weight: str
    width: int | None
    """None: no axis of its weight makes channels that analysis knows."""
    kept: int | None
    """Of the width, after pruning; equal to it where nothing was pruned."""
    group: str
    """The group that owns most of the width; empty where none does."""
    frozen: str
    """Why none of it, or not all of it, can go; empty where all can."""
    macs: int
    macs_after: int


def layers_of(model: Model, coupling: Coupling, before: Cost, plan: Plan | None, after: Cost | None) -> list[Layer]:
    """All layers, in graph order."""
    made = origins(model)
    uncounted = {*before.unknown}
    ends = _ends(coupling)
    frozen = {item.node: item.reason.sentence for item in coupling.frozen}
    removed = plan.removed() if plan is not None else {}
    biases = _biases(model)
    found = []
    for node in model.graph.node:
        weights = _weights(node, model, made)
        count = before.by_node.get(node.name, 0)
        if not weights or not (count or node.name in uncounted or node.op_type in _LOOKUPS):
            continue
        weight = next((name for name in weights if name in ends), weights[0])
        axis, width, group = ends.get(weight, (0, None, ""))
        gone = removed.get((weight, axis))
        found.append(
            Layer(
                node=node.name,
                label=label_of(node, weight, biases),
                op=node.op_type,
                weight=weight,
                width=width,
                kept=None if width is None else width - (0 if gone is None else len(gone)),
                group=group,
                frozen=frozen.get(node.name, ""),
                macs=count,
                macs_after=count if after is None else after.by_node.get(node.name, 0),
            )
        )
    return found


def label_of(node: onnx.NodeProto, weight: str, biases: Mapping[str, str]) -> str:
    """`layer1.0.conv1`: by the weight's name where that is telling, by a bias that is added, else by the node's."""
    if weight.endswith(".weight"):
        return weight.removesuffix(".weight")
    for name in node.output:
        if name in biases:
            return biases[name]
    return dotted(node.name) or weight


def dotted(name: str) -> str:
    """`/layer1/layer1.0/conv1/Conv` as `layer1.0.conv1`: exporters say twice what contains what."""
    parts = [part for part in name.split("/") if part]
    if len(parts) < 2:
        return name
    path = parts[:-1]
    return ".".join(part for part, after in zip(path, [*path[1:], ""], strict=True) if not after.startswith(f"{part}."))


def _weights(node: onnx.NodeProto, model: Model, made: Mapping[str, frozenset[str]]) -> list[str]:
    """The weights of rank 2 and more that the node multiplies something else by, the first read first."""
    if all(name in made for name in node.input if name):
        return []
    names = dict.fromkeys(name for read in node.input for name in sorted(made.get(read, ())))
    shapes = [(name, model.weights[name]) for name in names]
    return [name for name, tensor in shapes if len(tensor.shape) > 1 and is_param(tensor.dtype, tensor.shape)]


def _ends(coupling: Coupling) -> dict[str, tuple[int, int, str]]:
    """Weight -> the axis that its channels come out on, how long that is, and who owns most of it."""
    owned: dict[tuple[str, int], dict[str, int]] = {}
    found: dict[str, tuple[int, int, str]] = {}
    for group in coupling.groups:
        for slot in group.weights:
            if slot.role == "out":
                owned.setdefault((slot.tensor, slot.axis), {})[group.name] = len(slot.positions)
                names = owned[slot.tensor, slot.axis]
                found[slot.tensor] = (slot.axis, slot.size, max(names, key=lambda name: names[name]))
    lengths: dict[tuple[str, int], int] = {}
    for item in coupling.frozen:
        key = (item.tensor, item.axis)
        lengths[key] = lengths.get(key, 0) + item.size
    for (tensor, axis), size in lengths.items():
        found.setdefault(tensor, (axis, size, ""))
    return found


def _biases(model: Model) -> dict[str, str]:
    """Tensor -> the stem of the bias that is added to it, `encoder.0.query` of `encoder.0.query.bias`."""
    return {
        name: bias.removesuffix(".bias")
        for node in model.graph.node
        if node.op_type == "Add"
        for bias in _named_biases(node.input, model)
        for name in node.input
        if name != bias
    }


def _named_biases(names: Iterable[str], model: Model) -> list[str]:
    return [name for name in names if name.endswith(".bias") and name in model.weights]
