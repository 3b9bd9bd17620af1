"""The networks of benchmarks/speed.py as ONNX files, in full size: torchvision's, BERT-base, two written out here.

Weights are random (architectures/weights.py says how), BatchNormalization is folded, and each file is run in
onnxruntime and compared with torch before it gets its name. What is published about a network's size stands beside it,
and what came out is printed.

    python benchmarks/speed_models.py OUT [--models mobilenet_v2,rtmpose_s] [--size 320]

writes OUT/<model>.onnx; files that exist are kept. --size is the side of RetinaNet's image (default: 640).
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  everybody's name for it
from architectures.case import BATCH, Architecture, Case
from architectures.detectors import SPPF, C2f, Conv
from architectures.exporting import export
from architectures.vision_ops import torchvision
from torch import nn

CLASSES = 80
"""Of COCO, for detectors."""
KEYPOINTS = 17
TOKENS = 128
RETINANET_SIDE = 640


class DepthwiseBlock(nn.Module):
    """CSPNeXt's block: 3x3, then depthwise 5x5 and 1x1."""

    def __init__(self, width: int, *, skip: bool) -> None:
        super().__init__()
        self.first, self.skip = Conv(width, width, 3), skip
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False)
        self.norm, self.last = nn.BatchNorm2d(width), Conv(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(F.silu(self.norm(self.depthwise(self.first(x)))))
        return x + y if self.skip else y


class CSPStage(nn.Module):
    """Two ways side by side, concatenated, each channel weighted by attention."""

    def __init__(self, width: int, blocks: int, *, skip: bool) -> None:
        super().__init__()
        half = width // 2
        self.main, self.short, self.last = Conv(width, half), Conv(width, half), Conv(width, width)
        self.blocks = nn.Sequential(*(DepthwiseBlock(half, skip=skip) for _ in range(blocks)))
        self.attention = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.blocks(self.main(x)), self.short(x)], 1)
        both = both * F.hardsigmoid(self.attention(F.adaptive_avg_pool2d(both, 1)))
        out: torch.Tensor = self.last(both)
        return out


class SPP(nn.Module):
    """Poolings of three sizes side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = Conv(width, width // 2), Conv(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        out: torch.Tensor = self.last(torch.cat([x, *(F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13))], 1))
        return out


class ScaleNorm(nn.Module):
    """By the root of the mean square, one gain for all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.gain = width**-0.5, nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * self.scale
        return x / size.clamp(min=1e-5) * self.gain


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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value, base = F.silu(self.into(self.norm(x))).split([self.hidden, self.hidden, self.queries], 2)
        q, k = (base[:, :, None] * self.gamma + self.beta).unbind(2)
        weights = (q @ k.transpose(1, 2) / self.queries**0.5).relu().square()
        out: torch.Tensor = x * self.skip + self.out(gate * (weights @ value))
        return out


class RTMPose(nn.Module):
    """CSPNeXt, then one map per keypoint, a token for each, and its coordinates as two classifications."""

    WIDTHS = (32, 64, 128, 256, 512)
    BLOCKS = (1, 2, 2, 1)
    HEIGHT, WIDTH = 256, 192

    def __init__(self) -> None:
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
        self.maps = nn.Conv2d(self.WIDTHS[-1], KEYPOINTS, 7, padding=3)
        places = self.HEIGHT * self.WIDTH // 32**2
        self.tokens = nn.Sequential(ScaleNorm(places), nn.Linear(places, 256, bias=False), GatedAttention(256, 128))
        self.x, self.y = (nn.Linear(256, 2 * side, bias=False) for side in (self.WIDTH, self.HEIGHT))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.tokens(self.maps(self.backbone(image)).flatten(2))
        return self.x(tokens), self.y(tokens)


class YOLOv8s(nn.Module):
    """C2f backbone, SPPF, pyramid down and up, decoupled heads, boxes decoded: what exports of YOLOv8-s look like."""

    STRIDES = (8, 16, 32)
    BINS = 16

    def __init__(self) -> None:
        super().__init__()
        stem = (Conv(3, 32, 3, 2), Conv(32, 64, 3, 2))
        self.first = nn.Sequential(*stem, C2f(64, 64), Conv(64, 128, 3, 2), C2f(128, 128, 2))
        self.second = nn.Sequential(Conv(128, 256, 3, 2), C2f(256, 256, 2))
        self.third = nn.Sequential(Conv(256, 512, 3, 2), C2f(512, 512), SPPF(512, 512))
        self.up = nn.ModuleList([C2f(768, 256, skip=False), C2f(384, 128, skip=False)])
        self.again = nn.ModuleList([Conv(128, 128, 3, 2), Conv(256, 256, 3, 2)])
        self.down = nn.ModuleList([C2f(384, 256, skip=False), C2f(768, 512, skip=False)])
        self.boxes = nn.ModuleList(self._head(width, 64, 4 * self.BINS) for width in (128, 256, 512))
        self.classes = nn.ModuleList(self._head(width, 128, CLASSES) for width in (128, 256, 512))
        self.register_buffer("bins", torch.arange(float(self.BINS)).view(1, self.BINS, 1, 1))

    @staticmethod
    def _head(width: int, inner: int, outputs: int) -> nn.Module:
        return nn.Sequential(Conv(width, inner, 3), Conv(inner, inner, 3), nn.Conv2d(inner, outputs, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first = self.first(image)
        second = self.second(first)
        third = self.third(second)
        second = self.up[0](torch.cat([F.interpolate(third, scale_factor=2.0), second], 1))
        first = self.up[1](torch.cat([F.interpolate(second, scale_factor=2.0), first], 1))
        second = self.down[0](torch.cat([self.again[0](first), second], 1))
        third = self.down[1](torch.cat([self.again[1](second), third], 1))
        raw = [
            torch.cat([box(x), kind(x)], 1).flatten(2)
            for box, kind, x in zip(self.boxes, self.classes, (first, second, third), strict=True)
        ]
        boxes, scores = torch.cat(raw, 2).split([4 * self.BINS, CLASSES], 1)
        spread = boxes.unflatten(1, (4, self.BINS)).transpose(1, 2).softmax(1)
        near, far = F.conv2d(spread, self.bins.to(spread)).squeeze(1).chunk(2, 1)
        places, strides = self._places(image)
        low, high = places - near, places + far
        return torch.cat([torch.cat([(low + high) / 2, high - low], 1) * strides, scores.sigmoid()], 1)

    def _places(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each cell lies, in its stride, and the stride."""
        places, strides = [], []
        for stride in self.STRIDES:
            sides = [torch.arange(side // stride) + 0.5 for side in image.shape[2:]]
            rows, columns = torch.meshgrid(*sides, indexing="ij")
            places.append(torch.stack([columns, rows]).flatten(1))
            strides.append(torch.full((1, places[-1].size(1)), float(stride)))
        return torch.cat(places, 1), torch.cat(strides, 1)


class RetinaNet(nn.Module):
    """torchvision's backbone, pyramid and heads without anchors and suppression: raw scores and boxes of all levels."""

    def __init__(self) -> None:
        super().__init__()
        detection = torchvision().models.detection
        whole = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES)
        self.backbone, self.head = whole.backbone, whole.head

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.head(list(self.backbone(image).values()))
        return found["cls_logits"], found["bbox_regression"]


def _image(network: Callable[[], nn.Module], height: int, width: int, exporter: str) -> Case:
    return Case(network(), {"image": torch.randn(2, 3, height, width)}, {"image": BATCH})


def _named(name: str) -> Callable[[str], Case]:
    return functools.partial(_image, lambda: torchvision().models.get_model(name, weights=None), 224, 224)


def _bert(exporter: str) -> Case:
    torchvision()
    import transformers

    config = transformers.BertConfig()
    config._attn_implementation = "eager"
    ids = torch.randint(1000, config.vocab_size, (2, TOKENS))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    network = transformers.BertModel(config)

    def call(module: Any, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        return module(input_ids=ids, attention_mask=mask, return_dict=True)

    return Case(network, inputs, dict.fromkeys(inputs, BATCH), call)


@dataclass(frozen=True)
class Published:
    """What a network's authors say of it, where this is that network; in millions."""

    params: float
    macs: float


@dataclass(frozen=True)
class Network:
    """How it is built, and how big it should be."""

    build: Callable[[str], Case]
    published: Published | None = None


def networks(side: int = RETINANET_SIDE) -> dict[str, Network]:
    """All of them by name, the cheap ones first."""
    return {
        "mobilenet_v2": Network(_named("mobilenet_v2"), Published(3.5, 301)),
        "rtmpose_s": Network(functools.partial(_image, RTMPose, RTMPose.HEIGHT, RTMPose.WIDTH), Published(5.47, 680)),
        "efficientnet_b0": Network(_named("efficientnet_b0"), Published(5.3, 386)),
        "resnet50": Network(_named("resnet50"), Published(25.6, 4089)),
        "densenet121": Network(_named("densenet121"), Published(8.0, 2834)),
        "yolov8_s": Network(functools.partial(_image, YOLOv8s, 320, 320), Published(11.2, 3575)),
        "bert_base": Network(_bert),
        "vit_b_16": Network(_named("vit_b_16"), Published(86.6, 17564)),
        "retinanet_r50_fpn": Network(functools.partial(_image, RetinaNet, side, side)),
    }


def write(name: str, folder: Path, side: int = RETINANET_SIDE) -> Path:
    """The network's file, made if it does not exist."""
    path = folder / f"{name}.onnx"
    if path.exists():
        return path
    import onnxprune

    folder.mkdir(parents=True, exist_ok=True)
    network = networks(side)[name]
    partial = path.with_name(f".{path.name}")
    try:
        found = export(Architecture(name, network.build, "speed"), "legacy", partial)
        size = onnxprune.cost(onnxprune.load(partial))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    line = f"{name:18s} {size.params / 1e6:7.2f} M parameters {size.macs / 1e6:8.0f} M MACs"
    if network.published is not None:
        line += f"  published: {network.published.params:6.2f} M {network.published.macs:6.0f} M"
    print(line, found.note, flush=True)
    return path


def main() -> None:
    """Write what does not exist yet."""
    known = networks()
    parser = argparse.ArgumentParser(description="Write the networks of the speed benchmark as ONNX files.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", default=",".join(known), help="comma-separated; default: all")
    parser.add_argument("--size", type=int, default=RETINANET_SIDE, help="side of RetinaNet's image (default: 640)")
    options = parser.parse_args()
    for name in options.models.split(","):
        if name not in known:
            raise SystemExit(f"unknown model {name!r}; known: {', '.join(known)}")
        write(name, options.out, options.size)


if __name__ == "__main__":
    main()
