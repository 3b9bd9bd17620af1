"""The networks of the zoo by name: how each is built, how large it is, and who says so. Nothing here needs torch.

Counts are in millions. MACs are of one sample at the default sizes, and count multiply-accumulates of convolutions,
linear layers and products of activations; where the source counts anything else, its name says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from onnxprune.errors import UserError
from onnxprune.text.names import suggest

MOST = 1 << 17
"""Of any size: far beyond what anybody builds, far below what fills a machine by a slip."""


@dataclass(frozen=True)
class Published:
    """What a network's authors, or those who ship it, say of its size; where they do not, what is counted here."""

    params: float
    macs: float
    source: str


@dataclass(frozen=True)
class Network:
    """One network."""

    name: str
    builder: str
    """`family.function` in `onnxprune.models_zoo.builders`."""
    about: str
    published: Published
    fixed: Mapping[str, int] = field(default_factory=dict)
    """What the builder is always given."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """What it is given if nobody asks for anything else."""

    def sized(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Everything the builder is given."""
        for name, value in wanted.items():
            if name not in self.sizes:
                known = ", ".join(self.sizes) or "none"
                raise UserError(f"{self.name} has no size {name!r}{suggest(name, self.sizes)} (there are: {known})")
            if not 1 <= value <= MOST:
                raise UserError(f"{self.name}: {name} must be 1 to {MOST}, not {value}")
        return {**self.fixed, **self.sizes, **wanted}


_TORCHVISION = "torchvision's table of weights"
_COUNTED = "counted here"
_SEED_FLOPS = "OpenMMLab, normalisations counted"
_IMAGENET = {"side": 224, "classes": 1000}
_CIFAR = {"classes": 10}
_COCO = {"classes": 80}


def _vgg(depth: int, params: float, macs: float) -> Network:
    said = Published(params, macs, _TORCHVISION)
    return Network(f"vgg{depth}", "vgg.vgg", "with BatchNormalization", said, {"depth": depth}, {"classes": 1000})


def _vgg_cifar(depth: int, params: float, macs: float, source: str = _COUNTED) -> Network:
    said = Published(params, macs, source)
    about = "for 32 px"
    return Network(f"vgg{depth}_cifar", "vgg.vgg_cifar", about, said, {"depth": depth}, _CIFAR)


def _resnet(depth: int, params: float, macs: float) -> Network:
    said = Published(params, macs, _TORCHVISION)
    return Network(f"resnet{depth}", "resnet.resnet", "residual network", said, {"depth": depth}, _IMAGENET)


def _resnet_cifar(depth: int, params: float, macs: float) -> Network:
    said = Published(params, macs, "He et al. 2019 (FPGM), table 2")
    return Network(f"resnet{depth}", "resnet_cifar.resnet_cifar", "for 32 px", said, {"depth": depth}, _CIFAR)


def _vit(name: str, width: int, heads: int, params: float, macs: float) -> Network:
    said = Published(params, macs, "timm's table of models")
    about = "vision transformer"
    return Network(name, "vit.vit", about, said, {"width": width, "depth": 12, "heads": heads}, _IMAGENET)


_ALL = (
    _vgg(11, 132.87, 7609),
    _vgg(13, 133.05, 11308),
    _vgg(16, 138.37, 15470),
    _vgg(19, 143.68, 19632),
    _vgg_cifar(11, 9.49, 153),
    _vgg_cifar(13, 9.68, 228.5),
    _vgg_cifar(16, 15.0, 313, "Li et al. 2017, table 1"),
    _vgg_cifar(19, 20.30, 398.4),
    Network("slim_vgg", "vgg.slim_vgg", "for 32 px, 6 convolutions", Published(0.538, 24.5, _COUNTED), sizes=_CIFAR),
    _resnet(18, 11.69, 1814),
    _resnet(34, 21.80, 3664),
    _resnet(50, 25.56, 4089),
    _resnet(101, 44.55, 7801),
    _resnet(152, 60.19, 11514),
    _resnet_cifar(20, 0.27, 40.6),
    _resnet_cifar(32, 0.46, 68.9),
    _resnet_cifar(56, 0.85, 125),
    Network(
        "resnext50_32x4d",
        "resnet.resnext50",
        "residual, grouped",
        Published(25.03, 4230, _TORCHVISION),
        sizes=_IMAGENET,
    ),
    Network(
        "mobilenet_v2",
        "mobilenet.mobilenet_v2",
        "depthwise convolutions",
        Published(3.50, 301, _TORCHVISION),
        sizes=_IMAGENET,
    ),
    Network(
        "slim_mobilenet_v2", "mobilenet.slim_mobilenet_v2", "for 32 px", Published(0.185, 13.3, _COUNTED), sizes=_CIFAR
    ),
    Network(
        "regnet_y_400mf",
        "regnet.regnet_y_400mf",
        "grouped, weighted channels",
        Published(4.34, 402, _TORCHVISION),
        sizes=_IMAGENET,
    ),
    Network(
        "densenet121",
        "densenet.densenet121",
        "concatenation",
        Published(7.98, 2834, _TORCHVISION),
        sizes=_IMAGENET,
    ),
    Network(
        "retinanet_r50_fpn",
        "retinanet.retinanet_r50_fpn",
        "detector, shared heads",
        Published(37.74, 250_000, _SEED_FLOPS),
        sizes={"height": 800, "width": 1333, **_COCO},
    ),
    Network(
        "yolov8_n",
        "yolo.yolov8",
        "detector, C2f",
        Published(3.16, 4350, "Ultralytics' table, half its FLOPs"),
        {"width": 16},
        {"side": 640, **_COCO},
    ),
    Network(
        "yolov8_s",
        "yolo.yolov8",
        "detector, C2f",
        Published(11.17, 14300, "Ultralytics' table, half its FLOPs"),
        {"width": 32},
        {"side": 640, **_COCO},
    ),
    Network(
        "rtmpose_s",
        "rtmpose.rtmpose_s",
        "keypoints, SimCC",
        Published(5.47, 680, "OpenMMLab"),
        sizes={"height": 256, "width": 192, "keypoints": 17},
    ),
    Network(
        "unet",
        "unet.unet",
        "a class for each pixel",
        Published(31.04, 48_170, "milesial/Pytorch-UNet; MACs counted here"),
        sizes={"width": 64, "side": 256, "classes": 2},
    ),
    Network(
        "edsr_baseline_x2",
        "edsr.edsr",
        "twice the resolution",
        Published(1.37, 316_300, "Hui et al. 2019 (IMDN), table 1, for 1280 x 720"),
        sizes={"width": 64, "blocks": 16, "height": 360, "side": 640},
    ),
    _vit("vit_tiny", 192, 3, 5.72, 1258),
    _vit("vit_small", 384, 6, 22.05, 4608),
    _vit("vit_base", 768, 12, 86.57, 17582),
    Network("vit_cifar", "vit.vit_cifar", "vision transformer, 32 px", Published(0.571, 39.6, _COUNTED), sizes=_CIFAR),
    Network(
        "bert",
        "bert.bert",
        "encoder of text",
        Published(109.48, 11_250, "Sun et al. 2020 (MobileBERT), table 4, half its FLOPs"),
        sizes={"layers": 12, "width": 768, "heads": 12, "inner": 3072, "vocabulary": 30522, "length": 128},
    ),
    Network(
        "gpt2",
        "gpt.gpt2",
        "decoder of text",
        Published(124.44, 16_114, "Hugging Face, gpt2; MACs counted here"),
        sizes={"layers": 12, "width": 768, "heads": 12, "vocabulary": 50257, "length": 128},
    ),
    Network(
        "llama",
        "gpt.llama",
        "decoder of text, GQA",
        Published(134.52, 17_780, "Hugging Face, SmolLM2-135M, whose sizes these are; MACs counted here"),
        sizes={
            "layers": 30,
            "width": 576,
            "heads": 9,
            "kv_heads": 3,
            "inner": 1536,
            "vocabulary": 49152,
            "length": 128,
        },
    ),
    Network(
        "crnn",
        "crnn.crnn",
        "reads text, LSTM",
        Published(8.3, 705, "Shi et al. 2015, section 3.5; MACs counted here"),
        sizes={"hidden": 256, "width": 100, "classes": 37},
    ),
)

NETWORKS: Mapping[str, Network] = MappingProxyType({network.name: network for network in _ALL})
"""By name, in the order in which they are listed."""


def network(name: str) -> Network:
    """The one of this name."""
    if name not in NETWORKS:
        raise UserError(f"the zoo has no {name!r}{suggest(name, NETWORKS)} ('onnxprune zoo list' names what it has)")
    return NETWORKS[name]
