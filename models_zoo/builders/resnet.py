"""ResNet (He et al. 2016) and ResNeXt (Xie et al. 2017) for 224 px, with torchvision's names.

The stride is in the 3x3 convolution of a bottleneck, as torchvision and OpenMMLab have it ("v1.5").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from onnxprune.models_zoo.builders.built import Built, pictures

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks per stage."""

Make = Callable[[int, int, int], nn.Module]
"""Inputs, the stage's width, stride -> a block."""


def _around(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, and the way round them."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.downsample = _around(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1 to narrow, 3x3 in groups, 1x1 to four times the stage's width, and the way round them."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, groups: int = 1, per_group: int = 64) -> None:
        super().__init__()
        inner, outputs = width * per_group // 64 * groups, width * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = _around(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(functional.relu(self.bn2(self.conv2(y)))))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class Backbone(nn.Module):
    """Stem and four stages; what each stage ends with is what it gives."""

    def __init__(self, blocks: Sequence[int], make: Make, expansion: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.stages = [f"layer{number + 1}" for number in range(len(blocks))]
        inputs = 64
        for number, count in enumerate(blocks):
            width = 64 << number
            stage = [make(inputs, width, 1 if number == 0 else 2)]
            stage += [make(width * expansion, width, 1) for _ in range(count - 1)]
            self.add_module(f"layer{number + 1}", nn.Sequential(*stage))
            inputs = width * expansion

    def maps(self, image: Tensor) -> list[Tensor]:
        """At strides 4, 8, 16 and 32."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        found = []
        for name in self.stages:
            x = self.get_submodule(name)(x)
            found.append(x)
        return found


class ResNet(Backbone):
    """With the classifier."""

    def __init__(self, blocks: Sequence[int], make: Make, expansion: int, classes: int) -> None:
        super().__init__(blocks, make, expansion)
        self.fc = nn.Linear(512 * expansion, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch of images."""
        logits: Tensor = self.fc(self.maps(image)[-1].mean((2, 3)))
        return logits


def resnet(depth: int, side: int, classes: int) -> Built:
    """Of 18, 34, 50, 101 or 152 layers."""
    block = BasicBlock if depth < 50 else Bottleneck
    return pictures(ResNet(STAGES[depth], block, block.expansion, classes), side)


def resnext50(side: int, classes: int) -> Built:
    """32 groups of 4 channels in the first stage."""

    def make(inputs: int, width: int, stride: int) -> nn.Module:
        return Bottleneck(inputs, width, stride, groups=32, per_group=4)

    return pictures(ResNet(STAGES[50], make, Bottleneck.expansion, classes), side)
