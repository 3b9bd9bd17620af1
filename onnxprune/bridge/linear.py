"""Matrix products. A weight keeps the layout that it has in the file and is transposed as it is used."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from onnxprune.bridge.conv import activated
from onnxprune.bridge.registry import Step, op, simple

simple({"MatMul": torch.matmul})


@op("Gemm")
def gemm(s: Step) -> fx.Node:
    return _gemm(s)


def _gemm(s: Step) -> fx.Node:
    a, b, c = s.tensor(0), s.tensor(1), s.tensor(2)
    alpha, beta = s.attr("alpha", 1.0), s.attr("beta", 1.0)
    return s.emit(affine, a, b, c, alpha, beta, bool(s.attr("transA", 0)), bool(s.attr("transB", 0)))


@op("com.microsoft::FusedGemm")
def fused_gemm(s: Step) -> fx.Node:
    params = tuple(s.attr(name) for name in ("activation_alpha", "activation_beta") if s.attr(name) is not None)
    return s.emit(activated, _gemm(s), s.attr("activation", ""), params)


def affine(a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float, turn_a: bool, turn_b: bool) -> Tensor:
    a = a.t() if turn_a else a
    if alpha == beta == 1.0 and turn_b and (c is None or c.dim() == 1):
        return F.linear(a, b, c)
    product = torch.matmul(a, b.t() if turn_b else b)
    product = product if alpha == 1.0 else product * alpha
    return product if c is None else product + (c if beta == 1.0 else c * beta)


@op("com.microsoft::FusedMatMul")
def fused_matmul(s: Step) -> fx.Node:
    flags = [bool(s.attr(name, 0)) for name in ("transA", "transB", "transBatchA", "transBatchB")]
    return s.emit(multiplied, s.tensor(0), s.tensor(1), s.attr("alpha", 1.0), *flags)


def multiplied(a: Tensor, b: Tensor, alpha: float, turn_a: bool, turn_b: bool, batch_a: bool, batch_b: bool) -> Tensor:
    a, b = _turned(a, turn_a, batch_a), _turned(b, turn_b, batch_b)
    return torch.matmul(a, b) * alpha


def _turned(x: Tensor, last: bool, batch: bool) -> Tensor:
    """The batch flag moves the first axis behind the others but the last: (m, b.., k) is (b.., m, k)."""
    if batch:
        x = x.movedim(0, -2)
    return x.transpose(-1, -2) if last and x.dim() > 1 else x


@op("Einsum")
def einsum(s: Step) -> fx.Node:
    return s.emit(torch.einsum, s.attr("equation").replace(" ", ""), *s.tensors())
