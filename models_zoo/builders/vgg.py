"""VGG (Simonyan and Zisserman 2015) with BatchNormalization: for 224 px as torchvision has it, and for 32 px.

For CIFAR-10 the convolutions end at one pixel, and two linear layers follow, with BatchNormalization between them: the
VGG-16 of 15 M parameters and 313 M multiply-accumulates in "Pruning Filters for Efficient ConvNets" (Li et al. 2017).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from onnxprune.models_zoo.builders.built import Built, pictures

STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions per stage; a pooling ends each."""
WIDTHS = (64, 128, 256, 512, 512)
SLIM = ((32,), (64,), (128, 128), (128, 128))


def _features(stages: Sequence[Sequence[int]], *, bias: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = 3
    for stage in stages:
        for outputs in stage:
            layers += [nn.Conv2d(width, outputs, 3, 1, 1, bias=bias), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            width = outputs
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _stages(depth: int) -> list[tuple[int, ...]]:
    return [(width,) * count for width, count in zip(WIDTHS, STAGES[depth], strict=True)]


class VGG(nn.Module):
    """For 224 px: three linear layers on 7 x 7 pixels."""

    def __init__(self, depth: int, classes: int) -> None:
        super().__init__()
        self.features = _features(_stages(depth), bias=True)
        first = (nn.Linear(512 * 49, 4096), nn.ReLU(inplace=True), nn.Dropout())
        second = (nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout())
        self.classifier = nn.Sequential(*first, *second, nn.Linear(4096, classes))

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch of images."""
        logits: Tensor = self.classifier(self.features(image).flatten(1))
        return logits


class SmallVGG(nn.Module):
    """For 32 px: what the last pooling leaves is averaged, and classified."""

    def __init__(self, stages: Sequence[Sequence[int]], classifier: nn.Module) -> None:
        super().__init__()
        self.features = _features(stages, bias=False)
        self.classifier = classifier

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch of images."""
        logits: Tensor = self.classifier(self.features(image).mean((2, 3)))
        return logits


def vgg(depth: int, classes: int) -> Built:
    """For 224 px."""
    return pictures(VGG(depth, classes), 224)


def vgg_cifar(depth: int, classes: int) -> Built:
    """For 32 px."""
    layers = {"fc1": nn.Linear(512, 512), "bn": nn.BatchNorm1d(512), "relu": nn.ReLU(inplace=True)}
    classifier = nn.Sequential(OrderedDict(layers, fc2=nn.Linear(512, classes)))
    return pictures(SmallVGG(_stages(depth), classifier), 32)


def slim_vgg(classes: int) -> Built:
    """For 32 px, half a million parameters."""
    return pictures(SmallVGG(SLIM, nn.Linear(SLIM[-1][-1], classes)), 32)
