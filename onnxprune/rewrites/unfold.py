"""BatchNormalization put back behind convolutions whose exporter folded it away: nothing changes but how it trains.

    Conv(W, b)  =>  Conv(W), BatchNormalization with mean = E[z - b], var = Var[z],
                                                     scale = sqrt(var + eps), shift = b + mean

z being what the convolution makes of calibration data. In inference the two divide and multiply by the same numbers. In
training the normalisation holds the scale of every layer, so that learning rates are good at which a folded network
diverges. Statistics are those of the model as it is: unfold before pruning, since those of a damaged model keep the
damage, and `fold` when training is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.execution.batches import Batch
from onnxprune.execution.walk import Walk, reads, take_all
from onnxprune.files.model import Model, expect_model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.batchnorm import EPSILON
from onnxprune.repair.consumers import Consumers
from onnxprune.repair.moments import Moments
from onnxprune.rewrites.rewriting import Names, Rewritten, rewritten

_FLOAT = onnx.TensorProto.FLOAT
_KINDS = ("Conv", "ConvTranspose")
_LAYERS = (*_KINDS, "Gemm", "MatMul")

Progress = Callable[[float], None]


@dataclass(frozen=True, eq=False)
class _Site:
    """A convolution to be followed by a normalisation."""

    at: int
    node: onnx.NodeProto
    moments: Moments

    @property
    def y(self) -> str:
        name: str = self.node.output[0]
        return name


def unfold(model: Model, data: Iterable[Batch], *, threads: int = 1, on_progress: Progress | None = None) -> Rewritten:
    """Put BatchNormalization behind every convolution that may have had one."""
    expect_model(model, "unfold")
    sites, left = _sites(model)
    with Walk(model, threads=threads) as walk:
        take_all(data, walk, to="calibrate on")
        for number, site in enumerate(sites):
            if on_progress is not None:
                on_progress(number / len(sites))
            walk.until(site.at + 1, {site.y})
            for z in walk.numbers(site.y):
                site.moments.add(z)
                alone = z.size == z.shape[0] * z.shape[1]
            if alone:
                left[site.node.name] = "it makes one position of each sample: a batch would be too little to learn from"
    found = [site for site in sites if site.node.name not in left]
    said = {node.name: left[node.name] for node in model.graph.node if node.name in left}
    return Rewritten(_written(model, found), tuple(site.node.name for site in found), said)


def _sites(model: Model) -> tuple[list[_Site], dict[str, str]]:
    uses = Consumers(model)
    before_layers = _before_layers(model.graph.node)
    sites: list[_Site] = []
    left: dict[str, str] = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type not in _KINDS or node.domain not in ("", "ai.onnx"):
            continue
        if any(reader.op_type == "BatchNormalization" for reader in uses.readers.get(node.output[0], ())):
            continue
        why = _unfit(node, uses) or ("" if node.output[0] in before_layers else "no other layer follows it")
        if why:
            left[node.name] = why
        else:
            sites.append(_Site(index, node, Moments(1)))
    return sites, left


def _unfit(node: onnx.NodeProto, uses: Consumers) -> str:
    weight = uses.weights.get(node.input[1])
    if weight is None or weight.dtype != _FLOAT:
        return "its weight is no float32 initializer"
    if uses.count[node.input[1]] > 1:
        return "its weight is shared with other nodes"
    return ""


def _before_layers(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Tensors that a layer is computed from: what ends in an output had no normalisation behind it."""
    found: set[str] = set()
    for node in reversed(nodes):
        if node.op_type in _LAYERS or not found.isdisjoint(node.output):
            found.update(reads(node))
    return found


def _written(model: Model, sites: Sequence[_Site]) -> Model:
    behind = {site.node.name: site for site in sites}
    names, uses = Names(model), Consumers(model)
    weights = dict(model.weights)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.name in behind:
            nodes += _followed(node, behind[node.name].moments, weights, uses, names)
        else:
            nodes.append(node)
    return rewritten(model, nodes, weights)


def _followed(
    old: onnx.NodeProto, moments: Moments, weights: dict[str, Tensor], uses: Consumers, names: Names
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """The node without its bias, and the normalisation behind it, whose vectors go into `weights`."""
    node = onnx.NodeProto()
    node.CopyFrom(old)
    bias = weights.get(node.input[2]) if len(node.input) > 2 else None
    off = bias.array().astype(np.float64) if bias is not None else 0.0
    called = {key: f"{node.name}.bn.{key}" for key in ("scale", "shift", "mean", "var")}
    if bias is not None:
        del node.input[2:]
        if uses.own(bias.name):
            called["shift"] = bias.name  # what the bias was is learned here now; `fold` gives it back its place
    mean = moments.mean[0] - off
    variance = np.maximum(moments.covariance[0, 0], 0.0).astype(np.float32)
    scale = np.sqrt(variance.astype(np.float64) + EPSILON)
    mean = mean.astype(np.float32)
    vectors = {"scale": scale, "shift": mean.astype(np.float64) + off, "mean": mean, "var": variance}
    for key, array in vectors.items():
        name = called[key] if bias is not None and called[key] == bias.name else names.fresh(called[key])
        called[key], weights[name] = name, Tensor.of(name, array.astype(np.float32))
    y = node.output[0]
    node.output[0] = names.fresh(f"{y}.raw")
    norm = onnx.helper.make_node("BatchNormalization", [node.output[0], *called.values()], [y], epsilon=EPSILON)
    norm.name = names.fresh(f"{node.name}.bn")
    return node, norm
