"""UNet (Ronneberger et al. 2015) with padding and BatchNormalization, so that what comes out has the picture's size."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxprune.models_zoo.builders.built import Built, pictures

LEVELS = 5


class Twice(nn.Sequential):
    """Two convolutions, each normalised."""

    def __init__(self, a: int, b: int) -> None:
        first = (nn.Conv2d(a, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))
        super().__init__(*first, nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """Down to a sixteenth and up again, every level handed across."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        widths = [width << level for level in range(LEVELS)]
        self.inc = Twice(3, width)
        self.down = nn.ModuleList(Twice(a, b) for a, b in pairwise(widths))
        rising = [*zip(widths[:0:-1], widths[-2::-1], strict=True)]
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in rising)
        self.join = nn.ModuleList(Twice(2 * b, b) for _, b in rising)
        self.outc = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every pixel."""
        maps = [self.inc(image)]
        for down in self.down:
            maps.append(down(functional.max_pool2d(maps[-1], 2)))
        x = maps.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([maps.pop(), up(x)], 1))
        logits: Tensor = self.outc(x)
        return logits


def unet(width: int, side: int, classes: int) -> Built:
    """For pictures whose side is a multiple of 16."""
    return pictures(UNet(width, classes), side)
