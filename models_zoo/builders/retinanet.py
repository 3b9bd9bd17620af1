"""RetinaNet (Lin et al. 2017) on ResNet-50 with a feature pyramid: raw scores and boxes of all five levels.

The pyramid is OpenMMLab's, whose two coarse levels start from the last stage's 2,048 channels. One head serves all
levels: a weight that five convolutions share.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxprune.models_zoo.builders.built import Built, pictures
from onnxprune.models_zoo.builders.resnet import STAGES, Backbone, Bottleneck

WIDTH = 256
ANCHORS = 9


class Pyramid(nn.Module):
    """Strides 8 to 128, each level 256 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, WIDTH, 1) for width in (512, 1024, 2048))
        self.output = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1) for _ in range(3))
        self.coarser = nn.ModuleList([nn.Conv2d(2048, WIDTH, 3, 2, 1), nn.Conv2d(WIDTH, WIDTH, 3, 2, 1)])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Five levels from the last three stages."""
        first, second, third = (lateral(x) for lateral, x in zip(self.lateral, maps[-3:], strict=True))
        second = second + functional.interpolate(third, size=second.shape[2:], mode="nearest")
        first = first + functional.interpolate(second, size=first.shape[2:], mode="nearest")
        levels = [output(x) for output, x in zip(self.output, (first, second, third), strict=True)]
        sixth = self.coarser[0](maps[-1])
        return [*levels, sixth, self.coarser[1](sixth)]


class Tower(nn.Module):
    """Four convolutions and one more, for boxes or for classes."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1) for _ in range(4))
        self.last = nn.Conv2d(WIDTH, ANCHORS * outputs, 3, 1, 1)
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """An answer (batch, places * anchors, outputs)."""
        for conv in self.convs:
            x = functional.relu(conv(x))
        found: Tensor = self.last(x).permute(0, 2, 3, 1)
        return found.reshape(found.shape[0], -1, self.outputs)


class RetinaNet(nn.Module):
    """Backbone, pyramid, one head for all levels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = Backbone(STAGES[50], Bottleneck, Bottleneck.expansion)
        self.neck = Pyramid()
        self.classes, self.boxes = Tower(classes), Tower(4)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Scores before the sigmoid, and boxes relative to anchors."""
        levels = self.neck(self.backbone.maps(image))
        return torch.cat([self.classes(x) for x in levels], 1), torch.cat([self.boxes(x) for x in levels], 1)


def retinanet_r50_fpn(height: int, width: int, classes: int) -> Built:
    """For pictures of any size."""
    return pictures(RetinaNet(classes), height, width, ("scores", "boxes"))
