"""What training makes smaller: a function of a module's outputs and the batch, one number for both.

labels that are class numbers     cross entropy of the logits, smoothed
--task mine:loss                  whatever the user's function says
a teacher                         see `distil`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from onnxprune.bridge.classes import as_logits
from onnxprune.errors import UnfitData, UserError
from onnxprune.text.functions import function_of, theirs
from onnxprune.training.feed import Batch

Outputs = Mapping[str, Tensor]
"""By name, in the order in which the module gives them."""
Loss = Callable[[Outputs, Batch], Tensor]


def named(result: object, names: tuple[str, ...]) -> dict[str, Tensor]:
    """What a module returned, by name; floats in full precision."""
    values = list(result) if isinstance(result, tuple | list) else [result]
    names = names if len(names) == len(values) else tuple(f"output{i}" for i in range(len(values)))
    found = {name: value for name, value in zip(names, values, strict=True) if isinstance(value, Tensor)}
    if not found:
        raise UserError(f"the module returns {type(result).__name__}, which holds no tensor")
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


def logits_of(outputs: Outputs) -> Tensor | None:
    """(samples, classes), where an output is that."""
    for value in outputs.values():
        wide = [size for size in value.shape[1:] if size != 1]
        if value.is_floating_point() and value.dim() > 1 and len(wide) == 1:
            return value.reshape(len(value), wide[0])
    return None


@dataclass(frozen=True)
class Classification:
    """Cross entropy."""

    smoothing: float = 0.0

    def __call__(self, outputs: Outputs, batch: Batch) -> Tensor:
        logits = logits_of(outputs)
        if logits is None:
            shapes = ", ".join(f"{name!r} {list(value.shape)}" for name, value in outputs.items())
            raise UserError(f"no output is (samples, classes): {shapes}; say what to learn, --task module:function")
        labels = batch.labels
        if labels is None:
            raise UserError(
                "the data has no labels: name a teacher to learn from, --teacher original.onnx, or a --task"
            )
        if labels.dim() != 1 or labels.is_floating_point():
            raise UnfitData(
                f"labels of {labels.dtype} {list(labels.shape)} are no class numbers; say what to learn, "
                "--task module:function"
            )
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most >= logits.shape[1]:
            raise UnfitData(f"labels run from {least} to {most}, for a model of {logits.shape[1]} classes")
        return functional.cross_entropy(as_logits(logits[: batch.count]), labels, label_smoothing=self.smoothing)


@dataclass(frozen=True)
class Task:
    """The user's function, called with a dict of outputs and the batch."""

    name: str

    def __call__(self, outputs: Outputs, batch: Batch) -> Tensor:
        with theirs(self.name):
            found = function_of(self.name)(dict(outputs), batch)
        if not isinstance(found, Tensor) or found.numel() != 1 or not found.is_floating_point():
            said = f"{list(found.shape)} {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            raise UserError(f"task {self.name!r} must return a tensor of one number, the loss, not {said}")
        return found.reshape(())


def right(outputs: Outputs, batch: Batch) -> Tensor | None:
    """How many samples are classified as their labels say."""
    logits, labels = logits_of(outputs), batch.labels
    if logits is None or labels is None or labels.dim() != 1 or labels.is_floating_point():
        return None
    with torch.no_grad():
        return (logits[: batch.count].argmax(1) == labels).sum()
