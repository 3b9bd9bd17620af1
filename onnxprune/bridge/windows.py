"""Windows that slide over space: how much is padded at each end, however the node says so.

pads         [top, left, bottom, right]: the beginnings of all axes, then the ends
SAME_UPPER   ceil(length / stride) windows; what is missing is split, the odd one at the end (SAME_LOWER: beginning)
ceil_mode    one more window where the last one would begin inside what is padded at the beginning or the input
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from onnxprune.bridge.registry import Step

Pads = list[tuple[int, int]]


def pads_of(s: Step) -> list[int] | str | None:
    """The numbers, a word for what is computed from the input's size, or None for no padding."""
    word: str = s.attr("auto_pad", "NOTSET")
    if word.startswith("SAME"):
        return word
    pads: list[int] | None = s.attr("pads")
    return list(pads) if pads and any(pads) and word != "VALID" else None


def amounts(
    sizes: Sequence[int],
    pads: Sequence[int] | str | None,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Pads:
    """Beginning and end of every axis."""
    rank = len(sizes)
    if pads is None:
        return [(0, 0)] * rank
    if not isinstance(pads, str):
        return list(zip(pads[:rank], pads[rank:], strict=True))
    found = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        missing = max(0, (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size)
        small, large = missing // 2, missing - missing // 2
        found.append((small, large) if pads == "SAME_UPPER" else (large, small))
    return found


def even(pads: Pads) -> bool:
    """Whether both ends of every axis get the same, so that torch's functions can do it."""
    return all(begin == end >= 0 for begin, end in pads)


def pad(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    if not any(begin or end for begin, end in pads):
        return x
    return F.pad(x, [amount for pair in reversed(pads) for amount in pair], value=value)


def full(given: Sequence[int] | None, rank: int) -> list[int]:
    """Strides or dilations; 1 where nothing is said."""
    return list(given) if given else [1] * rank
