"""Outputs of one number for each class, in front of a softmax or behind it."""

from __future__ import annotations

import torch
from torch import Tensor

_ONE = 1e-3
"""How far from 1 the sum of rounded probabilities may lie."""


def as_logits(x: Tensor) -> Tensor:
    """(samples, classes) as a softmax takes them: of probabilities the logarithms, whose softmax they are themselves.

    A model that ends in a softmax would otherwise get a second one from every loss, and hardly learn.
    """
    if bool((x >= 0).all()) and bool(((x.sum(1) - 1).abs() <= _ONE).all()):
        return x.clamp_min(torch.finfo(x.dtype).tiny).log()
    return x
