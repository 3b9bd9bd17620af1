"""The networks of benchmarks/speed.py as ONNX files, in full size: torchvision's, BERT-base, two of the zoo.

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
from architectures.case import BATCH, Architecture, Case
from architectures.exporting import export
from architectures.vision_ops import torchvision
from torch import nn

from onnxprune.models_zoo.builders.rtmpose import RTMPose
from onnxprune.models_zoo.builders.yolo import YOLOv8

CLASSES = 80
"""Of COCO, for detectors."""
KEYPOINTS = 17
TOKENS = 128
RETINANET_SIDE = 640


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


def _rtmpose() -> nn.Module:
    return RTMPose(256, 192, KEYPOINTS)


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
        "rtmpose_s": Network(functools.partial(_image, _rtmpose, 256, 192), Published(5.47, 680)),
        "efficientnet_b0": Network(_named("efficientnet_b0"), Published(5.3, 386)),
        "resnet50": Network(_named("resnet50"), Published(25.6, 4089)),
        "densenet121": Network(_named("densenet121"), Published(8.0, 2834)),
        "yolov8_s": Network(functools.partial(_image, lambda: YOLOv8(32, CLASSES), 320, 320), Published(11.2, 3575)),
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
