"""RTMPose-s (Jiang et al. 2023): CSPNeXt finds a map per keypoint, attention among keypoints, SimCC says where each is.

picture -> CSPNeXt-s -> 7x7 to one map per keypoint -> a token for each -> gated attention -> x and y as classes,
two to a pixel
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxprune.models_zoo.builders.built import Built, pictures
from onnxprune.models_zoo.builders.yolo import Conv


class DepthwiseBlock(nn.Module):
    """CSPNeXt's block: 3x3, then depthwise 5x5 and 1x1."""

    def __init__(self, width: int, *, skip: bool) -> None:
        super().__init__()
        self.first, self.skip = Conv(width, width, 3), skip
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False)
        self.norm, self.last = nn.BatchNorm2d(width), Conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        y: Tensor = self.last(functional.silu(self.norm(self.depthwise(self.first(x)))))
        return x + y if self.skip else y


class CSPStage(nn.Module):
    """Two ways side by side, concatenated, each channel weighted by attention."""

    def __init__(self, width: int, blocks: int, *, skip: bool) -> None:
        super().__init__()
        half = width // 2
        self.main, self.short, self.last = Conv(width, half), Conv(width, half), Conv(width, width)
        self.blocks = nn.Sequential(*(DepthwiseBlock(half, skip=skip) for _ in range(blocks)))
        self.attention = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One stage."""
        both = torch.cat([self.blocks(self.main(x)), self.short(x)], 1)
        both = both * functional.hardsigmoid(self.attention(functional.adaptive_avg_pool2d(both, 1)))
        out: Tensor = self.last(both)
        return out


class SPP(nn.Module):
    """Poolings of three sizes side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = Conv(width, width // 2), Conv(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The same map, having seen far."""
        x = self.first(x)
        out: Tensor = self.last(torch.cat([x, *(functional.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13))], 1))
        return out


class ScaleNorm(nn.Module):
    """By the root of the mean square, one gain for all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.gain = width**-0.5, nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised."""
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * self.scale
        scaled: Tensor = x / size.clamp(min=1e-5) * self.gain
        return scaled


class GatedAttention(nn.Module):
    """RTMPose's gated attention unit: tokens are keypoints."""

    def __init__(self, width: int, queries: int) -> None:
        super().__init__()
        self.hidden, self.queries = 2 * width, queries
        self.norm = ScaleNorm(width)
        self.into = nn.Linear(width, 2 * self.hidden + queries, bias=False)
        self.out = nn.Linear(self.hidden, width, bias=False)
        self.gamma, self.beta = nn.Parameter(torch.rand(2, queries)), nn.Parameter(torch.rand(2, queries))
        self.skip = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Every keypoint asks all keypoints."""
        sizes = [self.hidden, self.hidden, self.queries]
        gate, value, base = torch.split(functional.silu(self.into(self.norm(x))), sizes, 2)
        q, k = (base[:, :, None] * self.gamma + self.beta).unbind(2)
        weights = (q @ k.transpose(1, 2) / self.queries**0.5).relu().square()
        out: Tensor = x * self.skip + self.out(gate * (weights @ value))
        return out


class RTMPose(nn.Module):
    """CSPNeXt, then one map per keypoint, a token for each, and its coordinates as two classifications."""

    WIDTHS = (32, 64, 128, 256, 512)
    BLOCKS = (1, 2, 2, 1)

    def __init__(self, height: int, width: int, keypoints: int) -> None:
        super().__init__()
        first = self.WIDTHS[0]
        layers: list[nn.Module] = [Conv(3, first // 2, 3, 2), Conv(first // 2, first // 2, 3)]
        layers.append(Conv(first // 2, first, 3))
        for a, b, blocks in zip(self.WIDTHS, self.WIDTHS[1:], self.BLOCKS, strict=False):
            last = b == self.WIDTHS[-1]
            layers.append(Conv(a, b, 3, 2))
            layers += [SPP(b)] if last else []
            layers.append(CSPStage(b, blocks, skip=not last))
        self.backbone = nn.Sequential(*layers)
        self.maps = nn.Conv2d(self.WIDTHS[-1], keypoints, 7, padding=3)
        places = height * width // 32**2
        self.tokens = nn.Sequential(ScaleNorm(places), nn.Linear(places, 256, bias=False), GatedAttention(256, 128))
        self.x, self.y = (nn.Linear(256, 2 * side, bias=False) for side in (width, height))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Where each keypoint lies, along x and along y."""
        tokens = self.tokens(self.maps(self.backbone(image)).flatten(2))
        return self.x(tokens), self.y(tokens)


def rtmpose_s(height: int, width: int, keypoints: int) -> Built:
    """For a person that fills the picture."""
    return pictures(RTMPose(height, width, keypoints), height, width, ("x", "y"))
