"""Sizes as data. What these tensors hold is followed by `contents`; along their own axes nothing can be cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.analysis.facts import Axis, fixed
from onnxprune.analysis.rules.registry import Axes, Flow, Value, rule


@rule("Shape")
def shape(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    return [(fixed(len(range(x.rank)[f.attr("start", 0) : f.attr("end", x.rank)])),)]


@rule("Size")
def size(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    f.freeze_all(x.axes, "counted", "its elements are counted")
    return [()]


@rule("Range")
def range_(f: Flow, node: object, *xs: Value) -> Sequence[Axes]:
    bounds = [f.ints(i) for i in range(3)]
    if all(bounds):
        start, stop, step = (bound[0] for bound in bounds if bound)
        return [(fixed(len(range(start, stop, step)) if step else 0),)]
    return [(f.open(),)]


@rule("Constant")
def constant(f: Flow, node: object) -> Sequence[Axes]:
    """Only what normalisation left as a node: strings and sparse values."""
    known = f.inferred(f.current.output[0])
    return [tuple(fixed(n) if n is not None else f.open() for n in known or ())]


@rule("ConstantOfShape", "com.microsoft::ConstantOfShape")
def constant_of_shape(f: Flow, node: object, target: Value | None = None) -> Sequence[Axes]:
    sizes = f.sizes(0) or f.inferred(f.current.output[0])
    if sizes is None:
        return [tuple(f.open() for _ in range(int(target.axes[0].size) if target and target.axes[0].ids.size else 0))]
    value = f.attr("value")
    zero = value is None or not np.any(_array(value))
    return [tuple(_uniform(f, n, zero) for n in sizes)]


def _array(value: object) -> np.ndarray:
    import onnx

    return onnx.numpy_helper.to_array(value)  # type: ignore[arg-type]


def _uniform(f: Flow, n: int | str | None, zero: bool) -> Axis:
    """All positions are alike, so any of them can go."""
    return f.open() if n is None else f.fresh(n, zero) if isinstance(n, int) else fixed(n)


@rule("RandomNormal", "RandomUniform")
def random(f: Flow, node: object) -> Sequence[Axes]:
    return [tuple(fixed(size) for size in f.attr("shape"))]


@rule("Multinomial")
def multinomial(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    f.freeze_all(x.axes, "random", "decides what is drawn")
    return [(fixed(x.axes[0].size), fixed(f.attr("sample_size", 1)))]


@rule("RandomNormalLike", "RandomUniformLike", "Bernoulli")
def random_like(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    """A seeded stream gives other numbers when the shape changes."""
    f.freeze_all(x.axes, "random", "decides how many random numbers are drawn")
    return [tuple(fixed(axis.size) for axis in x.axes)]
