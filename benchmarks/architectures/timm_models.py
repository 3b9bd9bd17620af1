"""timm's families, one small member each: ten classes, small pictures, fewer blocks where the smallest is still large.

The depth is all that is cut: what is left has every kind of block that the family has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from architectures.case import BATCH, IMAGE, Architecture, Case

if TYPE_CHECKING:
    from torch import nn

CLASSES = 10


@dataclass(frozen=True)
class Member:
    """One model of a family."""

    size: int = 64
    """Height and width of the picture; a model that is built for one size gets told."""
    options: tuple[tuple[str, Any], ...] = ()
    sized: bool = False
    """The builder takes img_size."""
    free: bool = False
    """Height and width are free in the file, too."""
    keep: tuple[tuple[str, int], ...] = ()
    """Of every list of blocks with this name, how many stay: for builders that take no depth."""
    without: tuple[str, ...] = ()
    """Blocks that are taken out."""


def _of(
    size: int = 64,
    *,
    sized: bool = False,
    free: bool = False,
    keep: dict[str, int] | None = None,
    without: tuple[str, ...] = (),
    **options: Any,
) -> Member:
    return Member(size, tuple(options.items()), sized, free, tuple((keep or {}).items()), without)


def _numbered(stem: str, *places: int) -> tuple[str, ...]:
    return tuple(f"{stem}.{place}" for place in places)


_DEPTHS = (1, 1, 1, 1)

MEMBERS: dict[str, Member] = {
    # convolutions
    "convnextv2_atto": _of(free=True),
    "resnet18d": _of(free=True),
    "resnetv2_50x1_bit": _of(keep={"blocks": 1}),
    "skresnet18": _of(),
    "resnest14d": _of(),
    "res2net50_26w_4s": _of(layers=_DEPTHS),
    "regnety_002": _of(),
    "repvgg_a0": _of(),
    "mobileone_s0": _of(),
    "dla46_c": _of(),
    "dpn48b": _of(),
    "hrnet_w18_small": _of(),
    "ese_vovnet19b_slim_dw": _of(),
    "selecsls42b": _of(),
    "cs3darknet_focus_s": _of(),
    "xception41": _of(without=_numbered("blocks", 4, 5, 6, 7, 8, 9, 10)),
    "inception_resnet_v2": _of(96, keep={"repeat": 1, "repeat_1": 1, "repeat_2": 1}),
    "tresnet_m": _of(layers=_DEPTHS),
    "test_nfnet": _of(),
    "ghostnet_050": _of(),
    "hardcorenas_a": _of(),
    "mobilenetv4_conv_small_050": _of(),
    "mobilenetv4_hybrid_medium_075": _of(),
    "efficientnetv2_rw_t": _of(),
    "rexnet_100": _of(),
    "hgnetv2_b0": _of(),
    "repghostnet_050": _of(),
    "repvit_m0_9": _of(),
    "fasternet_t0": _of(),
    "starnet_s050": _of(),
    "inception_next_atto": _of(),
    "convmixer_768_32": _of(keep={"blocks": 2}),
    "mambaout_femto": _of(),
    # attention in convolutional networks
    "coatnet_pico_rw_224": _of(64, sized=True),
    "maxvit_rmlp_pico_rw_256": _of(64, sized=True),
    "botnet26t_256": _of(64, img_size=64),
    "halonet26t": _of(256),
    "lambda_resnet26t": _of(64, img_size=64),
    "edgenext_xx_small": _of(),
    "efficientformer_l1": _of(224),
    "efficientvit_b0": _of(),
    "fastvit_t8": _of(),
    "mobilevit_xxs": _of(),
    "nextvit_small": _of(),
    "visformer_tiny": _of(64, sized=True),
    "levit_128s": _of(64, sized=True),
    # transformers
    "beit_base_patch16_224": _of(64, sized=True, depth=2, embed_dim=96, num_heads=4),
    "cait_xxs24_224": _of(64, sized=True, depth=3),
    "crossvit_9_240": _of(240, depth=((1, 2, 0), (1, 1, 0), (1, 1, 0))),
    "davit_tiny": _of(depths=_DEPTHS, embed_dims=(48, 64, 96, 128), num_heads=(2, 4, 4, 8)),
    "deit_tiny_distilled_patch16_224": _of(64, sized=True, depth=3),
    "eva02_tiny_patch14_224": _of(56, sized=True, depth=3),
    "focalnet_tiny_srf": _of(keep={"blocks": 1}),
    "gcvit_xxtiny": _of(224),
    "gmlp_ti16_224": _of(64, sized=True, keep={"blocks": 3}),
    "resmlp_12_224": _of(64, sized=True, keep={"blocks": 3}),
    "mixer_s32_224": _of(64, sized=True, keep={"blocks": 3}),
    "pit_ti_224": _of(64, sized=True),
    "poolformer_s12": _of(),
    "caformer_s18": _of(keep={"blocks": 1}),
    "pvt_v2_b0": _of(),
    "sequencer2d_s": _of(64, sized=True, layers=_DEPTHS),
    "swin_tiny_patch4_window7_224": _of(112, sized=True, depths=(2, 2), embed_dim=48, num_heads=(3, 6)),
    "swinv2_tiny_window8_256": _of(128, sized=True, depths=(2, 2), embed_dim=48, num_heads=(3, 6)),
    "swinv2_cr_tiny_224": _of(224, depths=(2, 2), embed_dim=48, num_heads=(3, 6)),
    "tiny_vit_5m_224": _of(224),
    "twins_pcpvt_small": _of(64, sized=True, depths=_DEPTHS),
    "samvit_base_patch16_224": _of(64, sized=True, depth=3, embed_dim=96, num_heads=4, global_attn_indexes=(2,)),
    "volo_d1_224": _of(64, sized=True),
    "xcit_nano_12_p16_224": _of(64, sized=True, depth=3),
}

MORE: dict[str, Member] = {
    "convnext_zepto_rms": _of(),
    "resnetaa34d": _of(layers=_DEPTHS),
    "ecaresnet26t": _of(),
    "resnetblur18": _of(),
    "resnet50_gn": _of(layers=_DEPTHS),
    "legacy_seresnet18": _of(),
    "regnetx_002": _of(),
    "regnetz_005": _of(),
    "gernet_s": _of(),
    "densenetblur121d": _of(),
    "cspresnet50": _of(keep={"blocks": 1}),
    "darknet17": _of(),
    "inception_v4": _of(96, without=_numbered("features", 7, 8, 9, 12, 13, 14, 15, 16, 17, 20, 21)),
    "nf_resnet26": _of(),
    "nf_regnet_b0": _of(),
    "ghostnetv2_100": _of(),
    "mobilenetv3_small_050": _of(),
    "lcnet_050": _of(),
    "fbnetv3_b": _of(),
    "efficientnet_b0": _of(free=True),
    "efficientnet_es": _of(),
    "mixnet_s": _of(),
    "mnasnet_small": _of(),
    "spnasnet_100": _of(),
    "rdnet_tiny": _of(),
    "lcnetv2_small": _of(),
    "efficientformerv2_s0": _of(64, sized=True),
    "efficientvit_m0": _of(64, sized=True),
    "mobilevitv2_050": _of(),
    "swiftformer_xs": _of(),
    "shvit_s1": _of(),
    "coat_lite_tiny": _of(64, sized=True),
    "convit_tiny": _of(64, sized=True, depth=3),
    "gmixer_12_224": _of(64, sized=True, keep={"blocks": 3}),
    "hiera_tiny_224": _of(64, sized=True, embed_dim=48, stages=(1, 1, 2, 1)),
    "mvitv2_tiny": _of(64, sized=True, keep={"blocks": 1}),
    "naflexvit_base_patch16_gap": _of(64, depth=2, embed_dim=96, num_heads=4),
    "nest_tiny": _of(64, sized=True, keep={"transformer_encoder": 1}),
    "poolformerv2_s12": _of(),
    "convformer_s18": _of(keep={"blocks": 1}),
    "swin_s3_tiny_224": _of(224, depths=_DEPTHS, embed_dim=48),
    "tnt_s_patch16_224": _of(64, sized=True, depth=2),
    "twins_svt_small": _of(224, depths=_DEPTHS),
    "vit_tiny_patch16_224": _of(64, sized=True, depth=3),
    "vit_relpos_small_patch16_224": _of(64, sized=True, depth=2),
    "vit_tiny_r_s16_p8_224": _of(64, sized=True, depth=2),
}
"""Further members and families, run on demand: what they are made of is in the others."""


def _build(name: str, member: Member, exporter: str) -> Case:
    import torch

    from architectures.vision_ops import torchvision

    torchvision()
    import timm

    timm.layers.set_fused_attn(exporter == "dynamo")
    options = dict(member.options) | ({"img_size": member.size} if member.sized else {})
    network = timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)
    _shorten(network, member)
    images = torch.randn(2, 3, member.size, member.size)
    return Case(network, {"image": images}, {"image": IMAGE if member.free else BATCH})


def _shorten(network: nn.Module, member: Member) -> None:
    from torch import nn

    kept = dict(member.keep)
    for module in [*network.modules()]:
        for name, child in [*module.named_children()]:
            if name in kept and isinstance(child, nn.Sequential | nn.ModuleList):
                setattr(module, name, child[: kept[name]])
    for path in member.without:
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, nn.Identity())


ARCHITECTURES = tuple(
    Architecture(f"timm_{name}", partial(_build, name, member), "timm", extra=name in MORE)
    for name, member in (MEMBERS | MORE).items()
)
