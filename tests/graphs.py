"""Random graphs: a few dozen ways to grow one, each a function from what is there to what it adds.

`grow` asks `draw` for every decision, so that Hypothesis can shrink a failing graph to the few nodes that matter. The
first choice is always the plainest one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx
from building import Dim, Net

T = TypeVar("T")
MAX_ELEMENTS = 20_000


class Draw(Protocol):
    """Where decisions come from."""

    def integer(self, low: int, high: int) -> int: ...


class Unfit(Exception):
    pass


class Grower:
    """A graph being grown: `pool` holds the names that may be used further."""

    def __init__(self, draw: Draw, *, opset: int, dynamic: bool) -> None:
        self.draw, self.net, self.dynamic = draw, Net(opset, seed=draw.integer(0, 3)), dynamic
        self.kernels: list[tuple[str, int]] = []
        shapes: list[tuple[Dim, ...]] = [(2, 4, 4, 6)]
        if dynamic:
            shapes = [("N", 4, "H", "W"), ("N", 4, 4, 6), ("N", "T", 6), ("N", 4, 6)]
        self.pool = [self.net.image(*self.pick(shapes))]

    def pick(self, options: Sequence[T]) -> T:
        if not options:
            raise Unfit
        return options[self.draw.integer(0, len(options) - 1)]

    def chance(self) -> bool:
        return self.draw.integer(0, 1) == 1

    def any(self, *ranks: int) -> str:
        """One of the latest tensors, of these ranks if any are given."""
        found = [x for x in self.pool[::-1] if not ranks or len(self.net.shape(x)) in ranks]
        return self.pick(found[:6])

    def dims(self, x: str) -> list[Dim]:
        return self.net.shape(x)

    def numbers(self, x: str) -> list[int]:
        dims = self.dims(x)
        if not all(isinstance(d, int) for d in dims):
            raise Unfit
        return [d for d in dims if isinstance(d, int)]

    def axis(self, x: str, least: int = 2) -> int:
        """An axis of known length; the channels come first."""
        dims = self.dims(x)
        order = [1, *range(2, len(dims)), 0] if len(dims) > 1 else [0]
        return self.pick([i for i in order if isinstance(dims[i], int) and dims[i] >= least])  # type: ignore[operator]

    def channels(self, x: str) -> int:
        size = self.dims(x)[1]
        if not isinstance(size, int):
            raise Unfit
        return size


Growth = Callable[[Grower], "str | Sequence[str]"]
WAYS: dict[str, Growth] = {}


def way(function: Growth) -> Growth:
    WAYS[function.__name__] = function
    return function


@way
def conv(g: Grower) -> str:
    x = g.any(4)
    return g.net.conv(x, 2 * g.pick([4, 2, 3]), g.pick([1, 3]), bias=g.chance())


@way
def unary(g: Grower) -> str:
    kinds = "Relu Sigmoid Tanh Neg HardSwish Abs Softplus Elu Identity Softsign Cos HardSigmoid LeakyRelu"
    return g.net.op(g.pick(kinds.split()), g.any())


@way
def binary(g: Grower) -> str:
    x = g.any()
    fits = [y for y in g.pool[::-1] if _broadcasts(g.dims(x), g.dims(y))]
    return g.net.op(g.pick(["Add", "Mul", "Sub", "Max", "Min"]), *_swapped(g, x, g.pick(fits[:8])))


def _broadcasts(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(a[::-1], b[::-1], strict=False))


def _swapped(g: Grower, *xs: str) -> Sequence[str]:
    return xs[::-1] if g.chance() else xs


@way
def constant(g: Grower) -> str:
    """With a constant that stretches in some places."""
    x = g.any()
    shape = [d if isinstance(d, int) and g.chance() else 1 for d in g.dims(x)]
    cut = g.draw.integer(0, len(shape))
    return g.net.op(g.pick(["Add", "Mul", "Sub", "Max"]), *_swapped(g, x, g.net.weight(*shape[cut:])))


@way
def divide(g: Grower) -> str:
    x = g.any()
    shape = [d if isinstance(d, int) and g.chance() else 1 for d in g.dims(x)]
    return g.net.op("Div", x, g.net.positive(*shape))


@way
def linear(g: Grower) -> str:
    x = g.any()
    if not isinstance(g.dims(x)[-1], int) or len(g.dims(x)) < 2:
        raise Unfit
    return g.net.linear(x, 2 * g.pick([4, 2, 3]))


@way
def gemm(g: Grower) -> str:
    x = g.any(2)
    g.channels(x)
    return g.net.gemm(x, 2 * g.pick([4, 2, 3]))


@way
def grouped(g: Grower) -> str:
    x = g.any(4)
    n = g.channels(x)
    group = g.pick([k for k in (n, 2, 3, 4) if n % k == 0])
    return g.net.conv(x, group * g.pick([1, 2, 4]), g.pick([1, 3]), group=group)


@way
def deconv(g: Grower) -> str:
    x = g.any(4)
    n = g.channels(x)
    group = g.pick([k for k in (1, 2, n) if n % k == 0])
    return g.net.deconv(x, group * g.pick([2, 4, 1]), g.pick([1, 2]), group=group)


@way
def shared(g: Grower) -> str:
    """A kernel used again."""
    x = g.any(4)
    n = g.channels(x)
    if g.kernels and g.chance():
        w = g.pick([name for name, inner in g.kernels if inner == n])
    else:
        w = g.net.weight(n if g.chance() else 6, n, 1, 1)
        g.kernels.append((w, n))
    return g.net.op("Conv", x, w)


@way
def indirect(g: Grower) -> str:
    """A kernel that comes out of a computation."""
    x = g.any(4)
    n, out, net = g.channels(x), 2 * g.pick([4, 2, 3]), g.net
    kind = g.draw.integer(0, 5)
    if kind == 0:
        w = net.transpose(net.weight(n, out, 1, 1), 1, 0, 2, 3)
    elif kind == 1:
        w = net.reshape(net.weight(out, n), out, n, 1, 1)
    elif kind == 2:
        w = net.op("Mul", net.weight(out, n, 1, 1), net.weight(out, 1, 1, 1))
    elif kind == 3:
        w = net.concat(net.weight(out // 2, n, 1, 1), net.weight(out // 2, n, 1, 1), axis=0)
    elif kind == 4:
        w = net.op("Tanh", net.weight(out, n, 1, 1))
    else:
        w = net.op("Exp", net.weight(out, n, 1, 1, scale=0.1))
    return net.op("Conv", x, w)


@way
def concat(g: Grower) -> str:
    x = g.any()
    dims = g.dims(x)
    axis = g.pick([1, *range(len(dims))][: len(dims) + 1]) if len(dims) > 1 else 0
    fits = [y for y in g.pool[::-1] if _beside(dims, g.dims(y), axis)]
    others = [g.pick(fits) for _ in range(g.draw.integer(1, 2))]
    return g.net.concat(x, *others, axis=axis - len(dims) if g.chance() else axis)


def _beside(a: Sequence[Dim], b: Sequence[Dim], axis: int) -> bool:
    return len(a) == len(b) and all(i == axis or m == n for i, (m, n) in enumerate(zip(a, b, strict=True)))


@way
def split(g: Grower) -> Sequence[str]:
    x = g.any()
    axis = g.axis(x)
    size = g.dims(x)[axis]
    assert isinstance(size, int)
    first = g.draw.integer(1, size - 1)
    sizes = [first, size - first]
    if size > 3 and g.chance():
        sizes = [1, size - 3, 2]
    return g.net.split(x, axis, *sizes)


@way
def slice_(g: Grower) -> str:
    x = g.any()
    axis = g.axis(x)
    size = g.dims(x)[axis]
    assert isinstance(size, int)
    start = g.draw.integer(-size, size - 1)
    end = g.pick([2**31 - 1, 2**63 - 1, size, -1, size - 1])
    step = g.pick([1, 1, 2]) if g.net.opset >= 10 else 1
    if not len(range(size)[start:end:step]):
        raise Unfit
    return g.net.slice(x, start, end, axis, step)


@way
def gather(g: Grower) -> str:
    x = g.any()
    axis = g.axis(x)
    size = g.dims(x)[axis]
    assert isinstance(size, int)
    picks = np.array([g.draw.integer(-size, size - 1) for _ in range(g.pick([size, 1, 2, 4]))])
    if picks.size == 4 and g.chance():
        picks = picks.reshape(2, 2)
    if picks.size == 1 and g.chance():
        picks = picks.reshape(())
    return g.net.op("Gather", x, g.net.const(picks, np.int64), axis=axis)


@way
def pad(g: Grower) -> str:
    x = g.any(4, 3, 2)
    axis, rank = g.axis(x), len(g.dims(x))
    pads = [0] * (2 * rank)
    pads[axis], pads[rank + axis] = g.draw.integer(0, 2), g.draw.integer(0, 1)
    if g.chance():
        pads[rank + axis] = -1
    mode = g.pick(["constant", "edge"]) if min(pads) >= 0 else "constant"
    return g.net.pad(x, pads, mode, g.pick([None, 0.5]))


@way
def transpose(g: Grower) -> str:
    x = g.any()
    left, perm = list(range(len(g.dims(x)))), []
    while left:
        perm.append(left.pop(g.draw.integer(0, len(left) - 1)))
    return g.net.transpose(x, *perm)


@way
def flatten(g: Grower) -> str:
    x = g.any()
    return g.net.op("Flatten", x, axis=g.draw.integer(0, len(g.dims(x))))


@way
def regroup(g: Grower) -> str:
    """The same elements at other boundaries: factors are dealt out anew in order."""
    x = g.any()
    primes = [p for n in g.numbers(x) for p in _primes(n)]
    sizes = [1]
    for p in primes:
        if sizes[-1] > 1 and g.chance():
            sizes.append(p)
        else:
            sizes[-1] *= p
    if len(sizes) > 5:
        raise Unfit
    if g.chance():
        sizes[g.draw.integer(0, len(sizes) - 1)] = -1
    return g.net.reshape(x, *sizes)


def _primes(n: int) -> list[int]:
    for p in range(2, n + 1):
        if n % p == 0:
            return [p, *_primes(n // p)]
    return []


@way
def unfold(g: Grower) -> str:
    """One axis becomes two; what is before it is copied, and one length is computed."""
    x = g.any()
    dims, axis = g.dims(x), g.axis(x, 4)
    size = dims[axis]
    assert isinstance(size, int)
    first = g.pick([k for k in range(2, size) if size % k == 0])
    sizes: list[Dim] = [*([0] * axis), first, size // first, *dims[axis + 1 :]]
    unknown = [i for i, n in enumerate(sizes) if not isinstance(n, int)]
    if len(unknown) > 1:
        return _computed(g, x, sizes, axis)
    if unknown:
        sizes[unknown[0]] = -1
    elif g.chance():
        sizes[g.draw.integer(axis, len(sizes) - 1)] = -1
    return g.net.reshape(x, *[int(n) for n in sizes if n is not None])


def _computed(g: Grower, x: str, sizes: Sequence[Dim], axis: int) -> str:
    """The target is put together from Shape."""
    parts = []
    for i, size in enumerate(sizes):
        source = i if i < axis else i - 1
        parts.append(g.net.ints(size) if isinstance(size, int) and size else g.net.length(x, source))
    return g.net.op("Reshape", x, g.net.concat(*parts, axis=0))


@way
def fold(g: Grower) -> str:
    """Two neighbouring axes become one, by -1 or by sizes computed from Shape."""
    x = g.any(3, 4, 5)
    dims, net = g.dims(x), g.net
    at = g.draw.integer(0, len(dims) - 2)
    if g.chance():
        lengths = [net.length(x, i) for i in range(len(dims))]
        merged = net.op("Mul", lengths[at], lengths[at + 1])
        return net.op("Reshape", x, net.concat(*lengths[:at], merged, *lengths[at + 2 :], axis=0))
    rest: list[Dim] = [*([0] * at), -1, *dims[at + 2 :]]
    if not all(isinstance(n, int) for n in rest):
        raise Unfit
    return net.reshape(x, *[n for n in rest if isinstance(n, int)])


@way
def like(g: Grower) -> str:
    """Reshape to the shape of another tensor of as many elements."""
    x = g.any()
    count = math.prod(g.numbers(x))
    fits = [y for y in g.pool if y != x and _count(g.dims(y)) == count]
    return g.net.op("Reshape", x, g.net.op("Shape", g.pick(fits)))


def _count(dims: Sequence[Dim]) -> int:
    return math.prod(d if isinstance(d, int) else -1000003 for d in dims)


@way
def shuffle(g: Grower) -> str:
    x = g.any(4)
    n, h, w = g.channels(x), *g.dims(x)[2:]
    group = g.pick([k for k in (2, 3, 4) if n % k == 0])
    if not (isinstance(h, int) and isinstance(w, int)):
        raise Unfit
    y = g.net.transpose(g.net.reshape(x, 0, group, n // group, h, w), 0, 2, 1, 3, 4)
    return g.net.reshape(y, 0, -1, h, w)


@way
def insert(g: Grower) -> str:
    x = g.any(1, 2, 3, 4)
    return g.net.unsqueeze(x, g.draw.integer(-1 if g.net.opset >= 11 else 0, len(g.dims(x))))


@way
def squeeze(g: Grower) -> str:
    x = g.any()
    single = [i for i, n in enumerate(g.dims(x)) if n == 1]
    dims = g.dims(x)
    if g.chance() and all(isinstance(n, int) for n in dims):
        return g.net.op("Squeeze", x)
    back = len(dims) if g.net.opset >= 11 and g.chance() else 0
    return g.net.squeeze(x, g.pick(single) - back)


@way
def pool(g: Grower) -> str:
    x = g.any(4)
    kind = g.pick(["GlobalAveragePool", "MaxPool", "AveragePool", "GlobalMaxPool"])
    return g.net.op(kind, x, **({} if kind.startswith("Global") else {"kernel_shape": [1, 1], "strides": [1, 1]}))


@way
def gate(g: Grower) -> str:
    """Squeeze and excitation."""
    x, net = g.any(4), g.net
    squeezed = net.conv(net.op("GlobalAveragePool", x), 4)
    return net.op("Mul", x, net.op("Sigmoid", net.conv(net.op("Relu", squeezed), g.channels(x))))


@way
def residual(g: Grower) -> str:
    x, net = g.any(4), g.net
    inner = net.op("Relu", net.conv(x, 6, 3))
    return net.op("Add", x, net.conv(inner, g.channels(x)))


@way
def batch_norm(g: Grower) -> str:
    x = g.any(2, 3, 4)
    g.channels(x)
    return g.net.norm(x)


@way
def group_norm(g: Grower) -> str:
    x = g.any(4)
    n, net = g.channels(x), g.net
    groups = g.pick([k for k in (2, 4, n) if n % k == 0])
    y = net.reshape(x, 0, groups, -1)
    y = net.op("InstanceNormalization", y, net.positive(groups), net.weight(groups), epsilon=0.1)
    y = net.op("Reshape", y, net.op("Shape", x))
    return net.op("Add", net.op("Mul", y, net.weight(n, 1, 1)), net.weight(n, 1, 1))


@way
def layer_norm(g: Grower) -> str:
    x = g.any()
    n = g.dims(x)[-1]
    if not isinstance(n, int) or g.net.opset < 17:
        raise Unfit
    return g.net.op("LayerNormalization", x, g.net.positive(n), g.net.weight(n), epsilon=0.1)


@way
def softmax(g: Grower) -> str:
    x = g.any()
    return g.net.op("Softmax", x, axis=g.draw.integer(0, len(g.dims(x)) - 1))


@way
def reduce(g: Grower) -> str:
    x = g.any()
    rank = len(g.dims(x))
    kind = g.pick(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceMin"])
    axes = sorted({g.draw.integer(0, rank - 1) for _ in range(g.pick([1, 2]))})
    if len(axes) >= rank:
        raise Unfit
    back = rank if g.net.opset >= 11 and g.chance() else 0
    return g.net.reduce(kind, x, *(a - back for a in axes), keepdims=g.pick([1, 0]))


@way
def resize(g: Grower) -> str:
    x = g.any(4)
    scales = g.net.const([1, 1, 2, 1], np.float32)
    if g.net.opset == 10:
        return g.net.op("Resize", x, scales, mode="nearest")
    if g.net.opset < 10:
        return (
            g.net.op("Upsample", x, scales, mode="nearest")
            if g.net.opset == 9
            else g.net.op("Upsample", x, scales=[1.0, 1.0, 2.0, 1.0], mode="nearest")
        )
    if g.chance():
        n = g.net
        sizes = n.concat(n.length(x, 0), n.length(x, 1), n.ints(5, 3), axis=0)
        none = n.const([], np.float32)
        return n.op("Resize", x, none, none, sizes, mode="nearest")
    return g.net.op("Resize", x, g.net.const([], np.float32), scales, mode="nearest")


@way
def depth_to_space(g: Grower) -> str:
    x = g.any(4)
    if g.channels(x) % 4:
        raise Unfit
    return g.net.op("DepthToSpace", x, blocksize=2, mode=g.pick(["DCR", "CRD"]) if g.net.opset >= 11 else None)


@way
def space_to_depth(g: Grower) -> str:
    x = g.any(4)
    if any(n % 2 for n in g.numbers(x)[2:]):
        raise Unfit
    return g.net.op("SpaceToDepth", x, blocksize=2)


@way
def product(g: Grower) -> str:
    """Two activations multiplied as matrices."""
    x = g.any(2, 3, 4)
    fits = [y for y in g.pool if _multiplies(g.dims(x), g.dims(y))]
    if fits and g.chance():
        return g.net.op("MatMul", x, g.pick(fits))
    rank = len(g.dims(x))
    return g.net.op("MatMul", x, g.net.transpose(x, *range(rank - 2), rank - 1, rank - 2))


def _multiplies(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    return len(b) > 1 and a[-1] == b[-2] and _broadcasts(a[:-2], b[:-2])


@way
def expand(g: Grower) -> str:
    x = g.any()
    shape = [n if n != 1 and g.chance() else g.pick([1, 3]) if n == 1 else 1 for n in g.numbers(x)]
    return g.net.op("Expand", x, g.net.ints(*shape))


@way
def expand_as(g: Grower) -> str:
    x = g.any()
    fits = [y for y in g.pool if y != x and _broadcasts(g.dims(x), g.dims(y)) and len(g.dims(y)) >= len(g.dims(x))]
    return g.net.op("Expand", x, g.net.op("Shape", g.pick(fits)))


@way
def tile(g: Grower) -> str:
    x = g.any()
    repeats = [1] * len(g.dims(x))
    repeats[g.axis(x, 1)] = 2
    return g.net.op("Tile", x, g.net.ints(*repeats))


@way
def filled(g: Grower) -> str:
    """A constant of another tensor's shape."""
    x = g.any()
    value = onnx.numpy_helper.from_array(np.array([g.pick([0.0, 0.5])], np.float32))
    y = g.net.op("ConstantOfShape", g.net.op("Shape", x), value=value)
    return g.net.op("Add", x, y) if g.chance() else g.net.concat(x, y, axis=g.draw.integer(0, len(g.dims(x)) - 1))


@way
def where(g: Grower) -> str:
    x = g.any()
    fits = [y for y in g.pool[::-1] if _broadcasts(g.dims(x), g.dims(y))]
    shape = [d if isinstance(d, int) and g.chance() else 1 for d in g.dims(x)]
    mask = g.net.const(g.net.rng.integers(0, 2, shape).astype(bool))
    return g.net.op("Where", mask, *_swapped(g, x, g.pick(fits[:6])))


@way
def clip(g: Grower) -> str:
    x, low = g.any(), g.pick([-1.0, 0.1])
    if g.net.opset < 11:
        return g.net.op("Clip", x, min=low, max=2.0)
    return g.net.op("Clip", x, g.net.scalar(low), g.net.scalar(2.0))


@way
def slope(g: Grower) -> str:
    x = g.any()
    shape = [d if isinstance(d, int) and g.chance() else 1 for d in g.dims(x)]
    return g.net.op("PRelu", x, g.net.weight(*shape[g.draw.integer(0, 1) :]))


@way
def chunks(g: Grower) -> Sequence[str]:
    """torch.chunk as the legacy exporter writes it: the border is computed from Shape."""
    x, net = g.any(4, 3, 2), g.net
    if net.opset < 10:
        raise Unfit
    axis = g.axis(x)
    half = net.op("Div", net.op("Add", net.length(x, axis), net.ints(1)), net.ints(2))
    first = net.op("Slice", x, net.ints(0), half, net.ints(axis))
    second = net.op("Slice", x, half, net.op("Mul", half, net.ints(2)), net.ints(axis))
    return [first, second]


@way
def attention(g: Grower) -> str:
    """Heads split off, multiplied and put together again."""
    x, net = g.any(3), g.net
    dims = g.dims(x)
    if not isinstance(dims[-1], int):
        raise Unfit
    heads, size = g.pick([(2, 3), (4, 2)])

    def part(*order: int) -> str:
        y = net.reshape(net.linear(x, heads * size), 0, 0, heads, size)
        return net.transpose(y, 0, 2, *order)

    q, k, v = part(1, 3), part(3, 1), part(1, 3)
    y = net.op("MatMul", net.op("Softmax", net.op("MatMul", q, k), axis=-1 if net.opset >= 11 else 3), v)
    return net.reshape(net.transpose(y, 0, 2, 1, 3), 0, 0, heads * size)


@way
def from_left(g: Grower) -> str:
    x = g.any(2, 3, 4)
    n = g.dims(x)[-2]
    if not isinstance(n, int):
        raise Unfit
    return g.net.op("MatMul", g.net.weight(4, n), x)


@way
def outer(g: Grower) -> str:
    """Every position of the last axis meets every other."""
    x = g.any(2, 3)
    rank = len(g.dims(x))
    return g.net.op(g.pick(["Add", "Mul"]), g.net.unsqueeze(x, rank), g.net.unsqueeze(x, rank - 1))


@way
def einsum(g: Grower) -> str:
    x = g.any(3)
    n = g.dims(x)[-1]
    if not isinstance(n, int) or g.net.opset < 12:
        raise Unfit
    equation, shape = g.pick(
        [("abc,cd->abd", (n, 4)), ("abc,dc->adb", (4, n)), ("abc,c->abc", (n,)), ("abc,c->ab", (n,))]
    )
    return g.net.op("Einsum", x, g.net.weight(*shape), equation=equation)


@way
def einsum_activations(g: Grower) -> str:
    x = g.any(3)
    if g.net.opset < 12:
        raise Unfit
    return g.net.op("Einsum", x, x, equation=g.pick(["abc,adc->abd", "abc,abd->acd", "abc,adc->acbd"]))


@way
def lp_norm(g: Grower) -> str:
    x = g.any()
    return g.net.op("LpNormalization", x, axis=g.draw.integer(0, len(g.dims(x)) - 1), p=g.pick([2, 1]))


@way
def cumulative(g: Grower) -> str:
    x = g.any()
    if g.net.opset < 11:
        raise Unfit
    return g.net.op("CumSum", x, g.net.const(g.draw.integer(0, len(g.dims(x)) - 1), np.int64))


@way
def elements(g: Grower) -> str:
    x = g.any()
    if g.net.opset < 11:
        raise Unfit
    dims, axis = g.numbers(x), g.axis(x, 1)
    shape = [n if i != axis else g.pick([n, 1, 2]) for i, n in enumerate(dims)]
    return g.net.op("GatherElements", x, g.net.const(g.net.rng.integers(0, dims[axis], shape)), axis=axis)


@way
def scatter(g: Grower) -> str:
    x, net = g.any(2, 3, 4), g.net
    if net.opset < 11:
        raise Unfit
    dims = g.numbers(x)
    rows = net.const(np.array([[g.draw.integer(0, dims[0] - 1)]]), np.int64)
    return net.op("ScatterND", x, rows, net.weight(1, *dims[1:]))


@way
def pick_rows(g: Grower) -> str:
    """GatherND over the first axis, with a batch or without."""
    x, net = g.any(2, 3, 4), g.net
    if net.opset < 12:
        raise Unfit
    dims = g.numbers(x)
    if g.chance() and len(dims) > 2:
        picks = np.array([[[g.draw.integer(0, dims[1] - 1)]] for _ in range(dims[0])])
        return net.op("GatherND", x, net.const(picks, np.int64), batch_dims=1)
    return net.op("GatherND", x, net.const([[0], [dims[0] - 1]], np.int64))


@way
def power(g: Grower) -> str:
    x = g.any()
    return g.net.op("Pow", g.net.op("Abs", x), g.net.scalar(g.pick([2.0, 1.0, 0.0])))


@way
def chosen(g: Grower) -> str:
    """A condition that is computed."""
    x, net = g.any(), g.net
    fits = [y for y in g.pool[::-1] if g.dims(y) == g.dims(x)]
    if net.opset < 9:
        raise Unfit
    other = g.pick(fits)
    return net.op("Where", net.op("Greater", x, net.scalar(0.1)), other, x)


@way
def upsampled(g: Grower) -> str:
    """Nearest neighbours by reshape, expand and reshape."""
    x, net = g.any(4), g.net
    a, b, c, d = g.numbers(x)
    y = net.op("Expand", net.reshape(x, a, b, c, 1, d, 1), net.ints(a, b, c, 2, d, 1))
    return net.reshape(y, a, b, 2 * c, d)


@way
def pixel_shuffle(g: Grower) -> str:
    x, net = g.any(4), g.net
    a, b, c, d = g.numbers(x)
    if b % 4:
        raise Unfit
    y = net.transpose(net.reshape(x, a, b // 4, 2, 2, c, d), 0, 1, 4, 2, 5, 3)
    return net.reshape(y, a, b // 4, 2 * c, 2 * d)


@way
def windows(g: Grower) -> str:
    """Swin: the picture in windows, the windows in the batch."""
    x, net = g.any(4), g.net
    a, b, c, d = g.numbers(x)
    if c % 2 or d % 2:
        raise Unfit
    y = net.transpose(net.reshape(x, a, b, c // 2, 2, d // 2, 2), 0, 2, 4, 3, 5, 1)
    return net.reshape(y, -1, 4, b)


@way
def batched(g: Grower) -> str:
    """batch * channels in front, the length of the batch perhaps not known."""
    x, net = g.any(3, 4), g.net
    dims = g.dims(x)
    n = dims[1]
    if not isinstance(n, int) or not all(isinstance(d, int) for d in dims[2:]):
        raise Unfit
    rest = [d for d in dims[2:] if isinstance(d, int)]
    y = net.op(g.pick(["Tanh", "Relu"]), net.reshape(x, -1, *rest))
    if g.chance():
        y = net.op("MatMul", y, net.transpose(y, *range(len(rest) - 1), len(rest), len(rest) - 1))
        return net.reshape(y, -1, n, *rest[:-1], rest[-2]) if len(rest) > 1 else net.reshape(x, -1, n, *rest)
    return net.reshape(y, -1, n, *rest)


@way
def opaque(g: Grower) -> str:
    """A Reshape to where it was, by arithmetic that shape inference does not follow."""
    x, net = g.any(), g.net
    if g.dynamic:
        raise Unfit
    two = net.ints(2)
    lengths = [net.op("Div", net.op("Mul", net.length(x, i), two), two) for i in range(len(g.dims(x)))]
    return net.op("Reshape", x, net.concat(*lengths, axis=0), made=g.dims(x))


SIZES = {"N": 2, "T": 5, "H": 4, "W": 6}


def free_dims(proto: onnx.ModelProto) -> dict[str, int]:
    """Numbers for what a dynamic graph leaves open."""
    names = {d.dim_param for x in proto.graph.input for d in x.type.tensor_type.shape.dim if d.dim_param}
    return {name: SIZES[name] for name in sorted(names)}


def grow(draw: Draw, *, steps: int, opset: int = 17, dynamic: bool = False) -> onnx.ModelProto:
    """A graph of about that many steps whose ends are read by a layer each, or come out as they are."""
    g = Grower(draw, opset=opset, dynamic=dynamic)
    names = list(WAYS)
    first = g.pool[0]
    g.pool.append((g.net.conv if len(g.dims(first)) == 4 else g.net.linear)(first, 8, name="first"))
    for _ in range(steps):
        before = len(g.net.nodes), g.net._count
        try:
            made = WAYS[g.pick(names)](g)
            added = [made] if isinstance(made, str) else list(made)
            if any(_count(g.dims(x)) > MAX_ELEMENTS for x in added):
                raise Unfit
        except (Unfit, LookupError, AssertionError):
            del g.net.nodes[before[0] :]
            continue
        g.pool += added
    _finish(g)
    return g.net.proto()


def _finish(g: Grower) -> None:
    used = {name for node in g.net.nodes for name in node.input}
    leaves = [x for x in g.pool if x not in used]
    for leaf in leaves:
        dims: Any = g.dims(leaf)
        if not dims or (not isinstance(dims[-1], int) and len(dims) != 4):
            g.net.output(g.net.op("Identity", leaf))
        elif len(dims) == 4 and isinstance(dims[1], int):
            g.net.output(g.net.conv(leaf, 3))
        elif len(dims) > 1 and isinstance(dims[-1], int):
            g.net.output(g.net.linear(leaf, 3))
        else:
            g.net.output(g.net.op("Identity", leaf))
