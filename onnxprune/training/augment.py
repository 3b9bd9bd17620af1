"""Images are moved, mirrored, tinted and partly hidden; of one draw for all processes each takes its part.

    draw(rng, n)   one row of numbers for each sample of the step, of all processes     functions of (seed, epoch, step)
    apply          (N, C, H, W) floats -> the same shape

Nothing is on by default: a mirrored 2 is no 2, and no program can know that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from onnxprune.training.recipe import Recipe

_DRAWS = 8
"""Numbers for each sample: mirror, row, column, brightness, contrast, saturation, and the hidden square's place."""
_LUMA = (0.299, 0.587, 0.114)
"""How bright red, green and blue look (ITU-R BT.601)."""


@dataclass(frozen=True)
class Augment:
    """What is done to images."""

    flip: bool = False
    crop: int = 0
    jitter: float = 0.0
    cutout: int = 0

    @staticmethod
    def of(recipe: Recipe) -> Augment | None:
        """None: nothing is done."""
        found = Augment(recipe.flip, recipe.crop, recipe.jitter, recipe.cutout)
        return found if found != Augment() else None

    def apply(self, images: Tensor, draws: NDArray[np.float32], white: float) -> Tensor:
        """`white` is the largest value that a pixel has."""
        numbers = torch.from_numpy(draws).to(images.device)
        if self.flip:
            images = torch.where(numbers[:, 0].view(-1, 1, 1, 1) < 0.5, images.flip(-1), images)
        if self.crop:
            images = _moved(images, self.crop, numbers[:, 1], numbers[:, 2])
        if self.jitter:
            factors = 1 + self.jitter * (2 * numbers[:, 3:6] - 1)
            images = _tinted(images, factors).clamp(0, white)
        if self.cutout:
            images = _hidden(images, self.cutout, numbers[:, 6], numbers[:, 7])
        return images


def draw(rng: np.random.Generator, count: int, part: slice) -> NDArray[np.float32]:
    """Numbers from 0 to 1 for this part of a step's samples."""
    return rng.random((count, _DRAWS), np.float32)[part]


def _moved(images: Tensor, most: int, down: Tensor, right: Tensor) -> Tensor:
    """What a window as large as the image shows of it, in a black frame of `most` pixels."""
    count, _, height, width = images.shape
    framed = functional.pad(images, (most, most, most, most))
    rows = (down * (2 * most + 1)).long()[:, None] + torch.arange(height, device=images.device)
    columns = (right * (2 * most + 1)).long()[:, None] + torch.arange(width, device=images.device)
    chosen = torch.arange(count, device=images.device)[:, None, None]
    # indices on both sides of a slice: the sliced axis comes last
    return framed[chosen, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _tinted(images: Tensor, factors: Tensor) -> Tensor:
    bright, contrast, saturation = (factors[:, i].view(-1, 1, 1, 1) for i in range(3))
    images = images * bright
    gray = _gray(images)
    middle = gray.mean((1, 2, 3), keepdim=True)
    images = (images - middle) * contrast + middle
    gray = _gray(images)
    return (images - gray) * saturation + gray


def _gray(images: Tensor) -> Tensor:
    if images.shape[1] != len(_LUMA):
        return images.mean(1, keepdim=True)
    return (images * images.new_tensor(_LUMA).view(1, -1, 1, 1)).sum(1, keepdim=True)


def _hidden(images: Tensor, side: int, down: Tensor, right: Tensor) -> Tensor:
    """A square around a point of the image, which may stand over its edge, becomes the image's mean."""
    height, width = images.shape[2:]
    row = (down * height).floor()[:, None]
    column = (right * width).floor()[:, None]
    rows = (torch.arange(height, device=images.device) - row + side // 2).ge(0)
    rows &= (torch.arange(height, device=images.device) - row + side // 2).lt(side)
    columns = (torch.arange(width, device=images.device) - column + side // 2).ge(0)
    columns &= (torch.arange(width, device=images.device) - column + side // 2).lt(side)
    square = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(square, images.mean((1, 2, 3), keepdim=True), images)
