"""Pooling: channels pass, pixels shrink."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.analysis.facts import fixed
from onnxprune.analysis.rules.registry import Axes, Flow, Value, rule


@rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def pool(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    """Pixels are fixed in every graph with channels in front; where they are not, they stay whole from here on."""
    f.freeze_all(x.axes[2:], "pooled", "is pooled over")
    if len(f.current.output) > 1 and f.current.output[1]:
        f.freeze(x.axes[1], "positional", "its MaxPool counts positions through the channels")
    whole = f.current.op_type.startswith("Global")
    return [(*x.axes[:2], *(fixed(1) if whole else f.open() for _ in x.axes[2:])) for _ in f.current.output]


@rule("MaxUnpool")
def max_unpool(f: Flow, node: object, x: Value, *rest: Value | None) -> Sequence[Axes]:
    """The indices count through the channels, so none may go."""
    for value in (x, *rest):
        f.freeze_all(value.axes if value else (), "positional", "its positions are answers")
    return [(fixed(x.axes[0].size), fixed(x.axes[1].size), *(f.open() for _ in x.axes[2:]))]
