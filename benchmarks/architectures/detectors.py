"""Detectors in plain torch: one-stage heads as their exports have them, boxes decoded in the graph or left raw."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812  everybody's name for it
from torch import nn

from architectures.case import BATCH, IMAGE, Architecture, Case
from onnxprune.models_zoo.builders.yolo import SPPF, Bottleneck, C2f, Conv

CLASSES = 5


class C3(nn.Module):
    """Two convolutions side by side, bottlenecks behind one (YOLOv5)."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.first, self.beside, self.last = Conv(a, b // 2), Conv(a, b // 2), Conv(b, b)
        self.inner = Bottleneck(b // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(torch.cat([self.inner(self.first(x)), self.beside(x)], 1))
        return out


class Focus(nn.Module):
    """Every second pixel, four times, as channels."""

    def __init__(self, b: int) -> None:
        super().__init__()
        self.conv = Conv(12, b, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        out: torch.Tensor = self.conv(torch.cat(parts, 1))
        return out


class PAN(nn.Module):
    """Features at three strides: down, up with concatenation, down again."""

    def __init__(self, stem: nn.Module, block: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.downs = nn.ModuleList([Conv(16, 32, 3, 2), Conv(32, 48, 3, 2), Conv(48, 64, 3, 2)])
        self.blocks = nn.ModuleList([block(32, 32), block(48, 48), nn.Sequential(block(64, 64), SPPF(64, 64))])
        self.up = nn.ModuleList([block(64 + 48, 48), block(48 + 32, 32)])
        self.again = nn.ModuleList([Conv(32, 32, 3, 2), Conv(48, 48, 3, 2)])
        self.down = nn.ModuleList([block(32 + 48, 48), block(48 + 64, 64)])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(x)
        maps = []
        for down, block in zip(self.downs, self.blocks, strict=True):
            x = block(down(x))
            maps.append(x)
        first, second, third = maps
        second = self.up[0](torch.cat([F.interpolate(third, scale_factor=2.0), second], 1))
        first = self.up[1](torch.cat([F.interpolate(second, scale_factor=2.0), first], 1))
        second = self.down[0](torch.cat([self.again[0](first), second], 1))
        third = self.down[1](torch.cat([self.again[1](second), third], 1))
        return [first, second, third]


def _points(maps: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    places, strides = [], []
    for i, item in enumerate(maps):
        h, w = item.shape[2:]
        rows, columns = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
        places.append(torch.stack([columns, rows]).flatten(1))
        strides.append(torch.ones(1, places[-1].size(1)) * 4 * 2**i)
    return torch.cat(places, 1), torch.cat(strides, 1)


class YOLOv8(nn.Module):
    """Decoupled heads, a distribution over 16 bins for each side, decoded to boxes in pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = PAN(Conv(3, 16, 3, 2), C2f)
        self.boxes = nn.ModuleList(nn.Sequential(Conv(w, 24, 3), nn.Conv2d(24, 64, 1)) for w in (32, 48, 64))
        self.classes = nn.ModuleList(nn.Sequential(Conv(w, 24, 3), nn.Conv2d(24, CLASSES, 1)) for w in (32, 48, 64))
        self.register_buffer("bins", torch.arange(16.0).view(1, 16, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.neck(x)
        raw = [torch.cat([b(m), c(m)], 1) for b, c, m in zip(self.boxes, self.classes, maps, strict=True)]
        joined = torch.cat([item.flatten(2) for item in raw], 2)
        boxes, scores = joined.split([64, CLASSES], 1)
        spread = boxes.unflatten(1, (4, 16)).transpose(1, 2).softmax(1)
        near, far = F.conv2d(spread, self.bins.to(spread)).squeeze(1).chunk(2, 1)
        places, strides = _points(raw)
        low, high = places - near, places + far
        return torch.cat([torch.cat([(low + high) / 2, high - low], 1) * strides, scores.sigmoid()], 1)


class YOLOv5(nn.Module):
    """Focus stem, three anchors at each place interleaved in the channels, decoded."""

    def __init__(self, *, stem: Callable[[int], nn.Module] = Focus, raw: bool = False) -> None:
        super().__init__()
        self.neck = PAN(stem(16), C3)
        self.heads = nn.ModuleList(nn.Conv2d(w, 3 * (5 + CLASSES), 1) for w in (32, 48, 64))
        self.register_buffer("anchors", torch.rand(3, 1, 3, 1, 1, 2) * 50 + 5)
        self.raw = raw

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        maps = [head(m) for head, m in zip(self.heads, self.neck(x), strict=True)]
        if self.raw:
            return maps
        found = []
        for i, item in enumerate(maps):
            b, _, h, w = item.shape
            y = item.view(b, 3, 5 + CLASSES, h, w).permute(0, 1, 3, 4, 2).sigmoid()
            rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            grid = torch.stack([columns, rows], -1) - 0.5
            centre = (y[..., 0:2] * 2 + grid) * (4.0 * 2**i)
            size = (y[..., 2:4] * 2) ** 2 * self.anchors[i]
            found.append(torch.cat([centre, size, y[..., 4:]], -1).view(b, -1, 5 + CLASSES))
        return torch.cat(found, 1)


class YOLOX(nn.Module):
    """Anchor-free, classes and boxes apart, decoded with exponentials."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = PAN(Focus(16), C3)
        self.stems = nn.ModuleList(Conv(w, 32) for w in (32, 48, 64))
        self.first = nn.ModuleList(Conv(32, 32, 3) for _ in range(3))
        self.second = nn.ModuleList(Conv(32, 32, 3) for _ in range(3))
        self.boxes = nn.ModuleList(nn.Conv2d(32, 5, 1) for _ in range(3))
        self.classes = nn.ModuleList(nn.Conv2d(32, CLASSES, 1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raw = []
        for i, item in enumerate(self.neck(x)):
            y = self.stems[i](item)
            boxes, classes = self.boxes[i](self.first[i](y)), self.classes[i](self.second[i](y))
            raw.append(torch.cat([boxes[:, :4], boxes[:, 4:].sigmoid(), classes.sigmoid()], 1))
        joined = torch.cat([item.flatten(2) for item in raw], 2).transpose(1, 2)
        places, strides = (item.t() for item in _points(raw))
        return torch.cat([(joined[..., :2] + places) * strides, joined[..., 2:4].exp() * strides, joined[..., 4:]], -1)


class SharedHeads(nn.Module):
    """A feature pyramid and one pair of heads for all its levels (RetinaNet): anchors interleaved, flattened."""

    def __init__(self, *, norm: bool = False) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Conv(3, 16, 3, 4), Conv(16, 32, 3, 2), Conv(32, 48, 3, 2), Conv(48, 64, 3, 2)])
        self.lateral = nn.ModuleList(nn.Conv2d(w, 32, 1) for w in (32, 48, 64))
        self.smooth = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(3))
        normal = [nn.GroupNorm(4, 32)] if norm else []
        self.classes, self.boxes = (
            nn.Sequential(
                nn.Conv2d(32, 32, 3, padding=1),
                *normal,
                nn.ReLU(),
                nn.Conv2d(32, 40, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(40, 3 * n, 3, padding=1),
            )
            for n in (CLASSES, 4)
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        levels: list[torch.Tensor] = []
        for lateral, item in zip(reversed(self.lateral), reversed(maps[1:]), strict=True):
            here = lateral(item)
            levels.insert(0, here + F.interpolate(levels[0], here.shape[2:]) if levels else here)
        levels = [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]
        return _flat(self.classes, levels, CLASSES).sigmoid(), _flat(self.boxes, levels, 4)


def _flat(head: nn.Module, levels: list[torch.Tensor], width: int) -> torch.Tensor:
    parts = []
    for level in levels:
        y = head(level)
        b, _, h, w = y.shape
        parts.append(y.view(b, 3, width, h, w).permute(0, 3, 4, 1, 2).reshape(b, -1, width))
    return torch.cat(parts, 1)


class CenterNet(nn.Module):
    """Heat map peaks by max pooling, the best of them by TopK, sizes gathered at their places."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(Conv(3, 16, 3, 2), Conv(16, 32, 3, 2), Conv(32, 40, 3))
        self.heat = nn.Sequential(nn.Conv2d(40, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, CLASSES, 1))
        self.size = nn.Sequential(nn.Conv2d(40, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 2, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.features(x)
        heat = self.heat(x).sigmoid()
        heat = heat * (F.max_pool2d(heat, 3, 1, 1) == heat)
        scores, index = heat.flatten(1).topk(8)
        places = index % (16 * 16)
        sizes = self.size(x).flatten(2).transpose(1, 2)
        return scores, index, sizes.gather(1, places[..., None].expand(-1, -1, 2))


def _build(network: Callable[[], nn.Module], exporter: str, *, free: bool = False) -> Case:
    return Case(network(), {"images": torch.randn(2, 3, 64, 64)}, {"images": IMAGE if free else BATCH})


_NETS: dict[str, Callable[[str], Case]] = {
    "yolov8_like": partial(_build, YOLOv8),
    "yolov8_like_free": partial(_build, YOLOv8, free=True),
    "yolov5_like": partial(_build, YOLOv5),
    "yolov5_like_raw": partial(_build, partial(YOLOv5, raw=True)),
    "yolox_like": partial(_build, YOLOX),
    "retinanet_like": partial(_build, SharedHeads, free=True),
    "fcos_like": partial(_build, partial(SharedHeads, norm=True)),
    "centernet_like": partial(_build, CenterNet),
}
ARCHITECTURES = tuple(Architecture(name, build, "detectors") for name, build in _NETS.items())
