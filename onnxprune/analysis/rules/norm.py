"""Normalisations. Per channel they are exact; across channels a cut changes mean and variance of what stays."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.analysis.facts import Axis, fixed
from onnxprune.analysis.rules.registry import Axes, Flow, Refuse, Value, rule

ACROSS = "is normalised over: the kept positions get another mean and variance"


@rule("BatchNormalization")
def batch_norm(f: Flow, node: object, x: Value, scale: Value, shift: Value, mean: Value, var: Value) -> Sequence[Axes]:
    at = 1 if x.rank > 1 else 0
    for value, role in ((scale, "scale"), (shift, "shift"), (mean, "shift"), (var, "keep")):
        f.mark(value, 0, role)
    params = [value.axes[0] for value in (scale, shift, mean, var)]
    channels = f.tie(x.axes[at], *params, zero=params[0].zero and params[1].zero)
    out = [*x.axes[:at], channels, *x.axes[at + 1 :]]
    if f.attr("training_mode", 0) or any(f.current.output[1:]):  # before opset 14 the other outputs say so
        for i in range(x.rank):
            if i != at:
                out[i] = f.inexact(x.axes[i].with_zero(False), "normalised", ACROSS)
    return [tuple(out), *((channels,) for _ in f.current.output[1:])]


@rule("InstanceNormalization")
def instance_norm(f: Flow, node: object, x: Value, scale: Value, shift: Value) -> Sequence[Axes]:
    f.mark(scale, 0, "scale")
    f.mark(shift, 0, "shift")
    channels = f.tie(x.axes[1], scale.axes[0], shift.axes[0])
    for axis in x.axes[2:]:
        f.inexact(axis, "normalised", ACROSS)
    return [(x.axes[0], channels, *(axis.with_zero(False) for axis in x.axes[2:]))]


@rule(
    "LayerNormalization",
    "RMSNormalization",
    "com.microsoft::SimplifiedLayerNormalization",
    "SimplifiedLayerNormalization",
)
def layer_norm(f: Flow, node: object, x: Value, scale: Value, shift: Value | None = None) -> Sequence[Axes]:
    first = f.attr("axis", -1) % x.rank
    over = [f.inexact(axis, "normalised", ACROSS) for axis in x.axes[first:]]
    for value, role in ((scale, "scale"), (shift, "shift")):
        for i, axis in enumerate(value.axes[::-1] if value else ()):
            f.mark(value, -1 - i, role)
            if axis.size != 1:
                f.tie(x.axes[-1 - i], axis)
    out = (*(axis.with_zero(False) for axis in x.axes[:first]), *(axis.with_zero(True) for axis in over))
    statistics = (*x.axes[:first], *(fixed(1) for _ in over))
    return [out, *(statistics for _ in f.current.output[1:])]


@rule("GroupNormalization")
def group_norm(f: Flow, node: object, x: Value, scale: Value, shift: Value) -> Sequence[Axes]:
    """Whole groups go exactly, channels within each group inexactly. Before opset 21 scale and shift are per group."""
    groups, channels = f.attr("num_groups"), x.axes[1]
    if not isinstance(channels.size, int) or not groups or channels.size % groups:
        raise Refuse("uneven-groups", "its channels do not divide into the groups of the normalisation")
    group, within = f.split(channels, [groups, channels.size // groups])
    f.inexact(within, "normalised", ACROSS)
    f.mark(scale, 0, "scale")
    f.mark(shift, 0, "shift")
    f.tie(channels if f.opset >= 21 else group, scale.axes[0], shift.axes[0])
    zero = shift.axes[0].zero and (scale.axes[0].zero or channels.zero)
    return [(x.axes[0], channels.with_zero(zero), *(axis.with_zero(False) for axis in x.axes[2:]))]


@rule("LRN")
def local_response(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    channels = f.inexact(
        x.axes[1], "normalised", "is normalised by its neighbouring channels, and a cut changes who they are"
    )
    return [(x.axes[0], channels, *x.axes[2:])]


@rule("LpNormalization", "MeanVarianceNormalization")
def normalise(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    mean = f.current.op_type == "MeanVarianceNormalization"
    over = {i % x.rank for i in (f.attr("axes", [0, 2, 3]) if mean else [f.attr("axis", -1)])}
    return [
        tuple(
            _over(f, axis, mean) if i in over else _beside(f, axis) if mean else axis for i, axis in enumerate(x.axes)
        )
    ]


def _beside(f: Flow, axis: Axis) -> Axis:
    """There is no epsilon: where a cut position is the same everywhere, its variance of 0 is divided by."""
    return f.inexact(axis.with_zero(False), "not-finite", "MeanVarianceNormalization divides by the variance of zeros")


def _over(f: Flow, axis: Axis, mean: bool) -> Axis:
    """The p-norm of a vector does not change when zeros leave it."""
    return axis if axis.zero and not mean else f.inexact(axis.with_zero(False), "normalised", ACROSS)
