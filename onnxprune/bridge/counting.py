"""Arithmetic on shapes stays on Python's side: numbers and nested lists, so that no size ever waits for a device.

    Shape(x) -> [2, 64, 7, 7]      Gather(.., 0) -> 2      Concat(.., [-1]) -> [2, -1]

The functions run whenever the module runs, so free lengths stay free, and torch.compile sees through them. Where the
graph computes with float32, every result is rounded to it: floor(7 * 8/7) depends on that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from onnxprune.bridge.registry import Numbers
from onnxprune.errors import UserError

_SPLITTER = 2.0**29 + 1.0


def shape_of(x: torch.Tensor, start: int = 0, end: int | None = None) -> list[int]:
    """The lengths of a tensor's axes."""
    return list(x.shape)[start:end]


def size_of(x: torch.Tensor) -> int:
    """The number of elements."""
    return product(x.shape)


def product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total = total * size
    return total


def numbers_of(x: torch.Tensor) -> Numbers:
    """Read from the device: only where a size depends on data."""
    return x.tolist()


def tensor_of(numbers: Numbers, dtype: torch.dtype, like: torch.Tensor | None = None) -> torch.Tensor:
    """The other way, on the device of another tensor."""
    return torch.tensor(numbers, dtype=dtype, device=None if like is None else like.device)


def dims(v: Numbers) -> list[int]:
    found = []
    while isinstance(v, list | tuple):
        found.append(len(v))
        if not v:
            break
        v = v[0]
    return found


def flat(v: Numbers) -> list[Any]:
    return [item for part in v for item in flat(part)] if isinstance(v, list | tuple) else [v]


def nest(items: Sequence[Any], shape: Sequence[int]) -> Numbers:
    if not shape:
        return items[0]
    if len(shape) == 1:
        return list(items)
    step = len(items) // shape[0] if shape[0] else 0
    return [nest(items[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def single(x: Any) -> Any:
    """A float64 rounded to float32, by arithmetic alone (Veltkamp's splitting)."""
    if not isinstance(x, float) or math.isinf(x) or math.isnan(x) or abs(x) > 1e30:
        return x
    high = x * _SPLITTER
    return high - (high - x)


def combine(operator: str, kind: str, *values: Numbers) -> Numbers:
    """An element-wise operator, with broadcasting; `kind` is `int`, `float32` or `float`."""
    shapes = [dims(v) for v in values]
    rank = max(len(s) for s in shapes)
    padded = [[1] * (rank - len(s)) + s for s in shapes]
    out = [max(sizes) if 0 not in sizes else 0 for sizes in zip(*padded, strict=True)]
    columns = [_stretched(flat(v), s, out) for v, s in zip(values, padded, strict=True)]
    function = _ELEMENTWISE[operator]
    results = [function(*row) for row in zip(*columns, strict=True)]
    if kind == "float32":
        results = [single(x) for x in results]
    return nest(results, out)


def _stretched(items: list[Any], shape: list[int], out: list[int]) -> list[Any]:
    total = product(out)
    if len(items) == total:
        return items
    found = []
    for position in range(total):
        at, stride = 0, 1
        for size, length in zip(reversed(shape), reversed(out), strict=True):
            if size != 1:
                at += position % length * stride
                stride *= size
            position //= length
        found.append(items[at])
    return found


def divide(a: Any, b: Any) -> Any:
    """Integers towards zero, as C does."""
    if isinstance(a, float) or isinstance(b, float):
        return a / b
    return a // b if (a >= 0) == (b > 0) else -(-a // b)


def take(data: Numbers, index: Numbers, axis: int = 0) -> Numbers:
    if axis < 0:
        axis += len(dims(data))
    if axis:
        return [take(part, index, axis - 1) for part in data]
    return [take(data, i) for i in index] if isinstance(index, list | tuple) else data[index]


def cut(data: Numbers, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Numbers:
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        lengths = dims(data)
        if axis >= len(lengths):  # a list of no rows does not know how long they would be
            raise UserError("this input makes tensors of size 0 where the graph computes shapes; the module cannot")
        data = take(data, list(range(lengths[axis]))[slice(start, end, step)], axis)
    return data


def join(axis: int, *parts: Numbers) -> Numbers:
    if axis < 0:
        axis += len(dims(parts[0]))
    if axis:
        return [join(axis - 1, *rows) for rows in zip(*parts, strict=True)]
    return [item for part in parts for item in part]


def parted(data: Numbers, sizes: Sequence[int] | int, axis: int) -> tuple[Numbers, ...]:
    """In pieces of these sizes, or in so many equal ones."""
    found, at = [], 0
    if isinstance(sizes, int):
        sizes = [dims(data)[axis] // sizes] * sizes
    for size in sizes:
        found.append(take(data, list(range(at, at + size)), axis))
        at += size
    return tuple(found)


def reshape(data: Numbers, shape: Sequence[int]) -> Numbers:
    items, old = flat(data), dims(data)
    sizes = [old[i] if size == 0 else size for i, size in enumerate(shape)]
    known = product([size for size in sizes if size != -1])
    return nest(items, [len(items) // known if size == -1 else size for size in sizes])


def unsqueeze(data: Numbers, axes: Sequence[int]) -> Numbers:
    old = dims(data)
    rank = len(old) + len(axes)
    new = {axis % rank for axis in axes}
    rest = iter(old)
    return nest(flat(data), [1 if axis in new else next(rest) for axis in range(rank)])


def squeeze(data: Numbers, axes: Sequence[int] | None) -> Numbers:
    old = dims(data)
    gone = {i for i, n in enumerate(old) if n == 1} if axes is None else {axis % len(old) for axis in axes}
    return nest(flat(data), [n for i, n in enumerate(old) if i not in gone])


def transpose(data: Numbers, perm: Sequence[int] | None) -> Numbers:
    old = dims(data)
    perm = list(reversed(range(len(old)))) if perm is None else perm
    strides = [product(old[axis + 1 :]) for axis in range(len(old))]
    new = [old[axis] for axis in perm]
    places = [0]
    for axis in perm:
        places = [place + i * strides[axis] for place in places for i in range(old[axis])]
    items = flat(data)
    return nest([items[place] for place in places], new)


def expand(data: Numbers, shape: Sequence[int]) -> Numbers:
    return combine("First", "int", data, filled(shape, 0))


def filled(shape: Sequence[int], value: Any) -> Numbers:
    return nest([value] * product(shape), list(shape))


def count(start: int, stop: int, step: int) -> list[int]:
    return list(range(start, stop, step))


def reduce(operator: str, data: Numbers, axes: Sequence[int] | None, keep: bool) -> Numbers:
    old = dims(data)
    if axes is not None and len({axis % len(old) for axis in axes}) < len(old):
        raise NotImplementedError("sizes are only reduced over all axes")
    total = _REDUCE[operator](flat(data))
    return nest([total], [1] * len(old)) if keep else total


def cast(data: Numbers, kind: str) -> Numbers:
    items = [_CASTS[kind](x) for x in flat(data)]
    return nest(items, dims(data))


def _rounded_down(x: Any) -> Any:
    return float(math.floor(x)) if isinstance(x, float) else x


def _rounded_up(x: Any) -> Any:
    return float(math.ceil(x)) if isinstance(x, float) else x


def _round(x: Any) -> Any:
    return float(round(x))


def _whole(x: Any) -> Any:
    return int(x) if isinstance(x, float | bool) else x


def _real(x: Any) -> Any:
    return single(float(x))


def _modulo(a: Any, b: Any) -> Any:
    return a % b


def _first(a: Any, b: Any) -> Any:
    return a


def _where(c: Any, a: Any, b: Any) -> Any:
    return a if c else b


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": divide,
    "Mod": _modulo,
    "Pow": lambda a, b: a**b,
    "Max": max,
    "Min": min,
    "Equal": lambda a, b: a == b,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "And": lambda a, b: a and b,
    "Or": lambda a, b: a or b,
    "Xor": lambda a, b: a != b,
    "Not": lambda a: not a,
    "Neg": lambda a: -a,
    "Abs": abs,
    "Floor": _rounded_down,
    "Ceil": _rounded_up,
    "Round": _round,
    "Sqrt": math.sqrt,
    "Reciprocal": lambda a: 1.0 / a,
    "Where": _where,
    "First": _first,
}
_REDUCE: dict[str, Callable[[list[Any]], Any]] = {
    "ReduceProd": product,
    "ReduceSum": sum,
    "ReduceMax": max,
    "ReduceMin": min,
}
_CASTS: dict[str, Callable[[Any], Any]] = {"int": _whole, "bool": bool, "float32": _real, "float": float}
ELEMENTWISE = frozenset(_ELEMENTWISE) - {"First"}
REDUCE = frozenset(_REDUCE)
COMPARE = frozenset(["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor", "Not"])
