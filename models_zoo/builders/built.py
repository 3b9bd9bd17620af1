"""What a builder returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Built:
    """A network, and what it takes to run it once."""

    module: nn.Module
    inputs: Mapping[str, Tensor]
    """Examples, two samples each, in the order of the arguments of its forward; the names are those of the file."""
    outputs: tuple[str, ...] = ("logits",)


def pictures(module: nn.Module, height: int, width: int | None = None, outputs: tuple[str, ...] = ("logits",)) -> Built:
    """A network that takes pictures in colour; without a width they are square."""
    return Built(module, {"input": torch.randn(2, 3, height, width or height)}, outputs)


def tokens(module: nn.Module, vocabulary: int, length: int, outputs: tuple[str, ...], *, mask: bool = False) -> Built:
    """A network that takes the numbers of words, and which of them are there."""
    inputs = {"input_ids": torch.randint(vocabulary, (2, length))}
    if mask:
        inputs["attention_mask"] = torch.ones(2, length, dtype=torch.int64)
    return Built(module, inputs, outputs)
