"""Matrices of 4 bits and the like: unpacked as they are used. They do not train; what flows through them does."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from onnxprune.bridge.registry import Step, op


@op("com.microsoft::MatMulNBits")
def matmul_bits(s: Step) -> fx.Node:
    if s.attr("bits", 4) not in (4, 8) or s.has(4):
        raise s.refuse("only 4 and 8 bits in their own order are known")
    sizes = (s.attr("N"), s.attr("K"), s.attr("block_size"), s.attr("bits", 4))
    bias = s.tensor(5) if s.has(5) else None
    return s.emit(multiplied, s.tensor(0), s.tensor(1), s.tensor(2), s.tensor(3), bias, *sizes)


def multiplied(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    n: int,
    k: int,
    block: int,
    bits: int,
) -> Tensor:
    blocks = -(-k // block)
    w = _unpacked(packed.reshape(n, blocks, -1), bits).to(x.dtype)
    if zeros is None:
        middle: Tensor | float = float(2 ** (bits - 1))
    elif zeros.is_floating_point():
        middle = zeros.reshape(n, blocks, 1)
    else:
        middle = _unpacked(zeros.reshape(n, -1), bits)[:, :blocks].unsqueeze(-1).to(x.dtype)
    w = (w - middle) * scales.reshape(n, blocks, 1)
    return torch.nn.functional.linear(x, w.reshape(n, -1)[:, :k], bias)


def _unpacked(x: Tensor, bits: int) -> Tensor:
    """Two to a byte, the lower half first."""
    return x if bits == 8 else torch.stack([x & 15, x >> 4], -1).flatten(-2)
