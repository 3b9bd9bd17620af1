"""torchvision: classification, segmentation, detection, video, optical flow. Every family, in a small member.

Where the smallest member is still large, its own classes build a shorter or narrower one: every kind of block stays.
Detectors get a ResNet-18 and a pyramid of 64 channels; their proposals, anchors, box heads and suppression are whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

from architectures.case import BATCH, IMAGE, Architecture, Case
from architectures.vision_ops import torchvision

CLASSES = 10
PYRAMID = 64

Free = dict[int, str]


def _models() -> Any:
    return torchvision().models


def _picture(network: Any, size: int, free: Free) -> Case:
    import torch

    return Case(network, {"image": torch.randn(2, 3, size, size)}, {"image": free})


def _named(name: str, size: int, exporter: str, *, free: Free = BATCH, **options: Any) -> Case:
    return _picture(_models().get_model(name, weights=None, num_classes=CLASSES, **options), size, free)


def _short_resnet(size: int, exporter: str, *, layers: list[int], bottleneck: bool = True, **options: Any) -> Case:
    resnet = _models().resnet
    block = resnet.Bottleneck if bottleneck else resnet.BasicBlock
    return _picture(resnet.ResNet(block, layers, num_classes=CLASSES, **options), size, BATCH)


def _narrow_head(name: str, exporter: str) -> Case:
    from torch import nn

    network = _models().get_model(name, weights=None, num_classes=CLASSES)
    features = network.classifier[0].in_features if name.startswith("vgg") else network.classifier[1].in_features
    network.classifier = nn.Sequential(nn.Linear(features, 256), nn.ReLU(), nn.Dropout(), nn.Linear(256, CLASSES))
    return _picture(network, 224, BATCH)


def _convnext(exporter: str) -> Case:
    convnext = _models().convnext
    widths = (48, 96, 128, 160, None)
    setting = [convnext.CNBlockConfig(a, b, 1) for a, b in itertools.pairwise(widths)]
    return _picture(convnext.ConvNeXt(setting, num_classes=CLASSES), 64, IMAGE)


def _swin(exporter: str, *, second: bool) -> Case:
    swin = _models().swin_transformer
    options: dict[str, Any] = {"patch_size": [4, 4], "embed_dim": 48, "depths": [2, 2], "num_heads": [3, 6]}
    options |= {"window_size": [8, 8] if second else [7, 7], "num_classes": CLASSES}
    if second:
        options |= {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    return _picture(swin.SwinTransformer(**options), 64 if second else 56, BATCH)


def _vit(exporter: str) -> Case:
    network = _models().vision_transformer.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=4, hidden_dim=96, mlp_dim=192, num_classes=CLASSES
    )
    return _picture(network, 64, BATCH)


def _maxvit(exporter: str) -> Case:
    network = _models().maxvit.MaxVit(
        input_size=(64, 64),
        stem_channels=32,
        partition_size=4,
        block_channels=[32, 64],
        block_layers=[1, 1],
        head_dim=16,
        stochastic_depth_prob=0.0,
        num_classes=CLASSES,
    )
    return _picture(network, 64, BATCH)


def _segmentation(name: str, exporter: str, *, free: Free = BATCH) -> Case:
    network = _models().get_model(name, weights=None, weights_backbone=None, num_classes=5)
    case = _picture(network, 64, free)
    return Case(network, case.inputs, case.dynamic, pick=("out",))


def _resnet_segmentation(name: str, exporter: str) -> Case:
    """As torchvision puts it together, on a shorter ResNet."""
    models = _models()
    backbone = models.resnet.ResNet(
        models.resnet.Bottleneck, [1, 1, 1, 1], replace_stride_with_dilation=[False, True, True]
    )
    made = models.segmentation.fcn._fcn_resnet if name == "fcn" else models.segmentation.deeplabv3._deeplabv3_resnet
    network = made(backbone, 5, None)
    case = _picture(network, 64, BATCH)
    return Case(network, case.inputs, case.dynamic, pick=("out",))


_PREDICTORS = r"bbox_pred|bbox_reg|cls_logits|cls_score|centerness|regression_head\.module_list|mask_fcn_logits"


def _detect(network: Any, image: Any) -> Any:
    return network([image[0]])


def _detector(build: Callable[[], Any], size: int, exporter: str) -> Case:
    import torch

    return Case(build(), {"image": torch.rand(1, 3, size, size)}, {}, _detect, quiet=_PREDICTORS)


def _pyramid(*, extra: str = "pool") -> Any:
    ops = torchvision().ops
    models = _models()
    blocks = {"pool": None, "p6p7": ops.feature_pyramid_network.LastLevelP6P7(PYRAMID, PYRAMID)}
    body = models.resnet18(weights=None)
    layers = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
    widths = [64, 128, 256, 512]
    if extra != "pool":
        del layers["layer1"], widths[0]
    return models.detection.backbone_utils.BackboneWithFPN(body, layers, widths, PYRAMID, blocks[extra])


def _sizes(size: int) -> dict[str, Any]:
    return {"min_size": size, "max_size": size}


def _faster_rcnn(kind: str, size: int) -> Any:
    detection = _models().detection
    options: dict[str, Any] = {"num_classes": 5} | _sizes(size)
    options |= {"rpn_post_nms_top_n_test": 30, "rpn_pre_nms_top_n_test": 60, "box_detections_per_img": 10}
    options["box_head"] = detection.faster_rcnn.TwoMLPHead(PYRAMID * 49, 128)
    options["box_predictor"] = detection.faster_rcnn.FastRCNNPredictor(128, 5)
    del options["num_classes"]
    if kind == "mask":
        head = detection.mask_rcnn.MaskRCNNHeads(PYRAMID, (64, 64), 1)
        predictor = detection.mask_rcnn.MaskRCNNPredictor(64, 64, 5)
        return detection.MaskRCNN(_pyramid(), mask_head=head, mask_predictor=predictor, **options)
    if kind == "keypoint":
        head = detection.keypoint_rcnn.KeypointRCNNHeads(PYRAMID, (64, 64))
        predictor = detection.keypoint_rcnn.KeypointRCNNPredictor(64, 7)
        return detection.KeypointRCNN(_pyramid(), keypoint_head=head, keypoint_predictor=predictor, **options)
    return detection.FasterRCNN(_pyramid(), **options)


def _fasterrcnn_mobilenet(size: int) -> Any:
    return _models().detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=5, rpn_post_nms_top_n_test=30, **_sizes(size)
    )


def _retinanet(size: int, *, second: bool = False) -> Any:
    detection = _models().detection
    options: dict[str, Any] = {}
    if second:
        from torch import nn

        anchors = detection.retinanet._default_anchorgen()
        per_place = anchors.num_anchors_per_location()[0]
        head = detection.retinanet.RetinaNetHead(PYRAMID, per_place, 5, norm_layer=partial(nn.GroupNorm, 32))
        options = {"anchor_generator": anchors, "head": head}
    return detection.RetinaNet(_pyramid(extra="p6p7"), 5, detections_per_img=10, **_sizes(size), **options)


def _fcos(size: int) -> Any:
    return _models().detection.FCOS(_pyramid(extra="p6p7"), 5, detections_per_img=10, **_sizes(size))


def _ssd(size: int) -> Any:
    return _models().detection.ssd300_vgg16(
        weights=None, weights_backbone=None, num_classes=5, topk_candidates=20, detections_per_img=10
    )


def _ssdlite(size: int) -> Any:
    return _models().detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5, topk_candidates=20, detections_per_img=10
    )


def _clip(network: Any, frames: int, size: int) -> Case:
    import torch

    return Case(network, {"clip": torch.randn(2, 3, frames, size, size)}, {"clip": BATCH})


def _video(kind: str, exporter: str) -> Case:
    resnet = _models().video.resnet
    convs = {
        "r3d": [resnet.Conv3DSimple] * 4,
        "mc3": [resnet.Conv3DSimple] + [resnet.Conv3DNoTemporal] * 3,
        "r2plus1d": [resnet.Conv2Plus1D] * 4,
    }
    stem = resnet.R2Plus1dStem if kind == "r2plus1d" else resnet.BasicStem
    network = resnet.VideoResNet(resnet.BasicBlock, convs[kind], [1, 1, 1, 1], stem, num_classes=CLASSES)
    return _clip(network, 8, 32)


def _s3d(exporter: str) -> Case:
    return _clip(_models().video.s3d(weights=None, num_classes=CLASSES), 16, 224)


def _mvit(second: bool, exporter: str) -> Case:
    mvit = _models().video.mvit
    cube = [3, 3, 3]
    setting = [
        mvit.MSBlockConfig(1, 48, 48, cube, cube, [1, 1, 1], [1, 4, 4]),
        mvit.MSBlockConfig(2, 48, 96, cube, cube, [1, 2, 2], [1, 2, 2]),
        mvit.MSBlockConfig(2, 96, 96, [], cube, [], [1, 2, 2]),
    ]
    network = mvit.MViT(
        (32, 32),
        4,
        setting,
        residual_pool=second,
        residual_with_cls_embed=False,
        rel_pos_embed=second,
        proj_after_attn=second,
        num_classes=CLASSES,
    )
    return _clip(network, 4, 32)


def _swin3d(exporter: str) -> Case:
    network = _models().video.swin_transformer.SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[2, 4, 4],
        num_classes=CLASSES,
    )
    return _clip(network, 4, 32)


def _raft(kind: str, exporter: str) -> Case:
    import torch

    network = _models().get_model(f"raft_{kind}", weights=None)
    inputs = {name: torch.rand(2, 3, 128, 128) for name in ("first", "second")}
    return Case(network, inputs, dict.fromkeys(inputs, BATCH), _flow)


def _flow(network: Any, first: Any, second: Any) -> Any:
    return network(first, second, num_flow_updates=3)[-1]


_INCEPTION: dict[str, Any] = {"aux_logits": False, "init_weights": False, "transform_input": False}
_ONE = [1, 1, 1, 1]

_CLASSIFIERS: dict[str, Callable[[str], Case]] = {
    "alexnet": partial(_narrow_head, "alexnet"),
    "vgg11": partial(_narrow_head, "vgg11"),
    "vgg11_bn": partial(_narrow_head, "vgg11_bn"),
    "resnet18": partial(_named, "resnet18", 64, free=IMAGE),
    "resnet50_short": partial(_short_resnet, 64, layers=[2, 2, 1, 1]),
    "resnext50_short": partial(_short_resnet, 64, layers=_ONE, groups=32, width_per_group=4),
    "wide_resnet50_short": partial(_short_resnet, 64, layers=[1, 1, 1, 0], width_per_group=128),
    "squeezenet1_0": partial(_named, "squeezenet1_0", 64),
    "squeezenet1_1": partial(_named, "squeezenet1_1", 64),
    "densenet121": partial(_named, "densenet121", 64),
    "googlenet": partial(_named, "googlenet", 64, **_INCEPTION),
    "inception_v3": partial(_named, "inception_v3", 128, **_INCEPTION),
    "mobilenet_v2": partial(_named, "mobilenet_v2", 64, free=IMAGE),
    "mobilenet_v3_small": partial(_named, "mobilenet_v3_small", 64),
    "mobilenet_v3_large": partial(_named, "mobilenet_v3_large", 64),
    "mnasnet0_5": partial(_named, "mnasnet0_5", 64),
    "shufflenet_v2_x0_5": partial(_named, "shufflenet_v2_x0_5", 64),
    "shufflenet_v2_x1_0": partial(_named, "shufflenet_v2_x1_0", 64, free=IMAGE),
    "efficientnet_b0": partial(_named, "efficientnet_b0", 64),
    "efficientnet_v2_s": partial(_named, "efficientnet_v2_s", 64),
    "regnet_x_400mf": partial(_named, "regnet_x_400mf", 64),
    "regnet_y_400mf": partial(_named, "regnet_y_400mf", 64),
    "convnext_short": _convnext,
    "vit_short": _vit,
    "swin_short": partial(_swin, second=False),
    "swin_v2_short": partial(_swin, second=True),
    "maxvit_short": _maxvit,
}
_DENSE: dict[str, Callable[[str], Case]] = {
    "lraspp_mobilenet_v3_large": partial(_segmentation, "lraspp_mobilenet_v3_large", free=IMAGE),
    "deeplabv3_mobilenet_v3_large": partial(_segmentation, "deeplabv3_mobilenet_v3_large"),
    "deeplabv3_resnet_short": partial(_resnet_segmentation, "deeplabv3"),
    "fcn_resnet_short": partial(_resnet_segmentation, "fcn"),
}
_DETECTORS: dict[str, Callable[[str], Case]] = {
    "ssd300_vgg16": partial(_detector, partial(_ssd, 300), 300),
    "ssdlite320_mobilenet_v3_large": partial(_detector, partial(_ssdlite, 320), 320),
    "fasterrcnn_resnet18_fpn": partial(_detector, partial(_faster_rcnn, "box", 128), 128),
    "fasterrcnn_mobilenet_v3_large_320_fpn": partial(_detector, partial(_fasterrcnn_mobilenet, 128), 128),
    "maskrcnn_resnet18_fpn": partial(_detector, partial(_faster_rcnn, "mask", 128), 128),
    "keypointrcnn_resnet18_fpn": partial(_detector, partial(_faster_rcnn, "keypoint", 128), 128),
    "retinanet_resnet18_fpn": partial(_detector, partial(_retinanet, 128), 128),
    "retinanet_resnet18_fpn_v2": partial(_detector, partial(_retinanet, 128, second=True), 128),
    "fcos_resnet18_fpn": partial(_detector, partial(_fcos, 128), 128),
}
_VIDEO: dict[str, Callable[[str], Case]] = {
    "r3d_short": partial(_video, "r3d"),
    "mc3_short": partial(_video, "mc3"),
    "r2plus1d_short": partial(_video, "r2plus1d"),
    "s3d": _s3d,
    "mvit_v1_short": partial(_mvit, False),
    "mvit_v2_short": partial(_mvit, True),
    "swin3d_short": _swin3d,
    "raft_small": partial(_raft, "small"),
    "raft_large": partial(_raft, "large"),
}
ARCHITECTURES = tuple(
    Architecture(name, build, f"torchvision {kind}")
    for kind, nets in (
        ("classification", _CLASSIFIERS),
        ("segmentation", _DENSE),
        ("detection", _DETECTORS),
        ("video", _VIDEO),
    )
    for name, build in nets.items()
)
