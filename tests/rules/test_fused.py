"""Operators of onnxruntime that add, normalise and look up in one step, and convolutions with the channels last."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from building import MS, Net
from oracle import check, disagreement, masked, prepared
from rows import Row, row

from onnxprune.analysis.analyze import analyze
from onnxprune.checking.verify import verify
from onnxprune.cutting.apply import apply
from onnxprune.files.model import Model
from onnxprune.scoring.scores import score
from onnxprune.selection.select import select

WIDE, INNER = 8, 12
SUM = (2, 5, WIDE)


def skip_norm(
    n: Net, x: str, skip: str, *, simple: bool = False, bias: bool = True, count: int = 1, name: str = "ln"
) -> list[str]:
    params = [n.positive(WIDE, name=f"{name}.scale")]
    if not simple:
        params.append(n.weight(WIDE, name=f"{name}.shift", scale=0.3))
    if bias:
        params.append(n.weight(WIDE, name=f"{name}.bias", scale=0.3))
    outs = n.ops(f"{MS}::Skip{'Simplified' if simple else ''}LayerNormalization", count, x, skip, *params, name=name)
    n.made[outs[0]] = SUM
    if count == 4:
        n.made[outs[3]] = SUM
    return [out for out in outs if out]


def block(n: Net, x: str, name: str, **options: Any) -> str:
    """A feed-forward block as the transformer optimiser leaves it: no sum of its own, no bias of its own."""
    up = n.op("MatMul", x, n.weight(WIDE, INNER, name=f"{name}.up", scale=0.5))
    y = n.op(f"{MS}::FastGelu", up, n.weight(INNER, name=f"{name}.up.bias"), made=(2, 5, INNER))
    down = n.op("MatMul", y, n.weight(INNER, WIDE, name=f"{name}.down", scale=0.5))
    return skip_norm(n, down, x, name=f"{name}.ln", **options)[0]


def blocks(n: Net, **options: Any) -> None:
    x = n.linear(n.input("tokens", 2, 5, 6), WIDE, name="first")
    x = block(n, block(n, x, "a", **options), "b", **options)
    n.output(n.op("MatMul", x, n.weight(WIDE, 5, name="last.weight"), name="last"))


def sum_goes_on(n: Net, simple: bool = False) -> None:
    """The fourth output is the sum that was normalised: the residual stream of pre-norm models."""
    x = n.linear(n.input("tokens", 2, 5, 6), WIDE, name="first")
    y = n.linear(x, WIDE, name="second")
    outs = skip_norm(n, y, x, simple=simple, count=4)
    z = n.linear(outs[0], WIDE, name="third")
    n.output(n.op("MatMul", n.op("Add", z, outs[3]), n.weight(WIDE, 5, name="last.weight"), name="last"))


def stretched_skip(n: Net) -> None:
    """The skip is one position table for the whole batch."""
    x = n.linear(n.input("tokens", 2, 5, 6), WIDE, name="first")
    y = skip_norm(n, x, n.weight(5, WIDE, name="positions"))[0]
    n.output(n.op("MatMul", y, n.weight(WIDE, 5, name="last.weight"), name="last"))


def embedded(n: Net, segments: bool = True, summed: bool = False) -> None:
    ids = n.input("ids", 2, 5, dtype=onnx.TensorProto.INT32)
    kinds = n.const(np.array([[0, 0, 1, 1, 1]] * 2), np.int32) if segments else ""
    tables = [n.weight(9, WIDE, name="words", scale=1.0), n.weight(5, WIDE, name="positions", scale=1.0)]
    tables.append(n.weight(2, WIDE, name="kinds", scale=1.0) if segments else "")
    params = [n.positive(WIDE, name="ln.scale"), n.weight(WIDE, name="ln.shift", scale=0.3)]
    outs = n.ops(f"{MS}::EmbedLayerNormalization", 3 if summed else 2, ids, kinds, *tables, *params, name="embed")
    n.made[outs[0]] = SUM
    x = outs[0]
    if summed:
        n.made[outs[2]] = SUM
        x = n.op("Add", x, outs[2])
    x = block(n, x, "a")
    n.output(n.op("MatMul", x, n.weight(WIDE, 5, name="last.weight"), name="last"))


def embedded_alone(n: Net) -> None:
    ids = n.input("ids", 2, 5, dtype=onnx.TensorProto.INT32)
    tables = [n.weight(9, WIDE, name="words", scale=1.0), n.weight(5, WIDE, name="positions", scale=1.0), ""]
    params = [n.positive(WIDE, name="ln.scale"), n.weight(WIDE, name="ln.shift", scale=0.3)]
    x = n.ops(f"{MS}::EmbedLayerNormalization", 2, ids, "", *tables, *params, name="embed")[0]
    n.made[x] = SUM
    n.output(n.op("MatMul", x, n.weight(WIDE, 5, name="last.weight"), name="last"))


def embedded_tied(n: Net) -> None:
    """The table makes scores of words as well, which another layer reads: still every word may be asked for."""
    ids = n.input("ids", 2, 5, dtype=onnx.TensorProto.INT32)
    words = n.weight(9, WIDE, name="words", scale=1.0)
    params = [n.positive(WIDE, name="ln.scale"), n.weight(WIDE, name="ln.shift", scale=0.3)]
    positions = n.weight(5, WIDE, name="positions", scale=1.0)
    x = n.ops(f"{MS}::EmbedLayerNormalization", 2, ids, "", words, positions, "", *params, name="embed")[0]
    n.made[x] = SUM
    scores = n.op("Relu", n.op("MatMul", x, n.transpose(words, 1, 0)))
    n.output(n.op("MatMul", scores, n.weight(9, 5, name="last.weight"), name="last"))


ALL = ("normalised",)
ACROSS = {"normalised": 3 * WIDE}
"""The layer in front, and what the two blocks add to it."""
ROWS: list[Row] = [
    row("SkipLayerNormalization", blocks, INNER, INNER, frozen=ACROSS),
    row("SkipLayerNormalization without a bias", lambda n: blocks(n, bias=False), INNER, INNER, frozen=ACROSS),
    row("SkipSimplifiedLayerNormalization", lambda n: blocks(n, simple=True), INNER, INNER, frozen=ACROSS),
    row(
        "SkipSimplifiedLayerNormalization without a bias",
        lambda n: blocks(n, simple=True, bias=False),
        INNER,
        INNER,
        frozen=ACROSS,
    ),
    row("SkipLayerNormalization whose sum goes on", sum_goes_on, frozen=ACROSS),
    row("SkipSimplifiedLayerNormalization whose sum goes on", lambda n: sum_goes_on(n, simple=True), frozen=ACROSS),
    row("SkipLayerNormalization with a table", stretched_skip, frozen={"normalised": WIDE}),
    row("EmbedLayerNormalization", embedded, INNER, frozen={"normalised": 4 * WIDE}),
    row(
        "EmbedLayerNormalization without segments",
        lambda n: embedded(n, segments=False),
        INNER,
        frozen={"normalised": 3 * WIDE},
    ),
    row(
        "EmbedLayerNormalization whose sum goes on",
        lambda n: embedded(n, summed=True),
        INNER,
        frozen={"normalised": 4 * WIDE},
    ),
]


ALLOWED: list[Row] = [
    row("EmbedLayerNormalization before a layer", embedded_alone, frozen={"normalised": 2 * WIDE}),
    row("EmbedLayerNormalization of a tied table", embedded_tied, frozen={"normalised": 2 * WIDE, "indexed": 9}),
    # Inexact, on request: then shapes have to fit
    row(
        "EmbedLayerNormalization, allowed",
        embedded_alone,
        WIDE,
        inexact={"embed": ALL},
        roles={"ln.scale:0": "scale", "ln.shift:0": "shift"},
    ),
    *(
        row(
            f"Skip{'Simplified' if simple else ''}LayerNormalization, allowed",
            lambda n, simple=simple: blocks(n, simple=simple),  # type: ignore[misc]  # bound now
            *(INNER, INNER, WIDE),
            inexact={"first": ALL},
            roles={"a.ln.scale:0": "scale", "b.ln.bias:0": "shift"} | ({} if simple else {"a.ln.shift:0": "shift"}),
        )
        for simple in (False, True)
    ),
]


@pytest.mark.parametrize("case", [*ROWS, *ALLOWED], ids=str)
def test_fused(case: Row) -> None:
    case.check()


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_width_goes_on_request(case: Row) -> None:
    """Inexact: there is no oracle, but everything that is as wide has to shrink, and the result runs."""
    net = Net()
    case.write(net)
    model = prepared(net.proto())
    coupling = analyze(model, allow_inexact=True, strict=True)
    assert sorted(group.size for group in coupling.groups) == sorted([*case.units, WIDE])
    width = next(group for group in coupling.groups if group.inexact)
    assert {reason.code for reason in width.inexact} == {"normalised"}
    plan = select(coupling, score(model, coupling), ratio=0.5, include=[width.name])
    pruned = apply(model, plan)
    verdict = verify(model, pruned, plan)
    assert verdict.ok, verdict.notes
    assert verdict.inexact == ("normalised",)
    assert 1e-3 < (verdict.deviation or 0) < 10
    for name, tensor in model.weights.items():
        want = tuple(WIDE // 2 if size == WIDE else size for size in tensor.shape)
        assert pruned.weights[name].shape == want, name


# Channels last


def pixels_last(n: Net, group: int = 1) -> None:
    """com.microsoft NhwcConv, for which the CPU has no kernel."""
    x = n.transpose(n.image(), 0, 2, 3, 1)
    x = n.op(
        f"{MS}::NhwcConv",
        x,
        n.weight(8, 3, 3, 3, name="a"),
        n.weight(8, name="a.bias"),
        pads=[1, 1, 1, 1],
        made=(2, 6, 6, 8),
    )
    w = n.weight(8, 3, 3, 8 // group, name="b")
    x = n.op(
        f"{MS}::NhwcConv",
        n.op("Relu", x),
        w,
        n.weight(8, name="b.bias"),
        pads=[1, 1, 1, 1],
        group=group,
        made=(2, 6, 6, 8),
    )
    n.output(n.op("Conv", n.transpose(x, 0, 3, 1, 2), n.weight(5, 8, 1, 1, name="last.weight"), name="last"))


def turned(model: Model) -> Model:
    """NhwcConv as a Conv between transpositions, which the CPU does run."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.node[:], proto.graph.value_info[:]
    for node in model.graph.node:
        if node.op_type != "NhwcConv":
            proto.graph.node.append(node)
            continue
        x, w, *rest = node.input
        y = node.output[0]
        front, back = [0, 3, 1, 2], [0, 2, 3, 1]
        conv = onnx.helper.make_node("Conv", [f"{y}:x", f"{y}:w", *rest], [f"{y}:y"])
        conv.attribute.extend(node.attribute)
        proto.graph.node.extend(
            [
                onnx.helper.make_node("Transpose", [x], [f"{y}:x"], perm=front),
                onnx.helper.make_node("Transpose", [w], [f"{y}:w"], perm=front),
                conv,
                onnx.helper.make_node("Transpose", [f"{y}:y"], [y], perm=back),
            ]
        )
    return model.replace(proto=proto)


@pytest.mark.parametrize(("group", "expected"), [(1, (8, 8)), (4, (4,)), (8, (8,))])
def test_convolution_with_channels_last(group: int, expected: tuple[int, ...]) -> None:
    net = Net()
    pixels_last(net, group)
    coupling = check(net.proto(), expected=expected, frozen={}, runs=False)
    model = prepared(net.proto())
    plan = select(coupling, score(model, coupling), ratio=0.5)
    pruned = apply(model, plan)
    assert pruned.weights["a"].shape == (4, 3, 3, 3)
    assert disagreement(turned(model), turned(pruned), plan) < 1e-5
    assert np.abs(run(turned(model)) - run(turned(masked(model, plan)))).max() > 1e-3


def run(model: Model) -> np.ndarray:
    from oracle import outputs

    feeds = {"image": np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)}
    return outputs(model, feeds)[0]
