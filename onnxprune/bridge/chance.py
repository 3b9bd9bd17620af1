"""Random numbers, drawn anew in every run: such a model cannot be compared, but it trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from onnxprune.bridge.registry import Step, op


@op("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike")
def draw(s: Step) -> fx.Node:
    normal = "Normal" in s.node.op_type
    bounds = (s.attr("mean", 0.0), s.attr("scale", 1.0)) if normal else (s.attr("low", 0.0), s.attr("high", 1.0))
    number = s.attr("dtype")
    dtype = None if number is None else s.build.dtype_of(number)
    if s.has(0):
        return s.emit(drawn_like, s.tensor(0), normal, *bounds, dtype)
    return s.emit(drawn, list(s.attr("shape")), normal, *bounds, dtype or torch.float32, s.build.device)


def drawn_like(x: Tensor, normal: bool, a: float, b: float, dtype: torch.dtype | None) -> Tensor:
    return drawn(x.shape, normal, a, b, dtype or x.dtype, x)


def drawn(shape: Sequence[int], normal: bool, a: float, b: float, dtype: torch.dtype, like: Tensor | None) -> Tensor:
    device = None if like is None else like.device
    if normal:
        return torch.randn(shape, dtype=dtype, device=device) * b + a
    return torch.rand(shape, dtype=dtype, device=device) * (b - a) + a


@op("Bernoulli")
def bernoulli(s: Step) -> fx.Node:
    number = s.attr("dtype")
    return s.emit(tossed, s.tensor(0), None if number is None else s.build.dtype_of(number))


def tossed(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return torch.bernoulli(x).to(dtype or x.dtype)


@op("Multinomial")
def multinomial(s: Step) -> fx.Node:
    return s.emit(sampled, s.tensor(0), s.attr("sample_size", 1), s.build.dtype_of(s.attr("dtype", 6)))


def sampled(x: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    return torch.multinomial(torch.softmax(x, -1), count, replacement=True).to(dtype)
