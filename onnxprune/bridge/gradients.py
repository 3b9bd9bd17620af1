"""How a loss changes with every channel and with every weight, batch by batch, through the bridge to torch.

In front of every layer that reads channels stands a gate of ones, one for each sample and channel:

    x ──► * gate ──► Conv, W        d loss / d gate = sum over positions of x * (d loss / d x, through this layer alone)

Closing the gates of all layers that read a channel is removing the channel. So their gradients, added up, say to first
order what its removal does to the loss of each sample, and no activation need be kept for it. Layers that share a
weight, as the heads of a detector do from level to level, read the channel once each.

The loss of a sample is the cross entropy with its label; without labels, with a class that is drawn from the model's
own probabilities; and where the outputs are no classes, noise times outputs. Comparing the outputs with themselves
would have no gradient, while squares of these have the Fisher information as their mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.nn import functional

from onnxprune.bridge import to_torch, weights
from onnxprune.bridge.classes import as_logits
from onnxprune.bridge.translate import origin_of
from onnxprune.errors import NotFinite, UserError
from onnxprune.execution.batches import Batch
from onnxprune.files.model import Model

Array = NDArray[Any]
_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True, eq=False)
class Gradients:
    """Of one batch; its loss is the sum over the samples that count."""

    count: int
    gates: Mapping[str, Array]
    """By the weight of the layer behind it: (samples, channels), one row where samples cannot be told apart."""
    weights: Mapping[str, Array]
    """In the shape of each weight."""


def gradients(
    model: Model,
    data: Iterable[Batch],
    *,
    gates: Mapping[str, str],
    parameters: Iterable[str] = (),
    seed: int = 0,
) -> Iterator[Gradients]:
    """Batch by batch; `gates` maps the weights of the layers to be gated to the types of their operators."""
    module = to_torch(model)
    origin = origin_of(module)
    assert origin is not None
    state = dict(module.named_parameters())
    trained = {name: state[key] for name in parameters if (key := origin.keys.get(name, "")) in state}
    for parameter in state.values():
        parameter.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    placed = _gated(module, {origin.keys[name]: (name, op) for name, op in gates.items() if name in origin.keys})
    generator = torch.Generator().manual_seed(seed)
    for batch in data:
        for gate in (gate for shared in placed.values() for gate in shared):
            gate.samples = batch.count + batch.spare
        made = module(*(weights.from_array(batch.feeds[name]) for name in origin.inputs))
        outputs = made if isinstance(made, tuple) else (made,)
        if not all(bool(each.isfinite().all()) for each in outputs if each.is_floating_point()):
            raise NotFinite("on this data the outputs hold NaN or Inf: repair the model, or leave such samples out")
        loss = _loss(outputs, batch, generator)
        leaves = [gate.gate for shared in placed.values() for gate in shared if gate.gate is not None]
        wanted = [*leaves, *trained.values()]
        if not wanted or not loss.requires_grad:
            raise UserError("no channel has an influence on the outputs that can be differentiated")
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
        by_leaf = dict(zip(map(id, wanted), found, strict=True))
        yield Gradients(
            batch.count,
            {name: _added(_rows(by_leaf[id(gate.gate)], gate) for gate in shared) for name, shared in placed.items()},
            {name: _array(by_leaf[id(each)], each) for name, each in trained.items()},
        )


class _Gate(nn.Module):
    """Multiplies by ones, whose gradient is what is asked for."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.samples = 0
        self.gate: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        axis = self.axis % x.ndim
        rows = x.shape[0] // max(self.samples, 1)
        apart = axis > 0 and rows > 0 and x.shape[0] == rows * self.samples
        shape = [1] * x.ndim
        shape[axis] = x.shape[axis]
        if not apart:
            self.gate = torch.ones(shape, dtype=x.dtype, device=x.device, requires_grad=True)
            return x * self.gate
        # rows of one sample stand behind each other where a batch was merged with another axis
        self.gate = torch.ones([self.samples, *shape], dtype=x.dtype, device=x.device, requires_grad=True)
        return (x.reshape(self.samples, rows, *x.shape[1:]) * self.gate).reshape(x.shape)


def _gated(module: fx.GraphModule, layers: Mapping[str, tuple[str, str]]) -> dict[str, list[_Gate]]:
    """Put gates in front of the layers with these weights, by their keys."""
    found: dict[str, list[_Gate]] = {}
    count = 0
    for node in list(module.graph.nodes):
        if node.op != "get_attr" or node.target not in layers:
            continue
        name, op = layers[str(node.target)]
        for reader in _readers(node):
            gate, place = _Gate(1 if op in _CONVOLUTIONS else -1), f"_gate_{count}"
            count += 1
            found.setdefault(name, []).append(gate)
            module.add_submodule(place, gate)
            with module.graph.inserting_before(reader):
                gated = module.graph.call_module(place, (reader.args[0],))
            reader.args = (gated, *reader.args[1:])
    module.recompile()
    return found


def _readers(weight: fx.Node) -> list[fx.Node]:
    """The layers that multiply by a weight, or all of them by it transposed; none where anything else reads it, too."""
    users = list(weight.users)
    if len(users) == 1 and users[0].target is torch.permute:
        return _readers(users[0])
    alike = len({user.target for user in users}) == 1
    layers = [user for user in users if len(user.args) > 1 and user.args[1] is weight]
    read = [user for user in layers if isinstance(user.args[0], fx.Node) and user.args[0] is not weight]
    return read if alike and len(read) == len(users) else []


def _loss(outputs: tuple[torch.Tensor, ...], batch: Batch, generator: torch.Generator) -> torch.Tensor:
    """Summed over the samples that count."""
    floats = [each[: batch.count] if each.ndim else each for each in outputs if each.is_floating_point()]
    if not floats:
        raise UserError("no output is made of floats, so there is no loss whose gradient could be taken")
    logits = next((each.flatten(1) for each in floats if _are_classes(each, batch.count)), None)
    if logits is None:
        return sum((_noise(each, generator) * each).sum() for each in floats)  # type: ignore[return-value]
    log = as_logits(logits).log_softmax(1)
    if batch.labels is not None:
        labels = torch.from_numpy(np.array(batch.labels, np.int64)).reshape(-1)
        if len(labels) == len(logits):
            if not bool(((labels >= 0) & (labels < logits.shape[1])).all()):
                raise UserError(f"labels must be classes from 0 to {logits.shape[1] - 1}, as the outputs have them")
            return functional.nll_loss(log, labels, reduction="sum")
    drawn = torch.multinomial(log.detach().double().exp(), 1, generator=generator)[:, 0]
    return functional.nll_loss(log, drawn, reduction="sum")


def _are_classes(output: torch.Tensor, count: int) -> bool:
    return output.ndim > 1 and len(output) == count and output.shape[1] > 1 and output[0].numel() == output.shape[1]


def _noise(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like.dtype)


def _rows(gradient: torch.Tensor | None, gate: _Gate) -> Array:
    assert gate.gate is not None
    size = gate.gate.shape[gate.axis if gate.axis < 0 else gate.axis + (gate.gate.shape[0] == gate.samples)]
    found = torch.zeros_like(gate.gate) if gradient is None else gradient
    return found.reshape(-1, size).double().numpy()


def _added(parts: Iterable[Array]) -> Array:
    """Sample by sample; where one cannot tell them apart, none may."""
    rows = [*parts]
    if len({len(each) for each in rows}) > 1:
        rows = [each.sum(axis=0, keepdims=True) for each in rows]
    return np.asarray(np.sum(rows, axis=0))


def _array(gradient: torch.Tensor | None, like: torch.Tensor) -> Array:
    return (torch.zeros_like(like) if gradient is None else gradient).numpy()
