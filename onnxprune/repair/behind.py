"""Which layers follow something that was cut, so that their weights may have something to make up for, and which of
them cannot be solved, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from onnxprune.cutting.plan import Plan
from onnxprune.execution.walk import reads
from onnxprune.files.model import Model
from onnxprune.repair.consumers import Consumers
from onnxprune.repair.linear_layers import Layer, layers, sum_behind
from onnxprune.repair.rectified import Shown, shown
from onnxprune.repair.recurrent_layers import RECURRENT, recurrent_layers

_OWN = frozenset(["out", "scale", "shift", "keep"])
"""Roles of weights in which each channel has entries of its own."""
_HANDING = frozenset(["Cast", "DequantizeLinear", "Identity", "Reshape", "Transpose"])
"""What may stand between a weight and the layer that reads it."""


@dataclass(frozen=True, eq=False)
class Task:
    """A layer of the pruned model to solve."""

    layer: Layer
    at: int
    """The place of its node in the pruned model."""
    sum: tuple[str, str] | None
    """The residual sum that its output goes into, and the other summand: known before the layer runs."""
    lacks: bool
    """Whether something was cut from what it reads itself."""
    shown: Mapping[str, Shown]
    """Of its targets, what of them shows."""
    recurrent: bool = False
    """Whether it is what a recurrent layer does with its input."""

    @property
    def targets(self) -> set[str]:
        """Tensors of the original that may be looked at."""
        return {self.layer.y, *([self.sum[0]] if self.sum else [])}


def tasks(original: Model, pruned: Model, plan: Plan) -> list[Task]:
    """Layers that something cut comes into, or stands beside, and whose outputs the original makes too."""
    made = {name: index for index, node in enumerate(pruned.graph.node) for name in node.output}
    there = {name for node in original.graph.node for name in node.output}
    lacking = _lacking(pruned, plan)
    behind = _behind(pruned, plan, lacking)
    uses = Consumers(pruned)
    found = []
    for layer in layers(pruned):
        at, both = made[layer.node.output[0]], sum_behind(layer, pruned)
        if both is not None and (both[0] not in there or made.get(both[1], -1) >= at):
            both = None
        if layer.y in there and (layer.y in behind or (both is not None and both[1] in behind)):
            ranges = {name: shown(name, uses) for name in {layer.y, *(both or ())[:1]}}
            seen = {name: each for name, each in ranges.items() if each is not None}
            found.append(Task(layer, at, both, layer.weight in lacking, seen))
    for at, layer in recurrent_layers(pruned):
        if layer.x in behind or layer.weight in lacking:
            found.append(Task(layer, at, None, layer.weight in lacking, {}, recurrent=True))
    return sorted(found, key=lambda task: task.at)


def left_alone(pruned: Model, plan: Plan) -> dict[str, list[str]]:
    """By why: the layers that have lost inputs and are in no form that can be solved, by their nodes."""
    uses = Consumers(pruned)
    solvable = {layer.weight for layer in layers(pruned)} | {layer.weight for _, layer in recurrent_layers(pruned)}
    lost = {slot.tensor for cut in plan.cuts for slot in cut.slots if slot.role == "in"} - solvable
    found: dict[str, dict[str, None]] = {}
    for node in pruned.graph.node:
        for name in lost.intersection(reads(node)).intersection(pruned.weights):
            there = _layer_behind(node, uses)
            found.setdefault(_why(name, there, uses), {})[there.name or there.output[0]] = None
    return {why: list(names) for why, names in found.items()}


def _layer_behind(node: onnx.NodeProto, uses: Consumers) -> onnx.NodeProto:
    """The node itself, or what reads the weight that it makes of another one."""
    following: onnx.NodeProto | None = node
    while following is not None and following.op_type in _HANDING:
        node, following = following, uses.only(following.output[0])
    return node if following is None else following


def _why(weight: str, node: onnx.NodeProto, uses: Consumers) -> str:
    if node.domain not in ("", "ai.onnx"):
        return f"{node.op_type} of {node.domain}"
    if uses.weights[weight].dtype != onnx.TensorProto.FLOAT:
        return "weights that are not float32"
    if uses.count[weight] > 1:
        return "weights that something else reads, too"
    if node.op_type in RECURRENT:
        return "what recurrent layers make of their past"
    return "forms that are not known"


def _lacking(model: Model, plan: Plan) -> set[str]:
    """Weights that have lost what they read."""
    slots = (slot for cut in plan.cuts for slot in cut.slots)
    return {slot.tensor for slot in slots if slot.role not in _OWN and slot.tensor in model.weights}


def _behind(model: Model, plan: Plan, lacking: set[str]) -> set[str]:
    """Tensors that may differ from the original's at the channels that are left.

    What is cut from a tensor and from all that a node makes of it passes by: the rest is computed as before. A weight
    that has lost what it reads computes something else.
    """
    cuts: dict[str, set[int]] = {}
    for number, each in enumerate(plan.cuts):
        for slot in each.slots:
            cuts.setdefault(slot.tensor, set()).add(number)
    found: set[str] = set()
    for node in model.graph.node:
        read = reads(node)
        gone = set().union(*(cuts.get(name, ()) for name in read if name not in model.weights))
        passed = all(gone <= cuts.get(name, set()) for name in node.output if name)
        if not passed or not lacking.isdisjoint(read) or not found.isdisjoint(read):
            found.update(node.output)
    return found
