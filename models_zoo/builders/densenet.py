"""DenseNet (Huang et al. 2017): every layer reads what all layers before it in its block gave; torchvision's names.

norm -> relu -> 1x1 -> norm -> relu -> 3x3 -> 32 more channels, concatenated
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxprune.models_zoo.builders.built import Built, pictures

LAYERS = (6, 12, 24, 16)
"""Of each block of DenseNet-121."""
GROWTH, NARROW, STEM = 32, 128, 64


class DenseLayer(nn.Module):
    """What one layer adds."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, NARROW, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(NARROW), nn.Conv2d(NARROW, GROWTH, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """All there was, and 32 channels more."""
        y = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(y)))], 1)


class DenseNet(nn.Module):
    """Stem, four blocks with halving in between, mean, one linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {
            "conv0": nn.Conv2d(3, STEM, 7, 2, 3, bias=False),
            "norm0": nn.BatchNorm2d(STEM),
            "relu0": nn.ReLU(inplace=True),
            "pool0": nn.MaxPool2d(3, 2, 1),
        }
        width = STEM
        for number, count in enumerate(LAYERS, 1):
            dense = {f"denselayer{i + 1}": DenseLayer(width + i * GROWTH) for i in range(count)}
            layers[f"denseblock{number}"] = nn.Sequential(OrderedDict(dense))
            width += count * GROWTH
            if number < len(LAYERS):
                layers[f"transition{number}"] = _halving(width)
                width //= 2
        layers["norm5"] = nn.BatchNorm2d(width)
        self.features = nn.Sequential(OrderedDict(layers))
        self.classifier = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch of images."""
        logits: Tensor = self.classifier(functional.relu(self.features(image)).mean((2, 3)))
        return logits


def _halving(width: int) -> nn.Module:
    layers = {
        "norm": nn.BatchNorm2d(width),
        "relu": nn.ReLU(inplace=True),
        "conv": nn.Conv2d(width, width // 2, 1, bias=False),
        "pool": nn.AvgPool2d(2, 2),
    }
    return nn.Sequential(OrderedDict(layers))


def densenet121(side: int, classes: int) -> Built:
    """Of 121 layers."""
    return pictures(DenseNet(classes), side)
