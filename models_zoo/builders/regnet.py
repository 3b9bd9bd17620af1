"""RegNetY (Radosavovic et al. 2020): widths along a line, grouped convolutions, squeeze and excitation."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from onnxprune.models_zoo.builders.built import Built, pictures

Y400MF = ((48, 1), (104, 3), (208, 6), (440, 6))
"""Width and blocks of each stage of RegNetY-400MF, its groups being 8 wide."""
GROUP_WIDTH = 8
STEM = 32


class Normed(nn.Sequential):
    """Convolution, normalisation, and ReLU where asked for."""

    def __init__(self, a: int, b: int, kernel: int, stride: int = 1, groups: int = 1, *, relu: bool = True) -> None:
        conv = nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(b), *([nn.ReLU(inplace=True)] if relu else []))


class SqueezeExcite(nn.Module):
    """Each channel weighted by what the means of all channels say."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The same channels, weighted."""
        scale: Tensor = self.fc2(functional.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * scale.sigmoid()


class Block(nn.Module):
    """1x1, 3x3 in groups, weighting, 1x1, and the way round them."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.a = Normed(inputs, width, 1)
        self.b = Normed(width, width, 3, stride, width // GROUP_WIDTH)
        self.se = SqueezeExcite(width, round(inputs / 4))
        self.c = Normed(width, width, 1, relu=False)
        self.proj = None if stride == 1 and inputs == width else Normed(inputs, width, 1, stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        y: Tensor = self.c(self.se(self.b(self.a(x))))
        return functional.relu(y + (x if self.proj is None else self.proj(x)))


class RegNet(nn.Module):
    """Stem, four stages, mean, one linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = Normed(3, STEM, 3, 2)
        stages, inputs = [], STEM
        for width, count in Y400MF:
            blocks = [Block(inputs, width, 2), *(Block(width, width, 1) for _ in range(count - 1))]
            stages.append(nn.Sequential(*blocks))
            inputs = width
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch of images."""
        logits: Tensor = self.fc(self.stages(self.stem(image)).mean((2, 3)))
        return logits


def regnet_y_400mf(side: int, classes: int) -> Built:
    """The one of 400 million multiply-accumulates."""
    return pictures(RegNet(classes), side)
