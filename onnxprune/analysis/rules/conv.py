"""Convolutions. A channel axis of g groups is a product (group, channel within it); depthwise is the case of one
channel per group, and an ordinary convolution that of one group:

    Conv           W (g*m, k, …)    in (g*k) -> out (g*m)
    ConvTranspose  W (g*k, m, …)    in (g*k) -> out (g*m)
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.analysis.facts import Axis
from onnxprune.analysis.rules.registry import Axes, Flow, Refuse, Value, rule


def _factors(f: Flow, axis: Axis, groups: int) -> tuple[Axis, Axis]:
    if not isinstance(axis.size, int) or axis.size % groups:
        raise Refuse("uneven-groups", "its channels do not divide into the convolution's groups")
    group, within = f.split(axis, [groups, axis.size // groups])
    return group, within


ZERO_STAYS = ("", "Relu", "LeakyRelu", "Tanh", "Elu")
"""Fused activations with f(0) = 0."""


def _finish(f: Flow, x: Value, w: Value, out: Axis, bias: Value | None, made_of_zeros: bool) -> list[Axes]:
    f.freeze_all([*x.axes[2:], *w.axes[2:]], "convolved", "is convolved over")
    if bias is not None:
        f.mark(bias, 0, "shift")
        f.tie(out, bias.axes[0])
        made_of_zeros = made_of_zeros and bias.axes[0].zero
    made_of_zeros = made_of_zeros and f.attr("activation", "") in ZERO_STAYS
    return [(x.axes[0], out.with_zero(made_of_zeros), *(f.open() for _ in x.axes[2:]))]


@rule("Conv", "com.microsoft::FusedConv")
def conv(f: Flow, node: object, x: Value, w: Value, b: Value | None = None, *rest: Value | None) -> Sequence[Axes]:
    if rest:
        raise Refuse("fused-sum", "a sum is fused into this convolution")
    groups = f.attr("group", 1)
    channels, out, inner = x.axes[1], w.axes[0], w.axes[1]
    f.mark(w, 0, "out")
    f.mark(w, 1, "in")
    if groups == 1:
        f.contract(channels, inner)
    else:
        group_in, within = _factors(f, channels, groups)
        group_out, _ = _factors(f, out, groups)
        f.contract(within, inner)
        f.tie(group_in, group_out)
    return _finish(f, x, w, out, b, out.zero)


def to_front(x: Value) -> Value:
    """Channels come last here; what follows wants them behind the batch."""
    return Value((x.axes[0], x.axes[-1], *x.axes[1:-1]), x.weight)


def from_front(axes: Axes) -> Axes:
    return (axes[0], *axes[2:], axes[1])


@rule("com.microsoft::NhwcConv")
def nhwc_conv(f: Flow, node: object, x: Value, w: Value, b: Value | None = None) -> Sequence[Axes]:
    """Channels come last in the weight, too: (g*m, …, k)."""
    return [from_front(axes) for axes in conv(f, node, to_front(x), to_front(w), b)]


@rule("ConvTranspose")
def conv_transpose(f: Flow, node: object, x: Value, w: Value, b: Value | None = None) -> Sequence[Axes]:
    groups = f.attr("group", 1)
    f.mark(w, 0, "in")
    f.mark(w, 1, "out")
    f.contract(x.axes[1], w.axes[0])
    if groups == 1:
        return _finish(f, x, w, w.axes[1], b, w.axes[1].zero)
    group, _ = _factors(f, x.axes[1], groups)
    if w.axes[1].fixed:
        f.mark(w, 0, "out")
    out = f.merge([group, w.axes[1]])
    return _finish(f, x, w, out, b, w.axes[0].zero and (w.axes[1].fixed or w.axes[1].zero))
