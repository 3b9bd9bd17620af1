"""The running average of all weights and statistics: what is measured and written, while the weights train on.

average <- d * average + (1 - d) * weight        d = min(ema, (1 + steps) / (10 + steps)), so that it starts quickly
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Of one module."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.state = {name: tensor.detach().clone() for name, tensor in _floats(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """After a step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, tensor in _floats(module).items():
            self.state[name].lerp_(tensor, 1 - decay)

    @contextmanager
    def standing_in(self, module: nn.Module) -> Iterator[None]:
        """Inside, the module has the average's weights."""
        own = {name: tensor.detach().clone() for name, tensor in _floats(module).items()}
        _put(module, self.state)
        try:
            yield
        finally:
            _put(module, own)


def _floats(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}


@torch.no_grad()
def _put(module: nn.Module, state: dict[str, Tensor]) -> None:
    for name, tensor in _floats(module).items():
        tensor.copy_(state[name])
