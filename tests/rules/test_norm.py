"""Normalisations: exact per channel, inexact across channels, whole groups in between."""

from __future__ import annotations

import numpy as np
import pytest
from building import MS, Net
from oracle import prepared
from rows import Op, Row, across, between, dulled, row, summed, vector

from onnxprune.analysis.analyze import analyze

NORMALISED = {"normalised": 8}
ROOT_MEANS = (
    *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
    f"{MS}::SimplifiedLayerNormalization",
)


def batch_norm(n: Net, x: str) -> str:
    return n.norm(x, name="bn")


def batch_norm_training(n: Net, x: str) -> str:
    """By the statistics of this very batch: per channel, over everything else."""
    size = n.size(x, 1)
    plain = (n.const(np.ones(size), np.float32), n.const(np.zeros(size), np.float32))
    params = (n.positive(size, name="bn.weight"), n.weight(size, name="bn.bias"), plain[1], plain[0])
    return n.ops("BatchNormalization", 3, x, *params, training_mode=1)[0]


def batch_norm_computed(n: Net, x: str) -> str:
    """A shift that is not zero where a channel goes."""
    shift = n.slice(n.op("Exp", n.weight(16, name="shift")), 0, 8, 0)
    return n.op("BatchNormalization", x, n.positive(8), shift, n.weight(8), n.positive(8))


def batch_norm_alone(n: Net) -> None:
    """Before the first layer, on the picture: nothing to cut."""
    n.close(n.norm(n.image(), name="bn"))


def preactivation(n: Net) -> None:
    x = n.conv(n.image(), 8, name="first")
    y = n.conv(n.op("Relu", n.norm(x, name="bn")), 8, name="second")
    n.close(n.op("Add", x, y))


def instance_norm(n: Net, x: str) -> str:
    size = n.size(x, 1)
    return n.op(
        "InstanceNormalization", x, n.positive(size, name="in.weight"), n.weight(size, name="in.bias"), epsilon=0.1
    )


def instance_norm_computed(n: Net, x: str) -> str:
    """A shift that is not zero where a channel goes."""
    shift = n.op("Exp", n.weight(16, name="shift"))
    part = n.slice(shift, 0, 8, 0)
    return n.op("InstanceNormalization", x, n.positive(8), part, epsilon=0.1)


def legacy_group_norm(groups: int, *, affine: bool = True) -> Op:
    """As the legacy exporter writes it: InstanceNormalization on (N, groups, everything)."""

    def op(n: Net, x: str) -> str:
        size = n.size(x, 1)
        y = n.reshape(x, 0, groups, -1)
        ones, zeros = n.const(np.ones(groups), np.float32), n.const(np.zeros(groups), np.float32)
        y = n.op("InstanceNormalization", y, ones, zeros, epsilon=0.1)
        y = n.op("Reshape", y, n.op("Shape", x))
        return n.op("Add", n.op("Mul", y, n.weight(size, 1, 1)), n.weight(size, 1, 1)) if affine else y

    return op


def group_norm(groups: int) -> Op:
    """Opset 18 scales groups, opset 21 channels."""

    def op(n: Net, x: str) -> str:
        size = n.size(x, 1) if n.opset >= 21 else groups
        scale, shift = n.positive(size, name="gn.weight"), n.weight(size, name="gn.bias")
        return n.op("GroupNormalization", x, scale, shift, num_groups=groups, epsilon=0.1, made=n.shape(x))

    return op


def group_norm_computed(n: Net, x: str) -> str:
    """A shift that is not zero where a group goes."""
    shift = n.op("Exp", n.weight(16, name="shift"))
    scale = n.op("Mul", n.positive(16), n.scalar(1.0))
    return n.op("GroupNormalization", x, scale, shift, num_groups=4, epsilon=0.1, made=n.shape(x))


def uneven_groups(n: Net, x: str) -> str:
    return n.op("GroupNormalization", x, n.positive(8), n.weight(8), num_groups=3, made=n.shape(x))


def layer_norm(kind: str = "LayerNormalization", axis: int = -1, shift: bool = True) -> Op:
    def op(n: Net, x: str) -> str:
        dims = [int(d) for d in n.shape(x)[axis:] if isinstance(d, int)]
        params = [n.positive(*dims, name="ln.weight"), *([n.weight(*dims, name="ln.bias")] if shift else [])]
        return n.op(kind, x, *params, axis=axis, epsilon=0.1, made=n.shape(x))

    return op


def channels_last(op: Op) -> Op:
    return lambda n, x: n.transpose(op(n, n.transpose(x, 0, 2, 3, 1)), 0, 3, 1, 2)


def lrn(n: Net, x: str) -> str:
    return n.op("LRN", x, size=3, alpha=0.5, beta=0.75, bias=1.0)


def lp(axis: int, p: int = 2) -> Op:
    return lambda n, x: n.op("LpNormalization", x, axis=axis, p=p)


def after_sigmoid(op: Op) -> Op:
    return lambda n, x: op(n, n.op("Sigmoid", x))


def mean_variance(*axes: int) -> Op:
    return lambda n, x: n.op("MeanVarianceNormalization", x, axes=list(axes) or None, made=n.shape(x))


def adaptive(n: Net) -> None:
    """AdaIN: scale and shift are computed; they have the channels of what they scale."""
    x = n.conv(n.image(), 8, name="first")
    style = n.op("GlobalAveragePool", n.input("style", 2, 3, 4, 4))
    scale, shift = n.conv(style, 8, name="scale"), n.conv(style, 8, name="shift")
    y = n.op("InstanceNormalization", x, n.positive(8), n.weight(8), epsilon=0.1)
    n.close(n.op("Add", n.op("Mul", y, scale), shift))


ROWS = [
    *across((7, 9, 14, 15), "BatchNormalization", batch_norm),
    *(between(f"BatchNormalization {d}-D", batch_norm, image=(2, 3, *[4] * d)) for d in (1, 3)),
    vector("BatchNormalization on a matrix", batch_norm),
    summed("BatchNormalization", batch_norm),
    between("BatchNormalization in training", batch_norm_training),
    between("BatchNormalization in training, over channels", channels_last(batch_norm_training), frozen=NORMALISED),
    summed("BatchNormalization with a computed shift", batch_norm_computed, frozen={"reduced": 8}),
    row("BatchNormalization of the picture", batch_norm_alone),
    row("BatchNormalization before the layer", preactivation, 8),
    *across((7, 22), "InstanceNormalization", instance_norm),
    summed("InstanceNormalization", instance_norm),
    row("adaptive InstanceNormalization", adaptive, 8),
    *(between(f"GroupNorm by InstanceNormalization, {g} groups", legacy_group_norm(g), g) for g in (2, 4)),
    between("GroupNorm by InstanceNormalization, a group each", legacy_group_norm(8), 8),
    between("GroupNorm by InstanceNormalization, one group", legacy_group_norm(1), frozen=NORMALISED),
    between("GroupNorm by InstanceNormalization, plain", legacy_group_norm(4, affine=False), 4),
    *(
        between(f"GroupNormalization of {g} groups, opset {v}", group_norm(g), g, opset=v, channels=16)
        for g in (2, 4, 16)
        for v in (18, 21)
    ),
    summed("GroupNormalization", group_norm(4), 4, opset=21, channels=16),
    summed("GroupNormalization, opset 18", group_norm(4), 4, opset=18, channels=16),
    summed("GroupNormalization, computed shift", group_norm_computed, frozen={"reduced": 16}, opset=21, channels=16),
    between("GroupNormalization, uneven", uneven_groups, frozen={"uneven-groups": 8}, opset=21, runs=False),
    between("LayerNormalization of pixels", layer_norm()),
    between("LayerNormalization of all pixels", layer_norm(axis=2)),
    between("LayerNormalization of channels", channels_last(layer_norm()), frozen=NORMALISED),
    between("LayerNormalization without shift", channels_last(layer_norm(shift=False)), frozen=NORMALISED),
    between("LayerNormalization of channels and pixels", layer_norm(axis=1), frozen=NORMALISED),
    summed("LayerNormalization of pixels", layer_norm(), frozen={"reduced": 8}),
    between("RMSNormalization of pixels", layer_norm("RMSNormalization", shift=False), opset=23),
    between(
        "RMSNormalization of channels",
        channels_last(layer_norm("RMSNormalization", shift=False)),
        opset=23,
        frozen=NORMALISED,
    ),
    between(
        "SimplifiedLayerNormalization of pixels, read",
        layer_norm(f"{MS}::SimplifiedLayerNormalization", shift=False),
        runs=False,
        roles={"last.weight:1": "in"},
    ),
    *(
        between(f"{kind} of channels", channels_last(layer_norm(kind, shift=False)), frozen=NORMALISED)
        for kind in ("SimplifiedLayerNormalization", f"{MS}::SimplifiedLayerNormalization")
    ),
    *(
        between(f"{kind} of pixels", layer_norm(kind, shift=False), runs="::" not in kind)
        for kind in ("SimplifiedLayerNormalization", f"{MS}::SimplifiedLayerNormalization")
    ),
    between("LRN", lrn, frozen=NORMALISED),
    # What a weight does with the channels
    between(
        "roles of BatchNormalization",
        batch_norm,
        roles={"bn.weight:0": "scale", "bn.bias:0": "shift", "bn.mean:0": "shift", "bn.var:0": "keep"},
    ),
    between("roles of InstanceNormalization", instance_norm, roles={"in.weight:0": "scale", "in.bias:0": "shift"}),
    between(
        "roles of GroupNormalization",
        group_norm(4),
        4,
        opset=21,
        channels=16,
        roles={"gn.weight:0": "scale", "gn.bias:0": "shift"},
    ),
    # Inexact, on request: shapes must fit, and the reasons must be all there are
    *(
        between(
            f"{kind} of channels, allowed",
            channels_last(layer_norm(kind, shift=kind == "LayerNormalization")),
            opset=23,
            inexact={"first": ("normalised",)},
            roles={"ln.weight:0": "scale"} | ({"ln.bias:0": "shift"} if kind == "LayerNormalization" else {}),
            runs=kind != f"{MS}::SimplifiedLayerNormalization",
        )
        for kind in ROOT_MEANS
    ),
    *(
        summed(
            f"{kind} of channels, allowed",
            channels_last(layer_norm(kind, shift=False)),
            opset=23,
            inexact={"first": ("normalised",)},
            runs=kind != f"{MS}::SimplifiedLayerNormalization",
        )
        for kind in ROOT_MEANS
    ),
    *(
        summed(
            f"{kind} of pixels, allowed",
            layer_norm(kind, shift=False),
            opset=23,
            inexact={"first": ("reduced",)},
            runs=kind != f"{MS}::SimplifiedLayerNormalization",
        )
        for kind in ROOT_MEANS
    ),
    between("LRN, allowed", lrn, inexact={"first": ("normalised",)}),
    summed("LRN, allowed", lrn, inexact={"first": ("normalised",)}),
    between(
        "MeanVarianceNormalization of channels, allowed", mean_variance(1, 2, 3), inexact={"first": ("normalised",)}
    ),
    between("MeanVarianceNormalization of pixels, allowed", mean_variance(2, 3), inexact={"first": ("not-finite",)}),
    summed(
        "MeanVarianceNormalization of pixels, allowed",
        mean_variance(2, 3),
        inexact={"first": ("not-finite",)},
    ),
    between("GroupNormalization of one group, allowed", group_norm(1), opset=21, inexact={"first": ("normalised",)}),
    dulled("LpNormalization of pixels", lp(2)),
    summed("InstanceNormalization with a computed shift", instance_norm_computed, frozen={"reduced": 8}),
    *(between(f"LpNormalization of channels, p={p}", lp(1, p)) for p in (1, 2)),
    between("LpNormalization of channels from the end", lp(-3)),
    between("LpNormalization of pixels", lp(-1)),
    between("LpNormalization of channels without zeros", after_sigmoid(lp(1)), frozen=NORMALISED),
    summed("LpNormalization of channels", lp(1)),
    summed("LpNormalization of pixels", lp(2)),
    between("MeanVarianceNormalization of pixels", mean_variance(2, 3), frozen={"not-finite": 8}),
    between("MeanVarianceNormalization per channel", mean_variance(), frozen={"not-finite": 8}),
    between("MeanVarianceNormalization of channels", mean_variance(1, 2, 3), frozen=NORMALISED),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_norm(case: Row) -> None:
    case.check()


def test_variances_are_divided_by_and_never_masked() -> None:
    net = Net()
    net.close(batch_norm(net, net.conv(net.image(), 8, name="first")))
    (group,) = analyze(prepared(net.proto())).groups
    assert {s.tensor: s.role for s in group.weights if s.tensor.startswith("bn.")} == {
        "bn.weight": "scale",
        "bn.bias": "shift",
        "bn.mean": "shift",
        "bn.var": "keep",
    }


@pytest.mark.parametrize("op", [channels_last(layer_norm()), lrn, mean_variance(1, 2, 3)])
def test_an_inexact_cut_is_offered_on_request_and_says_so(op: Op) -> None:
    net = Net()
    net.close(op(net, net.conv(net.image(), 8, name="first")))
    (group,) = analyze(prepared(net.proto()), allow_inexact=True, strict=True).groups
    assert (group.size, [reason.code for reason in group.inexact]) == (8, ["normalised"])
