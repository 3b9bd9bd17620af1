"""Scores of quantised weights: a channel is as large as the numbers it stands for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from building import MS, Net
from oracle import prepared

from onnxprune.analysis.analyze import analyze
from onnxprune.files.model import Model
from onnxprune.graph.dequantize import quantisations
from onnxprune.scoring.scores import score

CHANNELS, INNER = 24, 7
Store = Callable[[Net, np.ndarray, int], str]
"""(net, float weights, axis of the output channels) -> what the layer reads"""


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, for scores without ties."""
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def uneven(shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Channels of very different size, some of them one-sided, so that neither scale nor zero point can be ignored."""
    rng = np.random.default_rng(5)
    weights = rng.standard_normal(shape)
    aside = np.moveaxis(weights, axis, 0)
    aside[::3] = np.abs(aside[::3])
    size = np.linspace(0.1, 2.0, shape[axis])
    rng.shuffle(size)
    weights *= size.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return weights.astype(np.float32)


def as_floats(n: Net, w: np.ndarray, axis: int) -> str:
    return n.const(w, name="w")


def per_tensor(n: Net, w: np.ndarray, axis: int) -> str:
    scale = np.float32(np.abs(w).max() / 127)
    return n.op("DequantizeLinear", n.const(np.round(w / scale), np.int8, name="w"), n.const(scale))


def grid(w: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 for each channel: stored values, scales and zero points."""
    others = tuple(i for i in range(w.ndim) if i != axis)
    low, high = np.minimum(w.min(others), 0), np.maximum(w.max(others), 0)
    scale = ((high - low) / 255).astype(np.float32)
    zero = np.round(-low / scale)
    shape = [-1 if i == axis else 1 for i in range(w.ndim)]
    stored = np.clip(np.round(w / scale.reshape(shape)) + zero.reshape(shape), 0, 255)
    return stored.astype(np.uint8), scale, zero.astype(np.uint8)


def per_channel(n: Net, w: np.ndarray, axis: int) -> str:
    stored, scale, zero = grid(w, axis)
    return n.op("DequantizeLinear", n.const(stored, name="w"), n.const(scale), n.const(zero), axis=axis - w.ndim)


def turned(n: Net, w: np.ndarray, axis: int) -> str:
    """The initializer holds the transposed weight, with one zero point for all."""
    scale = np.float32(np.abs(w).max() / 120)
    stored = np.round(w / scale + 128).astype(np.uint8)
    perm = list(range(w.ndim))[::-1]
    raw = n.transpose(n.const(stored.transpose(perm), name="w"), *perm)
    return n.op("DequantizeLinear", raw, n.const(scale), n.const(128, np.uint8))


def in_blocks(n: Net, w: np.ndarray, axis: int) -> str:
    """Four inputs share a scale."""
    along = 1 - axis
    pieces = -(-w.shape[along] // 4)
    parts = np.array_split(w, range(4, w.shape[along], 4), along)
    scale = np.stack([np.abs(part).max(along) / 127 for part in parts], along).astype(np.float32)
    assert scale.shape[along] == pieces
    wide = np.take(np.repeat(scale, 4, along), range(w.shape[along]), along)
    stored = np.round(w / wide).astype(np.int8)
    return n.op("DequantizeLinear", n.const(stored, name="w"), n.const(scale), axis=along, block_size=4)


def half_bytes(n: Net, w: np.ndarray, axis: int) -> str:
    import ml_dtypes

    others = tuple(i for i in range(w.ndim) if i != axis)
    scale = (np.abs(w).max(others) / 7).astype(np.float32)
    stored = np.round(w / scale.reshape([-1 if i == axis else 1 for i in range(w.ndim)])).astype(ml_dtypes.int4)
    return n.op("DequantizeLinear", n.const(stored, name="w"), n.const(scale), axis=axis)


def conv(store: Store) -> Model:
    net = Net(21)
    w = store(net, uneven((CHANNELS, 3, 3, 3), 0), 0)
    net.close(net.op("Conv", net.image(), w))
    return prepared(net.proto())


def linear(store: Store) -> Model:
    net = Net(21)
    w = store(net, uneven((INNER, CHANNELS), 1), 1)
    net.close(net.op("MatMul", net.input("x", 4, INNER), w))
    return prepared(net.proto())


def integers(kind: str) -> Callable[[Store], Model]:
    """Operators that compute with the stored values; `store` says how: floats, or one grid for each channel."""

    def write(store: Store) -> Model:
        net = Net(21)
        w = uneven(
            (CHANNELS, 3, 1, 1) if kind == "QLinearConv" else (INNER, CHANNELS), 0 if kind == "QLinearConv" else 1
        )
        axis = 0 if kind == "QLinearConv" else 1
        if kind == "QGemm":
            w, axis = w.T.copy(), 0
        if store is as_floats:
            wire = as_floats(net, w, axis)
            if kind == "QLinearConv":
                net.close(net.op("Conv", net.image(), wire))
            else:
                net.close(net.op("Gemm", net.input("x", 4, INNER), wire, transB=int(kind == "QGemm")))
            return prepared(net.proto())
        stored, scale, zero = grid(w, axis)
        params = [net.const(stored, name="w"), net.const(scale), net.const(zero)]
        step = [net.const(0.1, np.float32), net.const(128, np.uint8)]
        x = net.op("QuantizeLinear", net.image() if kind == "QLinearConv" else net.input("x", 4, INNER), *step)
        if kind == "QGemm":
            y = net.op(f"{MS}::QGemm", x, *step, *params, "", *step, transB=1)
        else:
            y = net.op(kind, x, *step, *params, *step)
        y = net.op("DequantizeLinear", y, *step)
        shape = (5, CHANNELS, 1, 1) if kind == "QLinearConv" else (CHANNELS, 5)
        last = net.weight(*shape, name="last.weight")
        net.output(net.op("Conv" if kind == "QLinearConv" else "MatMul", y, last, name="last"))
        return prepared(net.proto())

    return write


def found(model: Model, criterion: str) -> np.ndarray:
    """Scores of the output channels alone: the layer behind is random, and not what is compared."""
    coupling = analyze(model, strict=True)
    group = next(group for group in coupling.groups if group.size == CHANNELS)
    bare = type(group)(group.name, group.nodes, group.ops, group.size, tuple(s for s in group.slots if s.tensor == "w"))
    return score(model, type(coupling)((bare,), (), {}), criterion).by_group[group.name]


STORES = {"per tensor": per_tensor, "per channel": per_channel, "turned": turned, "int4": half_bytes}


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm"])
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("layer", [conv, linear])
def test_ranking_is_that_of_the_floats(layer: Callable[[Store], Model], store: str, criterion: str) -> None:
    want, have = found(layer(as_floats), criterion), found(layer(STORES[store]), criterion)
    assert rank_correlation(want, have) > 0.99
    assert np.abs(want - have).max() < (0.15 if store == "int4" else 0.05)


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm"])
def test_ranking_of_blocks(criterion: str) -> None:
    assert rank_correlation(found(linear(as_floats), criterion), found(linear(in_blocks), criterion)) > 0.99


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm"])
@pytest.mark.parametrize("kind", ["QLinearConv", "QLinearMatMul", "QGemm"])
def test_ranking_of_integer_operators(kind: str, criterion: str) -> None:
    write = integers(kind)
    assert rank_correlation(found(write(as_floats), criterion), found(write(per_channel), criterion)) > 0.99


def test_raw_integers_would_rank_otherwise() -> None:
    """What the tests above would miss if scores came from what is stored."""
    model = conv(per_channel)
    raw = np.abs(model.weights["w"].array().astype(np.float32)).sum((1, 2, 3))
    assert abs(rank_correlation(raw, found(conv(as_floats), "l1"))) < 0.8


@pytest.mark.parametrize(
    ("bits", "zeros"), [(2, "none"), (2, "bytes"), (4, "none"), (4, "bytes"), (4, "floats"), (8, "none"), (8, "bytes")]
)
def test_packed_weights(bits: int, zeros: str) -> None:
    """As onnxruntime itself unpacks them: a product with the identity gives the weight back."""
    from onnxprune.execution.runtime import run, session

    rows, inner, block = 6, 64, 16
    net = Net(21)
    rng, blocks = np.random.default_rng(0), inner // block
    w = net.const(rng.integers(0, 256, (rows, blocks, block * bits // 8)), np.uint8, name="w")
    scale = net.const(rng.uniform(0.5, 1.5, (rows, blocks)), np.float32)
    more = []
    if zeros == "floats":
        more = [net.const(rng.uniform(0, 2**bits, (rows, blocks)), np.float32)]
    elif zeros == "bytes":
        more = [net.const(rng.integers(0, 256, (rows, -(-blocks * bits // 8))), np.uint8)]
    sizes = {"N": rows, "K": inner, "bits": bits, "block_size": block}
    net.output(net.op(f"{MS}::MatMulNBits", net.input("x", inner, inner), w, scale, *more, **sizes, made=(inner, rows)))
    model = prepared(net.proto())
    (want,) = run(session(model), {"x": np.eye(inner, dtype=np.float32)}).values()
    real = quantisations(model)["w"].real(model.weights["w"])
    assert real.shape == (rows, blocks, block)
    np.testing.assert_allclose(real.reshape(rows, inner), want.T, rtol=1e-5, atol=1e-5)
