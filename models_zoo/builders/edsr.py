"""EDSR-baseline (Lim et al. 2017): a picture twice as large; residual blocks without normalisation, pixel shuffle."""

from __future__ import annotations

from torch import Tensor, nn

from onnxprune.models_zoo.builders.built import Built, pictures


class EDSR(nn.Module):
    """Head, blocks, the way round all of them, pixel shuffle."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, 1, 1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, 1, 1))
            for _ in range(blocks)
        )
        self.last = nn.Conv2d(width, width, 3, 1, 1)
        self.tail = nn.Sequential(
            nn.Conv2d(width, 4 * width, 3, 1, 1), nn.PixelShuffle(2), nn.Conv2d(width, 3, 3, 1, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        """The picture at twice its size."""
        x = first = self.head(image)
        for block in self.body:
            x = x + block(x)
        large: Tensor = self.tail(first + self.last(x))
        return large


def edsr(width: int, blocks: int, height: int, side: int) -> Built:
    """`side` is the width of the small picture; `width` that of the layers."""
    return pictures(EDSR(width, blocks), height, side, ("large",))
