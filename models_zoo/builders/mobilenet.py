"""MobileNetV2 (Sandler et al. 2018): narrow between blocks, wide and depthwise inside; names as torchvision gives them.

x -> 1x1 to t * width -> 3x3 depthwise -> 1x1 to width (no activation) -> + x where nothing changed its shape
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from onnxprune.models_zoo.builders.built import Built, pictures

Stage = tuple[int, int, int, int]
"""Expansion, width, blocks, stride of the first."""

IMAGENET: tuple[Stage, ...] = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
SLIM: tuple[Stage, ...] = ((1, 24, 1, 2), (4, 24, 1, 1), (4, 40, 2, 2), (4, 80, 3, 1))
"""For pictures of 32 px: 16 px in the first two stages, 8 px in the others."""


class Normed(nn.Sequential):
    """Convolution, normalisation, ReLU6."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Widened, filtered channel by channel, narrowed again."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        widen = [Normed(inputs, inner, 1)] if expansion != 1 else []
        narrow = (nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.conv = nn.Sequential(*widen, Normed(inner, inner, 3, stride, groups=inner), *narrow)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        y: Tensor = self.conv(x)
        return x + y if self.skips else y


class MobileNetV2(nn.Module):
    """Stem, blocks, one 1x1 convolution, mean, one linear layer."""

    def __init__(self, stages: Sequence[Stage], stem: int, stem_stride: int, last: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [Normed(3, stem, 3, stem_stride)]
        width = stem
        for expansion, outputs, blocks, stride in stages:
            for i in range(blocks):
                layers.append(InvertedResidual(width, outputs, 1 if i else stride, expansion))
                width = outputs
        self.features = nn.Sequential(*layers, Normed(width, last, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch of images."""
        logits: Tensor = self.classifier(self.features(image).mean((2, 3)))
        return logits


def mobilenet_v2(side: int, classes: int) -> Built:
    """As published."""
    return pictures(MobileNetV2(IMAGENET, 32, 2, 1280, classes), side)


def slim_mobilenet_v2(classes: int) -> Built:
    """A small one for 32 px."""
    return pictures(MobileNetV2(SLIM, 16, 1, 256, classes), 32)
