"""Pieces of quantised graphs. A weight `w` has its zero point in the initializer `w.zero`, which the oracle knows.

real value = (stored value - zero point) * scale
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from building import Net

U8, I8 = np.uint8, np.int8


def stored(n: Net, *shape: int, name: str, dtype: Any = I8, zero: int | Sequence[int] = 0) -> tuple[str, str]:
    """A quantised weight and its zero point: no entry is close to zero."""
    signs = n.rng.choice([-1, 1], shape)
    middle = np.asarray(zero, np.int64)
    if middle.ndim:
        axis = shape.index(middle.size)
        middle = middle.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    values = middle + signs * n.rng.integers(20, 60, shape)
    info = np.iinfo(dtype)
    w = n.const(np.clip(values, info.min, info.max), dtype, name=name)
    return w, n.const(zero, dtype, name=f"{name}.zero")


def scales(n: Net, count: int = 0, around: float = 0.02) -> str:
    """One for all, or one for each channel."""
    factors = n.rng.uniform(0.5, 1.5, count) if count else np.ones(())
    return n.const(factors * around, np.float32)


def step(n: Net, scale: float = 0.04, zero: int = 128, dtype: Any = U8) -> tuple[str, str]:
    """Scale and zero point of an activation."""
    return n.const(scale, np.float32), n.const(zero, dtype)


def to_int(n: Net, x: str, scale: float = 0.04, zero: int = 128, dtype: Any = U8) -> str:
    return n.op("QuantizeLinear", x, *step(n, scale, zero, dtype))


def to_float(n: Net, x: str, scale: float = 0.04, zero: int = 128, dtype: Any = U8) -> str:
    return n.op("DequantizeLinear", x, *step(n, scale, zero, dtype))


def rounded(n: Net, x: str, scale: float = 0.04) -> str:
    """What a tool that quantises inserts everywhere."""
    return to_float(n, to_int(n, x, scale), scale)
