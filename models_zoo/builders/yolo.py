"""A detector after YOLOv8 (Ultralytics 2023): what its exports look like, boxes decoded in the graph.

strides 8, 16, 32 -> down, up with concatenation, down again -> per level a distribution over 16 bins for each side
of a box, and scores -> (batch, 4 + classes, places): centre and size in pixels, scores from 0 to 1
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxprune.models_zoo.builders.built import Built, pictures

STRIDES = (8, 16, 32)
BINS = 16


class Conv(nn.Sequential):
    """Convolution, normalisation, SiLU."""

    def __init__(self, a: int, b: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(b), nn.SiLU())


class Bottleneck(nn.Module):
    """Two convolutions and, where asked for, a skip."""

    def __init__(self, width: int, *, skip: bool = True) -> None:
        super().__init__()
        self.first, self.second, self.skip = Conv(width, width, 3), Conv(width, width, 3), skip

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        y: Tensor = self.second(self.first(x))
        return x + y if self.skip else y


class C2f(nn.Module):
    """One convolution split in two; every bottleneck's answer is concatenated."""

    def __init__(self, a: int, b: int, n: int = 1, *, skip: bool = True) -> None:
        super().__init__()
        self.first, self.last = Conv(a, b), Conv((2 + n) * (b // 2), b)
        self.inner = nn.ModuleList(Bottleneck(b // 2, skip=skip) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        """One stage."""
        parts = list(self.first(x).chunk(2, 1))
        for block in self.inner:
            parts.append(block(parts[-1]))
        out: Tensor = self.last(torch.cat(parts, 1))
        return out


class SPPF(nn.Module):
    """Poolings of poolings, concatenated."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.first, self.last = Conv(a, a // 2), Conv(2 * a, b)

    def forward(self, x: Tensor) -> Tensor:
        """The same map, having seen far."""
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(functional.max_pool2d(parts[-1], 5, 1, 2))
        out: Tensor = self.last(torch.cat(parts, 1))
        return out


class YOLOv8(nn.Module):
    """Of a first width: 16 is the nano model, 32 the small one."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        w2, w4, w8, w16 = (width * times for times in (2, 4, 8, 16))
        self.split = [4 * BINS, classes]
        stem = (Conv(3, width, 3, 2), Conv(width, w2, 3, 2))
        self.first = nn.Sequential(*stem, C2f(w2, w2), Conv(w2, w4, 3, 2), C2f(w4, w4, 2))
        self.second = nn.Sequential(Conv(w4, w8, 3, 2), C2f(w8, w8, 2))
        self.third = nn.Sequential(Conv(w8, w16, 3, 2), C2f(w16, w16), SPPF(w16, w16))
        self.up = nn.ModuleList([C2f(w16 + w8, w8, skip=False), C2f(w8 + w4, w4, skip=False)])
        self.again = nn.ModuleList([Conv(w4, w4, 3, 2), Conv(w8, w8, 3, 2)])
        self.down = nn.ModuleList([C2f(w4 + w8, w8, skip=False), C2f(w8 + w16, w16, skip=False)])
        inner = max(w4, min(classes, 100))
        self.boxes = nn.ModuleList(_head(a, max(64, w4 // 4), 4 * BINS) for a in (w4, w8, w16))
        self.classes = nn.ModuleList(_head(a, inner, classes) for a in (w4, w8, w16))
        self.bins: Tensor
        self.register_buffer("bins", torch.arange(float(BINS)).view(1, BINS, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Boxes and scores at all places."""
        first = self.first(image)
        second = self.second(first)
        third = self.third(second)
        second = self.up[0](torch.cat([functional.interpolate(third, scale_factor=2.0), second], 1))
        first = self.up[1](torch.cat([functional.interpolate(second, scale_factor=2.0), first], 1))
        second = self.down[0](torch.cat([self.again[0](first), second], 1))
        third = self.down[1](torch.cat([self.again[1](second), third], 1))
        raw = [
            torch.cat([box(x), kind(x)], 1).flatten(2)
            for box, kind, x in zip(self.boxes, self.classes, (first, second, third), strict=True)
        ]
        boxes, scores = torch.split(torch.cat(raw, 2), self.split, 1)
        spread = boxes.reshape(image.shape[0], 4, BINS, -1).transpose(1, 2).softmax(1)
        near, far = functional.conv2d(spread, self.bins.to(spread)).squeeze(1).chunk(2, 1)
        places, strides = _places(image)
        low, high = places - near, places + far
        return torch.cat([torch.cat([(low + high) / 2, high - low], 1) * strides, scores.sigmoid()], 1)


def _head(width: int, inner: int, outputs: int) -> nn.Module:
    return nn.Sequential(Conv(width, inner, 3), Conv(inner, inner, 3), nn.Conv2d(inner, outputs, 1))


def _places(image: Tensor) -> tuple[Tensor, Tensor]:
    """Where each cell lies, in its stride, and the stride."""
    places, strides = [], []
    for stride in STRIDES:
        sides = [torch.arange(side // stride) + 0.5 for side in image.shape[2:]]
        rows, columns = torch.meshgrid(*sides, indexing="ij")
        places.append(torch.stack([columns, rows]).flatten(1))
        strides.append(torch.full((1, places[-1].size(1)), float(stride)))
    return torch.cat(places, 1), torch.cat(strides, 1)


def yolov8(width: int, side: int, classes: int) -> Built:
    """For square pictures whose side is a multiple of 32."""
    return pictures(YOLOv8(width, classes), side, outputs=("detections",))
