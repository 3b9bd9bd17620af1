"""An architecture is a function that builds it; what it builds is a network, example inputs and its free dimensions.

A network here takes tensors by position and gives tensors: whatever a library wraps around them is taken off, so that
both exporters see the same signature, and inputs have the names that people will see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

Feeds = dict[str, np.ndarray]
EXPORTERS = ("legacy", "dynamo")
BATCH = {0: "batch"}
"""Free: the first axis."""
IMAGE = {0: "batch", 2: "height", 3: "width"}
"""Free: all but the channels of an image."""
TEXT = {0: "batch", 1: "sequence"}
"""Free: both axes of a batch of token ids."""


@dataclass(frozen=True)
class Case:
    """One network, ready to be drawn, run and exported."""

    network: nn.Module
    inputs: Mapping[str, torch.Tensor]
    """Examples by name, in the order in which the network takes them."""
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Free axes of the inputs; none: fixed."""
    call: Callable[..., Any] | None = None
    """How the network is run on these inputs, where it is not network(*inputs)."""
    pick: tuple[str, ...] = ()
    """Fields of the network's answer that count; none: all tensors in it."""
    quiet: str = ""
    """A pattern for names of parameters that stay small: what they make goes through exponentials and roundings, and
    with weights of full size float noise would decide which boxes overlap."""


@dataclass(frozen=True)
class Architecture:
    """Something to build, and where it is from."""

    name: str
    build: Callable[[str], Case]
    """Takes the exporter: some libraries have one attention for each."""
    family: str
    exporters: tuple[str, ...] = EXPORTERS
    extra: bool = False
    """Left out unless all are asked for: the table is long enough."""
    opset: int | None = None
    """None: what the exporter takes by default."""
    optimize: bool = True
    """False: the file as the exporter first has it."""
    finish: Callable[[Path, Feeds], None] | None = None
    """Rewrites the exported file: what people do to their files before anybody else sees them."""


def positional(case: Case) -> nn.Module:
    """The network as a module that maps a tuple of tensors to a tuple of tensors."""
    from torch import nn

    class Positional(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, *inputs: torch.Tensor) -> Any:
            answer = self.network(*inputs) if case.call is None else case.call(self.network, *inputs)
            found = tensors(answer, case.pick)
            return found if len(found) > 1 else found[0]

    return Positional(case.network)


def tensors(answer: Any, pick: tuple[str, ...] = ()) -> tuple[torch.Tensor, ...]:
    """Every tensor in a nested answer, depth first; floats and integers alike."""
    import torch

    if isinstance(answer, torch.Tensor):
        return (answer,)
    if isinstance(answer, Mapping):
        return tuple(t for key, item in answer.items() if not pick or key in pick for t in tensors(item))
    if isinstance(answer, tuple | list):
        return tuple(t for item in answer for t in tensors(item, pick))
    return ()
