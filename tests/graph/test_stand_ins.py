"""Shapes through vendor operators are those that onnxruntime finds when it runs them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from building import MS, Net
from oracle import prepared
from quantised import U8, scales, step, stored

from onnxprune.execution.inputs import random_feeds
from onnxprune.execution.runtime import run, session
from onnxprune.files.model import Model
from onnxprune.graph.shapes import infer

_T = onnx.TensorProto
DIMS = {"batch": 2, "time": 5, "rows": 4, "height": 6, "width": 7}


def tokens(n: Net, wide: int = 8) -> str:
    return n.input("tokens", "batch", "time", wide)


def image(n: Net, *, last: bool = False) -> str:
    x = n.input("image", "batch", 3, "height", "width")
    x = n.op("QuantizeLinear", x, *step(n))
    return n.transpose(x, 0, 2, 3, 1) if last else x


def bias_gelu(n: Net, op: str) -> list[str]:
    return [n.op(f"{MS}::{op}", tokens(n), n.weight(8))]


def unary(n: Net, op: str) -> list[str]:
    return [n.op(f"{MS}::{op}", tokens(n))]


def skip(n: Net, op: str) -> list[str]:
    params = [n.positive(8)] + ([n.weight(8)] if op == "SkipLayerNormalization" else [])
    outs = n.ops(f"{MS}::{op}", 4, tokens(n), n.op("Neg", "tokens"), *params)
    return [outs[0], outs[3]]


def embed(n: Net) -> list[str]:
    ids = n.input("ids", "batch", "time", dtype=_T.INT32)
    tables = [n.weight(9, 8), n.weight(16, 8)]
    return n.ops(f"{MS}::EmbedLayerNormalization", 2, ids, "", *tables, "", n.positive(8), n.weight(8))[:1]


def rotary(n: Net) -> list[str]:
    positions = n.input("position_ids", "batch", "time", dtype=_T.INT64)
    return [n.op(f"{MS}::RotaryEmbedding", tokens(n), positions, n.weight(9, 2), n.weight(9, 2))]


def multi_head(n: Net, size_v: int) -> list[str]:
    x = tokens(n)
    q, k, v = (n.op("MatMul", x, n.weight(8, wide)) for wide in (12, 12, 4 * size_v))
    return [n.op(f"{MS}::MultiHeadAttention", q, k, v, num_heads=4)]


def crossed(n: Net) -> list[str]:
    """As many positions as the queries have."""
    x, other = tokens(n), n.input("memory", "batch", "rows", 8)
    q, k, v = (n.op("MatMul", a, n.weight(8, 12)) for a in (x, other, other))
    return [n.op(f"{MS}::MultiHeadAttention", q, k, v, num_heads=4)]


def projecting(n: Net, sizes: tuple[int, int, int] | None) -> list[str]:
    total = sum(sizes) if sizes else 36
    w, b = n.weight(8, total), n.weight(total)
    return [n.op(f"{MS}::Attention", tokens(n), w, b, num_heads=4, qkv_hidden_sizes=sizes)]


def grouped(n: Net) -> list[str]:
    q = n.op("MatMul", n.input("tokens", 1, "time", 8), n.weight(8, 64))
    k, v = (n.op("MatMul", "tokens", n.weight(8, 32)) for _ in range(2))
    more = [n.const([4], np.int32), n.const(5, np.int32)]
    return n.ops(f"{MS}::GroupQueryAttention", 3, q, k, v, "", "", *more, num_heads=4, kv_num_heads=2)[:1]


def grouped_packed(n: Net) -> list[str]:
    qkv = n.op("MatMul", n.input("tokens", 1, "time", 8), n.weight(8, 128))
    more = [n.const([4], np.int32), n.const(5, np.int32)]
    return n.ops(f"{MS}::GroupQueryAttention", 3, qkv, "", "", "", "", *more, num_heads=4, kv_num_heads=2)[:1]


def convolved(n: Net) -> list[str]:
    x = n.input("image", "batch", 3, "height", "width")
    return [n.op(f"{MS}::FusedConv", x, n.weight(6, 3, 3, 3), n.weight(6), activation="Relu", strides=[2, 2])]


def gemm(n: Net) -> list[str]:
    x = n.input("x", "rows", 5)
    return [n.op(f"{MS}::FusedGemm", x, n.weight(8, 5), n.weight(8), transB=1, activation="Relu")]


def matmul(n: Net, a: int, b: int) -> list[str]:
    x = n.transpose(tokens(n), 0, 2, 1) if a else tokens(n)
    w = n.weight(7, 8) if b else n.weight(8, 7)
    return [n.op(f"{MS}::FusedMatMul", x, w, transA=a, transB=b, alpha=0.5)]


def packed(n: Net) -> list[str]:
    x = tokens(n, 32)
    w, scale = n.const(n.rng.integers(0, 256, (6, 2, 8)), U8), n.positive(6, 2)
    return [n.op(f"{MS}::MatMulNBits", x, w, scale, N=6, K=32, bits=4, block_size=16)]


def binary(n: Net, op: str) -> list[str]:
    a, b = image(n), n.const(n.rng.integers(0, 255, (1, 3, 1, 1)), U8)
    return [n.op(f"{MS}::{op}", a, *step(n), b, *step(n), *step(n))]


def concat(n: Net) -> list[str]:
    x = image(n)
    return [n.op(f"{MS}::QLinearConcat", *step(n), x, *step(n), x, *step(n), axis=1)]


def pointwise(n: Net, op: str) -> list[str]:
    return [n.op(f"{MS}::{op}", image(n), *step(n), *step(n))]


def pool(n: Net, op: str, last: bool) -> list[str]:
    more = {"kernel_shape": [2, 2], "strides": [2, 2]} if op == "QLinearAveragePool" else {}
    return [n.op(f"{MS}::{op}", image(n, last=last), *step(n), *step(n), channels_last=int(last), **more)]


def pool_last(n: Net) -> list[str]:
    return [n.op(f"{MS}::NhwcMaxPool", image(n, last=True), kernel_shape=[2, 2], strides=[2, 2])]


def conv(n: Net, last: bool) -> list[str]:
    w, point = stored(n, 6, 3, 3, 3, name="w")
    x = image(n, last=last)
    return [n.op(f"{MS}::QLinearConv", x, *step(n), w, scales(n), point, *step(n), channels_last=int(last))]


def product(n: Net, op: str, floats: bool = True) -> list[str]:
    x = n.input("x", "rows", 5)
    w, point = stored(n, 5, 8, name="w")
    if op == "DynamicQuantizeMatMul":
        return [n.op(f"{MS}::{op}", x, w, scales(n), point)]
    q, s, z = n.ops("DynamicQuantizeLinear", 3, x)
    if op == "MatMulIntegerToFloat":
        return [n.op(f"{MS}::{op}", q, w, s, scales(n), z, point)]
    a = n.op("QuantizeLinear", x, *step(n))
    end = [] if floats else step(n)
    return [n.op(f"{MS}::QGemm", a, *step(n), w, scales(n), point, "", *end)]


def lstm(n: Net) -> list[str]:
    x = n.input("sequence", "time", "batch", 3)
    weights = []
    for name, width in (("W", 3), ("R", 6)):
        weights.append([stored(n, 2, width, 24, name=name)[0], n.positive(2), n.const([0, 0], np.int8)])
    (w, *wide), (r, *deep) = weights
    more = {"hidden_size": 6, "direction": "bidirectional"}
    return n.ops(f"{MS}::DynamicQuantizeLSTM", 3, x, w, r, "", "", "", "", "", *wide, *deep, **more)


CASES = {
    **{op: lambda n, op=op: bias_gelu(n, op) for op in ("BiasGelu", "FastGelu")},
    **{op: lambda n, op=op: unary(n, op) for op in ("Gelu", "QuickGelu")},
    **{op: lambda n, op=op: skip(n, op) for op in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")},
    "EmbedLayerNormalization": embed,
    "RotaryEmbedding": rotary,
    "MultiHeadAttention": lambda n: multi_head(n, 3),
    "MultiHeadAttention, wider values": lambda n: multi_head(n, 5),
    "MultiHeadAttention, crossed": crossed,
    "Attention": lambda n: projecting(n, None),
    "Attention with sizes": lambda n: projecting(n, (12, 12, 20)),
    "GroupQueryAttention": grouped,
    "GroupQueryAttention, packed": grouped_packed,
    "FusedConv": convolved,
    "FusedGemm": gemm,
    **{f"FusedMatMul {a}{b}": lambda n, a=a, b=b: matmul(n, a, b) for a in (0, 1) for b in (0, 1)},
    "MatMulNBits": packed,
    "QLinearAdd": lambda n: binary(n, "QLinearAdd"),
    "QLinearMul": lambda n: binary(n, "QLinearMul"),
    "QLinearConcat": concat,
    "QLinearLeakyRelu": lambda n: pointwise(n, "QLinearLeakyRelu"),
    "QLinearSigmoid": lambda n: pointwise(n, "QLinearSigmoid"),
    **{
        f"{op}{', channels last' * last}": lambda n, op=op, last=last: pool(n, op, last)
        for op in ("QLinearGlobalAveragePool", "QLinearAveragePool")
        for last in (False, True)
    },
    "NhwcMaxPool": pool_last,
    "QLinearConv": lambda n: conv(n, False),
    "QLinearConv, channels last": lambda n: conv(n, True),
    "DynamicQuantizeMatMul": lambda n: product(n, "DynamicQuantizeMatMul"),
    "MatMulIntegerToFloat": lambda n: product(n, "MatMulIntegerToFloat"),
    "DynamicQuantizeLSTM": lstm,
    "QGemm to floats": lambda n: product(n, "QGemm"),
    "QGemm to bytes": lambda n: product(n, "QGemm", floats=False),
}


def written(name: str) -> tuple[Model, list[str]]:
    net = Net(17)
    made = CASES[name](net)
    proto = net._proto(made)
    return prepared(proto), made


@pytest.mark.parametrize("name", CASES)
def test_shapes_and_types(name: str) -> None:
    model, made = written(name)
    found, bound = infer(model), infer(model, DIMS)
    results = run(
        session(model), random_feeds(model, dims={k: v for k, v in DIMS.items() if f'"{k}"' in str(model.proto)})
    )
    for value in made:
        kind, shape = bound[value]
        array = np.asarray(results[value])
        if shape is not None:
            assert array.shape == tuple(
                have if isinstance(want, str) else want for want, have in zip(shape, array.shape, strict=True)
            )
        assert onnx.helper.tensor_dtype_to_np_dtype(kind) == array.dtype
        known = found[value][1]
        assert known is not None
        assert isinstance(known[-1], int) or "image" in str(model.proto)


def test_the_model_itself_is_not_changed() -> None:
    model, _ = written("QGemm to floats")
    before = model.proto.SerializeToString()
    infer(model)
    assert model.proto.SerializeToString() == before
