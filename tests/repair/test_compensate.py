"""What can be made up for is, to float noise; what cannot gets no worse; and nothing but numbers changes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from building import F, Net
from graphs import grow
from nets import DIMS, NETS
from onnx import TensorProto
from oracle import prepared
from quantised import rounded

from onnxprune.accuracy.evaluate import evaluate
from onnxprune.analysis.analyze import analyze
from onnxprune.checking.verify import verify
from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Plan
from onnxprune.data.sources import Dataset, Request, open_data
from onnxprune.errors import UserError
from onnxprune.execution import runtime
from onnxprune.execution.batches import Batch
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor, same
from onnxprune.passes import Compensate
from onnxprune.pipeline.manager import State
from onnxprune.repair.compensate import Compensated, compensate
from onnxprune.scoring.scores import Scores, score
from onnxprune.selection.select import select

Array = np.ndarray[Any, Any]
NOISE = 3e-6
"""Deviation of outputs that are equal to float noise."""
FITTING = importlib.import_module("onnxprune.repair.layer_fit")


def cut(model: Model, gone: Mapping[str, list[int]]) -> tuple[Model, Plan]:
    """Without these units of these groups."""
    coupling = analyze(model, strict=True)
    by_group = {name: np.ones(coupling.group(name).size) for name in gone}
    for name, units in gone.items():
        by_group[name][units] = 0
    scores = Scores("by hand", MappingProxyType(by_group), MappingProxyType({}))
    ratios = {name: len(units) / coupling.group(name).size for name, units in gone.items()}
    plan = select(coupling, scores, ratio=0.5, min_keep=0, ratios=ratios)
    assert {group.name: group.removed for group in plan.groups} == {name: len(units) for name, units in gone.items()}
    return apply(model, plan), plan


def halved(model: Model, ratio: float = 0.5) -> tuple[Model, Plan]:
    coupling = analyze(model, strict=True)
    plan = select(coupling, score(model, coupling, "random"), ratio=ratio)
    return apply(model, plan), plan


def deviations(model: Model, pruned: Model, found: Compensated, data: Dataset) -> tuple[float, float]:
    """Of the outputs from the original's, before and after."""
    before, after = (evaluate(each, data, original=model).deviation for each in (pruned, found.model))
    assert before is not None
    assert after is not None
    return before, after


def with_weights(model: Model, **arrays: Array) -> Model:
    named = {name.replace("__", "."): array for name, array in arrays.items()}
    assert set(named) <= set(model.weights)
    return model.replace(weights={**model.weights, **{k: Tensor.of(k, np.float32(v)) for k, v in named.items()}})


def array(model: Model, name: str) -> Array:
    return model.weights[name].array()


def doubled(model: Model, name: str, axis: int = 0, scale: float = 1.5) -> Array:
    """The weight with the second half of its output channels a multiple of the first."""
    first, _ = np.split(array(model, name), 2, axis=axis)
    return np.concatenate([first, scale * first], axis=axis)


def redundant(kind: str) -> tuple[Model, dict[str, list[int]]]:
    """A layer whose second half of channels is a multiple of the first, and one that reads it."""
    n = Net()
    if kind in ("gemm", "matmul"):
        x = n.image("batch", 5) if kind == "gemm" else n.image("batch", 7, 5)
        layer = n.gemm if kind == "gemm" else n.linear
        y = n.op("Relu", layer(x, 8, name="first"))
        n.output(layer(y, 6, name="second"))
    else:
        y = n.op("Relu", n.conv(n.image("batch", 3, 9, 8), 8, 3, name="first"))
        if kind == "conv":
            n.output(n.conv(y, 6, 3, name="second", strides=[2, 1]))
        elif kind == "norm":
            n.output(n.norm(n.conv(y, 6, 3, bias=False, name="second"), name="bn"))
        elif kind == "transposed":
            n.output(n.deconv(y, 6, 3, name="second"))
        elif kind == "depthwise":
            n.output(n.conv(n.conv(y, 8, 3, group=8, name="dw"), 6, name="second"))
        elif kind == "flatten":
            y = n.op("Flatten", n.op("MaxPool", y, kernel_shape=[3, 3], strides=[3, 3]))
            n.output(n.gemm(y, 6, name="second"))
    model = prepared(n.proto())
    axis = 1 if kind == "matmul" else 0
    model = with_weights(
        model,
        first__weight=doubled(model, "first.weight", axis),
        first__bias=doubled(model, "first.bias"),
        **(
            {"dw__weight": doubled(model, "dw.weight", scale=1), "dw__bias": 0 * array(model, "dw.bias")}
            if kind == "depthwise"
            else {}
        ),
    )
    return model, {"first": [1, 3, 4, 6]}


@pytest.mark.parametrize("kind", ["conv", "norm", "transposed", "depthwise", "flatten", "gemm", "matmul"])
def test_what_is_a_function_of_the_rest_is_not_missed(kind: str) -> None:
    model, gone = redundant(kind)
    pruned, plan = cut(model, gone)
    data = open_data("random:200" if kind == "gemm" else "random:40", model, batch=16)
    found = compensate(model, pruned, plan, data)
    before, after = deviations(model, pruned, found, data)
    assert before > 0.1
    assert after < NOISE
    fit = {fit.layer: fit for fit in found.fits}["second"]
    assert fit.before > 0.01
    assert fit.after < 1e-11
    other = open_data("random:16", model, seed=1)
    assert deviations(model, pruned, found, other)[1] < NOISE, "nor on other data"


@pytest.mark.parametrize("kind", ["conv", "norm", "transposed", "depthwise", "flatten", "gemm", "matmul"])
def test_one_pass_asks_the_original_alone(kind: str) -> None:
    model, gone = redundant(kind)
    pruned, plan = cut(model, gone)
    data = open_data("random:200" if kind == "gemm" else "random:40", model, batch=16)
    noise = pruned.replace(weights={**pruned.weights, **with_weights(pruned, first__bias=np.full(4, 9.0)).weights})
    found = compensate(model, pruned, plan, data, mode="one-pass")
    assert deviations(model, pruned, found, data)[1] < NOISE
    assert [fit.layer for fit in found.fits] == ["second"]
    other = compensate(model, noise, plan, data, mode="one-pass")
    assert same(other.model.weights["second.weight"], found.model.weights["second.weight"])


@pytest.mark.parametrize("name", NETS)
def test_one_pass_comes_closer_too(name: str) -> None:
    model = prepared(NETS[name]())
    pruned, plan = halved(model, 0.3)
    data = open_data("random:64", model, batch=16, dims={**DIMS[name], "batch": 16} if name in DIMS else None)
    once = compensate(model, pruned, plan, data, mode="one-pass")
    before, after = deviations(model, pruned, once, data)
    assert after < before
    assert all(fit.after <= fit.before for fit in once.fits)


def test_modes_that_are_none() -> None:
    model, gone = redundant("conv")
    pruned, plan = cut(model, gone)
    with pytest.raises(UserError, match="unknown mode of compensation 'onepass'; did you mean 'one-pass'"):
        compensate(model, pruned, plan, [], mode="onepass")
    with pytest.raises(UserError, match="unknown mode"):
        Compensate(Request("random:8"), mode="bn").check()


def test_only_numbers_change() -> None:
    model = prepared(NETS["resnet"]())
    pruned, plan = halved(model)
    shapes = {name: (w.dtype, w.shape) for name, w in pruned.weights.items()}
    found = compensate(model, pruned, plan, open_data("random:20", model))
    assert found.model.proto.SerializeToString() == pruned.proto.SerializeToString()
    assert list(found.model.weights) == list(pruned.weights)
    assert {name: (w.dtype, w.shape) for name, w in found.model.weights.items()} == shapes
    changed = {name for name, w in found.model.weights.items() if not same(w, pruned.weights[name])}
    solved = ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
    convolutions = {name for layer in solved for name in (f"{layer}.conv.weight", f"{layer}.bn.bias")}
    assert changed == {*convolutions, "layer2.down.weight", "layer2.down.bias", "fc.weight", "fc.bias"}
    assert [fit.layer for fit in found.fits] == [
        "layer1.0.conv",
        "layer1.1.conv",
        "layer2.0.conv",
        "layer2.1.conv",
        "layer2.down",
        "fc",
    ]
    assert all(fit.after < fit.before for fit in found.fits)
    assert verify(model, pruned, plan).require().ok, "the pruned model itself is what it was"


def test_the_same_data_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a part of the rows is drawn."""
    monkeypatch.setattr(FITTING, "rows_for", lambda features: 500)
    model = prepared(NETS["mobilenet"]())
    pruned, plan = halved(model)
    one, two = (compensate(model, pruned, plan, open_data("random:30", model)) for _ in range(2))
    other = compensate(model, pruned, plan, open_data("random:30", model, seed=1))
    assert one.fits == two.fits
    assert all(same(tensor, two.model.weights[name]) for name, tensor in one.model.weights.items())
    assert not all(same(tensor, other.model.weights[name]) for name, tensor in one.model.weights.items())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_networks_come_closer(name: str, ratio: float) -> None:
    model = prepared(NETS[name]())
    pruned, plan = halved(model, ratio)
    data = open_data("random:64", model, batch=16, dims={**DIMS[name], "batch": 16} if name in DIMS else None)
    found = compensate(model, pruned, plan, data)
    before, after = deviations(model, pruned, found, data)
    assert found.fits
    assert all(fit.after <= fit.before for fit in found.fits)
    assert after < (1 if ratio == 0.8 else 0.9) * before


class _Drawn:
    """Decisions of a random graph."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))


def test_graphs_at_random_get_no_worse() -> None:
    tried = better = 0
    for seed in range(60):
        model = prepared(grow(_Drawn(seed), steps=8))
        try:
            pruned, plan = halved(model)
            data = open_data("random:24", model)
            list(data)
        except UserError:  # nothing to cut, or numbers that are none
            continue
        try:
            state = Compensate(Request("random:24")).run(State(pruned, original=model, plan=plan))
        except UserError:
            continue
        before, after = (evaluate(each, data, original=model).deviation for each in (pruned, state.model))
        assert before is not None
        assert after is not None
        assert after <= before, seed
        tried += 1
        better += after < before
    assert tried > 25
    assert better > 15


def residual(*, early: bool) -> tuple[Model, dict[str, list[int]]]:
    """A shortcut that loses its inner channels, and beside it a layer that reads the image itself."""
    n = Net()
    x = n.image("batch", 4, 6, 6)
    inner = n.conv(x, 6, name="inner")
    if early:
        short = n.conv(inner, 5, name="short")
        beside = n.conv(x, 5, name="beside")
    else:
        beside = n.conv(x, 5, name="beside")
        short = n.conv(inner, 5, name="short")
    n.output(n.op("Add", beside, short, name="sum"))
    return prepared(n.proto()), {"inner": [0, 1, 2, 3, 4]}


def test_what_a_shortcut_lost_is_made_up_for_beside_it() -> None:
    model, gone = residual(early=True)
    pruned, plan = cut(model, gone)
    data = open_data("random:32", model)
    found = compensate(model, pruned, plan, data)
    before, after = deviations(model, pruned, found, data)
    assert [fit.layer for fit in found.fits] == ["short", "beside"]
    assert before > 0.2
    assert after < NOISE
    assert not same(found.model.weights["beside.weight"], pruned.weights["beside.weight"])


def test_a_summand_that_is_made_later_is_not_known() -> None:
    """The layer behind it then takes all the blame."""
    model, gone = residual(early=False)
    pruned, plan = cut(model, gone)
    data = open_data("random:32", model)
    found = compensate(model, pruned, plan, data)
    assert [fit.layer for fit in found.fits] == ["short"]
    before, after = deviations(model, pruned, found, data)
    assert 0.05 < after < before


def test_a_summand_that_is_added_everywhere_is_known_all_the_same() -> None:
    """One pixel that has lost its inner channels, which the layer beside it can make up for."""
    n = Net()
    x = n.image("batch", 4, 6, 6)
    pixel = n.conv(n.op("GlobalAveragePool", x, name="pool"), 6, name="inner")
    short = n.conv(pixel, 5, name="short")
    wide = n.op("Concat", x, n.op("Expand", n.op("GlobalAveragePool", x), n.ints(1, 1, 6, 6)), axis=1)
    n.output(n.op("Add", n.conv(wide, 5, name="beside"), short, name="sum"))
    model = prepared(n.proto())
    pruned, plan = cut(model, {"inner": [0, 1, 2, 3, 4]})
    data = open_data("random:300", model)
    found = compensate(model, pruned, plan, data)
    assert [fit.layer for fit in found.fits] == ["short", "beside"]
    before, after = deviations(model, pruned, found, data)
    assert before > 0.02
    assert after < NOISE


def test_a_summand_that_is_larger_is_no_residual() -> None:
    """One pixel is added everywhere to what was made before; then the layer's own output is what counts."""
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 8, 3, name="first"), name="relu")
    wide = n.conv(x, 5, 3, name="wide")
    small = n.conv(n.op("GlobalAveragePool", x, name="pool"), 5, name="small")
    n.output(n.op("Add", wide, small, name="sum"))
    model = prepared(n.proto())
    model = with_weights(model, first__weight=doubled(model, "first.weight"), first__bias=doubled(model, "first.bias"))
    pruned, plan = cut(model, {"first": [4, 5, 6, 7]})
    data = open_data("random:100", model)
    found = compensate(model, pruned, plan, data)
    assert [fit.layer for fit in found.fits] == ["wide", "small"]
    before, after = deviations(model, pruned, found, data)
    assert before > 0.1
    assert after < NOISE


def test_a_layer_that_reads_the_stream_it_adds_to() -> None:
    """What it loses goes into the same cut as what it makes."""
    n = Net()
    x = n.conv(n.image("batch", 3, 6, 6), 6, name="stem")
    y = n.op("Add", n.conv(n.op("Relu", x), 6, 3, name="block"), x, name="sum")
    n.output(n.conv(y, 4, name="last"))
    model = prepared(n.proto())
    pruned, plan = halved(model, 0.3)
    assert len(plan.cuts) == 1
    data = open_data("random:50", model)
    found = compensate(model, pruned, plan, data)
    assert [fit.layer for fit in found.fits] == ["block", "last"]
    before, after = deviations(model, pruned, found, data)
    assert after < before


def test_channels_that_a_normalisation_hides_get_the_best_constant() -> None:
    n = Net()
    x = n.image("batch", 4, 6, 6)
    short = n.conv(n.conv(x, 6, name="inner"), 5, name="short")
    beside = n.norm(n.conv(n.op("Relu", x, name="relu"), 5, bias=False, name="beside"), name="bn")
    n.output(n.op("Add", beside, short, name="sum"))
    model = prepared(n.proto())
    scale = array(model, "bn.weight").copy()
    scale[2] = 0
    short_bias = array(model, "short.bias").copy()
    short_bias[2] = 5
    model = with_weights(model, bn__weight=scale, short__bias=short_bias)
    pruned, plan = cut(model, {"inner": [0, 1, 2, 3]})
    pruned = with_weights(pruned, short__bias=0 * short_bias)
    data = open_data("random:60", model)
    found = compensate(model, pruned, plan, data)
    assert [fit.layer for fit in found.fits] == ["short", "beside"]
    (batch,) = Held([Batch({"image": np.concatenate([b.feeds["image"] for b in data])}, None, 60)])
    gaps = []
    for each in (model, found.model):
        session = runtime.session(each)
        gaps.append(runtime.run(session, batch.feeds)["sum.out"])
    off = (gaps[0] - gaps[1])[:, 2]
    assert off.std() > 0.05, "it cannot be made up for"
    assert abs(off.mean()) < 1e-4
    np.testing.assert_array_equal(array(found.model, "beside.weight")[2], array(pruned, "beside.weight")[2])


def test_weights_beyond_the_range_of_floats_are_left() -> None:
    """What is left is 36 orders of magnitude smaller than what went."""
    n = Net()
    n.output(n.gemm(n.gemm(n.image("batch", 3), 2, name="first"), 4, name="second"))
    model = prepared(n.proto())
    row = array(model, "first.weight")[:1]
    model = with_weights(
        model,
        first__weight=np.concatenate([row, 1e-36 * row]),
        first__bias=np.zeros(2),
        second__weight=1e6 * array(model, "second.weight"),
    )
    pruned, plan = cut(model, {"first": [0]})
    data = open_data("random:50", model)
    found = compensate(model, pruned, plan, data)
    assert [(fit.layer, fit.before == fit.after) for fit in found.fits] == [("second", True)]
    assert same(found.model.weights["second.weight"], pruned.weights["second.weight"])


def test_targets_that_were_passed_already() -> None:
    """The first layer looks at a sum that is made after the second layer has run."""
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 8, 3, name="first"), name="relu")
    short = n.conv(x, 5, name="short")
    a, b = n.conv(x, 5, 3, name="a"), n.conv(x, 5, 3, name="b")
    c = n.op("Relu", n.conv(n.op("Relu", b, name="b.relu"), 5, name="c"), name="c.relu")
    s = n.op("Add", a, short, name="sum")
    n.output(n.op("Mul", s, c, name="product"))
    model = prepared(n.proto())
    model = with_weights(model, first__weight=doubled(model, "first.weight"), first__bias=doubled(model, "first.bias"))
    pruned, plan = cut(model, {"first": [4, 5, 6, 7]})
    data = open_data("random:32", model)
    found = compensate(model, pruned, plan, data)
    assert [fit.layer for fit in found.fits] == ["short", "a", "b", "c"]
    before, after = deviations(model, pruned, found, data)
    assert before > 0.1
    assert after < NOISE


def test_joined_channels_and_two_inputs() -> None:
    n = Net()
    a = n.op("Relu", n.gemm(n.input("a", "batch", 4), 8, name="left"), name="left.relu")
    b = n.op("Relu", n.gemm(n.input("b", "batch", 5), 6, name="right"), name="right.relu")
    n.output(n.gemm(n.concat(a, b, axis=1), 7, name="both"))
    model = prepared(n.proto())
    model = with_weights(
        model,
        left__weight=doubled(model, "left.weight"),
        left__bias=doubled(model, "left.bias"),
        right__weight=doubled(model, "right.weight"),
        right__bias=doubled(model, "right.bias"),
    )
    pruned, plan = cut(model, {"left": [0, 1, 2, 7], "right": [3, 4, 5]})
    data = open_data("random:300", model)
    found = compensate(model, pruned, plan, data)
    before, after = deviations(model, pruned, found, data)
    assert before > 0.1
    assert after < NOISE


def test_projections_of_attention_are_solved() -> None:
    model = prepared(NETS["transformer"]())
    pruned, plan = halved(model)
    data = open_data("random:64", model, batch=8, dims={"batch": 8, "time": 3})
    found = compensate(model, pruned, plan, data)
    assert {fit.layer for fit in found.fits} == {"o", "up", "down", "head"}, "what q, k and v read is all there"
    assert array(pruned, "q.weight").shape[1] < array(model, "q.weight").shape[1]
    fits = {fit.layer: fit for fit in found.fits}
    for name in ("o", "down", "head"):
        assert fits[name].after < 0.9 * fits[name].before


def recurrent(kind: str, *, biased: bool, both: bool) -> tuple[Model, dict[str, list[int]]]:
    gates, directions = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 2 if both else 1
    n = Net()
    x = n.op("Relu", n.linear(n.image("time", "batch", 5), 8, name="first"), name="relu")
    w = n.weight(directions, 4 * gates, 8, name="w", scale=0.4)
    r = n.weight(directions, 4 * gates, 4, name="r", scale=0.4)
    b = [n.weight(directions, 8 * gates, name="b", scale=0.4)] if biased else []
    direction = "bidirectional" if both else None
    y = n.op(kind, x, w, r, *b, hidden_size=4, direction=direction, name="cell")
    n.output(n.linear(n.reduce("ReduceMax", y, 1, keepdims=0), 3, name="last"))
    model = prepared(n.proto())
    weights = {"first__weight": doubled(model, "first.weight", 1), "first__bias": doubled(model, "first.bias")}
    return with_weights(model, **weights), {"first": [0, 5, 6, 7]}


@pytest.mark.parametrize("mode", ["sequential", "one-pass"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(("biased", "both"), [(True, False), (False, True), (True, True)])
def test_what_recurrent_layers_read_is_solved(kind: str, mode: str, *, biased: bool, both: bool) -> None:
    model, gone = recurrent(kind, biased=biased, both=both)
    pruned, plan = cut(model, gone)
    data = open_data("random:20", model, dims={"time": 6, "batch": 8})
    found = compensate(model, pruned, plan, data, mode=mode)
    before, after = deviations(model, pruned, found, data)
    assert "cell" in {fit.layer for fit in found.fits}
    assert before > 0.01
    assert after < NOISE
    assert same(found.model.weights["r"], pruned.weights["r"])
    if biased:
        half = array(model, "b").shape[1] // 2
        np.testing.assert_array_equal(array(found.model, "b")[:, half:], array(pruned, "b")[:, half:])


def test_recurrent_layers_that_lose_hidden_units_too() -> None:
    model, _ = recurrent("LSTM", biased=True, both=False)
    pruned, plan = halved(model)
    assert pruned.weights["w"].shape < model.weights["w"].shape
    data = open_data("random:20", model, dims={"time": 6, "batch": 8})
    found = compensate(model, pruned, plan, data)
    before, after = deviations(model, pruned, found, data)
    assert {fit.layer: fit.after < fit.before for fit in found.fits}["cell"]
    assert after < before


def halves() -> Model:
    n = Net()
    x = n.op("Cast", n.image("batch", 3, 6, 6), to=TensorProto.FLOAT16)
    for out in (8, 5):
        dims = 3 if out == 8 else 8
        w = n.const(n.rng.standard_normal((out, dims, 3, 3)) * 0.2, np.float16, name=f"w{out}")
        x = n.op("Relu", n.op("Conv", x, w, name=f"conv{out}"))
    n.output(n.op("Cast", x, to=F))
    return prepared(n.proto())


def quantised() -> Model:
    n = Net()
    x = rounded(n, n.image("batch", 3, 6, 6))
    for out, dims in ((8, 3), (5, 8)):
        w = n.const(n.rng.integers(-60, 60, (out, dims, 3, 3)), np.int8, name=f"w{out}")
        w = n.op("DequantizeLinear", w, n.const(0.01, np.float32), n.const(0, np.int8), name=f"real{out}")
        x = rounded(n, n.op("Relu", n.op("Conv", x, w, name=f"conv{out}")))
    n.output(x)
    return prepared(n.proto())


@pytest.mark.parametrize("build", [halves, quantised])
def test_models_with_nothing_to_solve_say_so(build: Callable[[], Model]) -> None:
    model = build()
    pruned, plan = halved(model)
    found = compensate(model, pruned, plan, [])
    assert (found.model, found.fits) == (pruned, ())
    state = State(pruned, original=model, plan=plan)
    after = Compensate(Request("random:4")).run(state)
    assert after.model is pruned
    assert after.notes == (
        "nothing to compensate: no layer with plain float32 weights of its own follows what was cut",
        "lost inputs, and cannot be solved: weights that are not float32 ('conv5')",
    )


def fixed_batch(size: int | str) -> tuple[Model, Model, Plan]:
    n = Net()
    x = n.op("Relu", n.conv(n.image(size, 3, 5, 5), 8, 3, name="first"))
    x = n.op("Relu", n.gemm(n.op("Flatten", n.op("GlobalAveragePool", x)), 8, name="second"))
    n.output(n.gemm(x, 6, name="third"))
    model = prepared(n.proto())
    for name in ("first", "second"):
        weights = {f"{name}__{part}": doubled(model, f"{name}.{part}") for part in ("weight", "bias")}
        model = with_weights(model, **weights)
    return (model, *cut(model, {"first": [0, 1, 2, 3], "second": [0, 1, 6, 7]}))


@pytest.mark.parametrize("size", [1, 3, 8, "batch"])
def test_models_that_take_batches_of_one_size(size: int | str) -> None:
    """Also where a batch is one row of a matrix, so that none of it can be kept apart."""
    model, pruned, plan = fixed_batch(size)
    data = open_data("random:100", model, batch=16)
    found = compensate(model, pruned, plan, data)
    assert [fit.layer for fit in found.fits] == ["second", "third"]
    before, after = deviations(model, pruned, found, data)
    assert before > 0.1
    assert after < NOISE


def test_samples_that_fill_up_a_batch_teach_nothing() -> None:
    """The same as if they were not there."""
    model, pruned, plan = fixed_batch(8)
    batches = list(open_data("random:20", model))
    assert [(batch.count, batch.spare) for batch in batches] == [(8, 0), (8, 0), (4, 4)]
    found = compensate(model, pruned, plan, batches)
    last = batches[-1]
    other = {"image": np.concatenate([last.feeds["image"][:4], np.full((4, 3, 5, 5), 9, np.float32)])}
    again = compensate(model, pruned, plan, [*batches[:2], Batch(other, None, 4, 4)])
    assert found.fits == again.fits
    assert all(same(tensor, again.model.weights[name]) for name, tensor in found.model.weights.items())


def odd_data(model: Model, kind: str) -> list[Batch]:
    (x,) = model.graph.input
    shape = [d.dim_value or 4 for d in x.type.tensor_type.shape.dim]
    if kind == "one sample":
        shape[0] = 1
    rng = np.random.default_rng(0)
    if kind in ("one sample", "one sample many times"):
        first = rng.standard_normal((1, *shape[1:]))
        value = np.repeat(first, shape[0], axis=0)
    elif kind == "tiny":
        value = 1e-20 * rng.standard_normal(shape)
    elif kind == "huge":
        value = 1e8 * rng.standard_normal(shape)
    else:
        value = np.full(shape, 0.0 if kind == "zeros" else 0.7)
    return [Batch({x.name: value.astype(np.float32)}, None, shape[0])] * (1 if kind == "one sample" else 3)


class Held:
    """A data set that is a list."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.classes, self.notes, self.troubles = 0, (), ()

    def __iter__(self) -> Any:
        return iter(self.batches)


SAYS_LITTLE = ["one sample", "one sample many times", "constant", "zeros", "tiny", "huge"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("free", "one sample"), *((n, k) for n in ("free", "mobilenet", "densenet") for k in SAYS_LITTLE[1:])],
)
def test_data_that_says_little(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "free":
        model, pruned, plan = fixed_batch("batch")
    else:
        model = prepared(NETS[name]())
        pruned, plan = halved(model)
    data: Any = Held(odd_data(model, kind))
    found = compensate(model, pruned, plan, data)
    assert found.fits
    assert all(np.isfinite(tensor.array()).all() for tensor in found.model.weights.values())
    assert all(fit.after <= fit.before for fit in found.fits)
    monkeypatch.setattr(importlib.import_module("onnxprune.passes.compensate"), "reopened", lambda *_: data)
    state = Compensate(Request("random")).run(State(pruned, original=model, plan=plan))
    before, after = (evaluate(each, data, original=model).deviation for each in (pruned, state.model))
    assert before is not None
    assert after is not None
    assert after <= before


def wide() -> tuple[Model, dict[str, list[int]]]:
    """The second layer reads 12 * 8 * 8 features."""
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 8, 8), 12, 3, name="first"))
    n.output(n.gemm(n.op("Flatten", x), 6, name="second"))
    model = prepared(n.proto())
    weights = {f"first__{part}": doubled(model, f"first.{part}") for part in ("weight", "bias")}
    return with_weights(model, **weights), {"first": [3, 4, 5, 6]}


def test_more_features_than_samples() -> None:
    """What is learned is little, but it is right: the error shrinks on other samples too."""
    model, gone = wide()
    pruned, plan = cut(model, gone)
    data = open_data("random:100", model)
    found = compensate(model, pruned, plan, data)
    (fit,) = found.fits
    assert fit.after < 0.9 * fit.before
    other = open_data("random:50", model, seed=1)
    for each in (data, other):
        before, after = deviations(model, pruned, found, each)
        assert after < 0.95 * before


def test_layers_of_any_width_are_solved_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix of features by features is never made of a layer beyond a limit, however many samples there are."""
    layers = importlib.import_module("onnxprune.repair.linear_layers")
    monkeypatch.setattr(layers, "WIDEST", 100)
    monkeypatch.setattr(layers, "ROWS_BEYOND", 60)
    monkeypatch.setattr(importlib.import_module("onnxprune.repair.least_squares"), "Sums", None)
    model, gone = wide()
    pruned, plan = cut(model, gone)
    data = open_data("random:200", model)
    found = compensate(model, pruned, plan, data)
    before, after = deviations(model, pruned, found, data)
    assert after < before


def test_numbers_that_are_none_are_named() -> None:
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 8, 3, name="first"), name="relu")
    x = n.op("Sqrt", n.conv(x, 6, name="second"), name="root")
    n.output(n.conv(x, 4, name="third"))
    model = prepared(n.proto())
    pruned, plan = cut(model, {"first": [1, 2, 3]})
    with pytest.raises(UserError, match="there is NaN or Inf in 'root.out', which node 'root' makes"):
        compensate(model, pruned, plan, open_data("random:4", model))


def test_no_data() -> None:
    model, gone = redundant("conv")
    pruned, plan = cut(model, gone)
    with pytest.raises(UserError, match="no data to compensate on"):
        compensate(model, pruned, plan, [])


@pytest.mark.parametrize("name", ["mobilenet", "densenet"])
def test_each_node_runs_once_for_each_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the original and of the pruned model, each up to the last layer that is solved."""
    model = prepared(NETS[name]())
    pruned, plan = halved(model)
    ran: list[int] = []
    plain = runtime.session

    class Counted:
        def __init__(self, each: Model) -> None:
            self.session, self.nodes = plain(each), len(each.graph.node)

        def get_outputs(self) -> Any:
            return self.session.get_outputs()

        def run(self, *given: Any) -> Any:
            ran.append(self.nodes)
            return self.session.run(*given)

    data = {count: list(open_data(f"random:{count}", model, batch=2)) for count in (4, 8)}
    monkeypatch.setattr(runtime, "session", lambda each, **_: Counted(each))
    found = {}
    for count, batches in data.items():
        ran.clear()
        assert compensate(model, pruned, plan, batches).fits
        found[count] = sum(ran) / len(batches)
    assert found[4] == found[8]
    assert len(model.graph.node) < found[4] <= len(model.graph.node) + len(pruned.graph.node)


def test_progress_is_told() -> None:
    model = prepared(NETS["resnet"]())
    pruned, plan = halved(model)
    told: list[float] = []
    compensate(model, pruned, plan, open_data("random:8", model), on_progress=told.append)
    assert told == [number / 6 for number in range(1, 7)]


def test_outputs_in_other_places_are_left_alone() -> None:
    """A layer inside of heads that were folded into the batch: which rows went is not known."""
    n = Net()
    x = n.op("Relu", n.linear(n.input("tokens", "batch", 5, 8), 8, name="embed"), name="relu")
    y = n.transpose(n.reshape(n.linear(x, 12, name="v"), 0, 0, 4, 3), 0, 2, 1, 3)
    y = n.op("Relu", n.linear(n.reshape(y, -1, 5, 3), 3, name="inner"), name="inner.relu")
    y = n.transpose(n.reshape(y, -1, 4, 5, 3), 0, 2, 1, 3)
    n.output(n.op("MatMul", n.reshape(y, -1, 5, 12), n.weight(12, 7, name="w"), name="last"))
    model = prepared(n.proto())
    pruned, plan = halved(model)
    assert plan.periods()
    data = open_data("random:64", model)
    found = compensate(model, pruned, plan, data)
    assert [fit.layer for fit in found.fits] == ["v", "last"]
    before, after = deviations(model, pruned, found, data)
    assert after < before


class TestPass:
    def case(self) -> tuple[Model, Model, Plan]:
        model = prepared(NETS["densenet"]())
        return (model, *halved(model))

    def test_it_says_what_it_did(self) -> None:
        model, pruned, plan = self.case()
        verification = verify(model, pruned, plan)
        state = State(pruned, original=model, plan=plan, verification=verification)
        after = Compensate(Request("random:32")).run(state)
        data = open_data("random:32", model)
        off = [evaluate(each, data, original=model).deviation for each in (after.model, pruned)]
        assert after.notes == (f"compensated on 32 samples: outputs are off by {off[0]:.3g} instead of {off[1]:.3g}",)
        assert (after.original, after.verification) == (model, verification)
        assert after.plan is not None
        assert (after.plan.cuts, after.plan.groups) == (plan.cuts, plan.groups)
        record = after.plan.meta["compensated"]
        assert (record["by"], record["after"]["samples"], record["before"]["deviation"]) == ("sequential", 32, off[1])
        assert after.model.weights is not pruned.weights

    def test_what_would_lead_away_is_left_undone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, pruned, plan = self.case()
        worse = {name: Tensor.of(name, 3 * w.array()) for name, w in pruned.weights.items() if "head" in name}
        bad = Compensated(pruned.replace(weights={**pruned.weights, **worse}), (FITTING.Fit("head", 1, 0.5),))
        monkeypatch.setattr(importlib.import_module("onnxprune.passes.compensate"), "compensate", lambda *_, **__: bad)
        after = Compensate(Request("random:8")).run(State(pruned, original=model, plan=plan))
        assert after.model is pruned
        assert "would take the outputs farther from the original's" in after.notes[0]
        assert "left undone" in after.notes[0]

    def test_outputs_that_are_no_floats(self) -> None:
        n = Net()
        x = n.op("Relu", n.gemm(n.image("batch", 5), 8, name="first"))
        n.output(n.op("ArgMax", n.gemm(x, 6, name="second"), axis=1))
        model = prepared(n.proto())
        pruned, plan = cut(model, {"first": [0, 1, 2]})
        after = Compensate(Request("random:100")).run(State(pruned, original=model, plan=plan))
        assert re.match(r"compensated on 100 samples: outputs are off by [0-9.]+ instead of [0-9.]+$", after.notes[0])
        record = after.plan.meta["compensated"]
        assert record["before"]["agreement"] < record["after"]["agreement"]
        assert not same(after.model.weights["second.weight"], pruned.weights["second.weight"])

    def test_outputs_that_are_no_floats_and_get_worse(self, monkeypatch: pytest.MonkeyPatch) -> None:
        n = Net()
        x = n.op("Relu", n.gemm(n.image("batch", 5), 8, name="first"))
        n.output(n.op("ArgMax", n.gemm(x, 6, name="second"), axis=1))
        model = prepared(n.proto())
        pruned, plan = cut(model, {"first": [0]})
        found = compensate(model, pruned, plan, open_data("random:8", model))
        bad = Compensated(with_weights(pruned, second__weight=-array(pruned, "second.weight")), found.fits)
        monkeypatch.setattr(importlib.import_module("onnxprune.passes.compensate"), "compensate", lambda *_, **__: bad)
        after = Compensate(Request("random:100")).run(State(pruned, original=model, plan=plan))
        assert after.model is pruned
        assert "left undone" in after.notes[0]

    def test_what_is_measured_elsewhere_gets_no_worse(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Data and metric that the weights as they were suit best."""
        n = Net()
        x = n.op("Relu", n.gemm(n.image("batch", 5), 8, name="first"))
        n.output(n.gemm(x, 6, name="second"))
        model = prepared(n.proto())
        pruned, plan = cut(model, {"first": [0, 1, 2]})
        images = np.random.default_rng(1).standard_normal((50, 5)).astype(np.float32)
        (made,) = runtime.run(runtime.session(pruned), {"image": images}).values()
        np.savez(tmp_path / "test.npz", image=images, labels=made.argmax(axis=1))
        judge = Request(str(tmp_path / "test.npz"))
        state = State(pruned, original=model, plan=plan)
        assert Compensate(Request("random:100")).run(state).model is not pruned
        after = Compensate(Request("random:100"), judge=judge).run(state)
        assert after.model is pruned
        assert "compensated" not in after.plan.meta
        assert re.match(r"compensation would cost more top1 on '.*test.npz' \(.*\); left undone", after.notes[0])
        (tmp_path / "mine.py").write_text("def far(outputs, labels):\n    return float(-abs(outputs[OUT]).sum())\n")
        text = (tmp_path / "mine.py").read_text().replace("OUT", repr(model.graph.output[0].name))
        (tmp_path / "mine.py").write_text(text)
        monkeypatch.chdir(tmp_path)
        before, solved = (
            evaluate(each, open_data(judge.spec, model), metric="mine:far").metric
            for each in (pruned, Compensate(Request("random:100")).run(state).model)
        )
        by_metric = Compensate(Request("random:100"), judge=judge, metric="mine:far").run(state)
        assert (by_metric.model is pruned) == (solved < before)

    def test_labels_of_the_calibration_data_may_be_any(self, tmp_path: Path) -> None:
        model = prepared(NETS["resnet"]())
        pruned, plan = halved(model)
        x = model.graph.input[0]
        arrays = next(iter(open_data("random:8", model))).feeds[x.name]
        np.savez(tmp_path / "a.npz", **{x.name: arrays}, labels=np.full(len(arrays), 10**6))
        after = Compensate(Request(str(tmp_path / "a.npz"))).run(State(pruned, original=model, plan=plan))
        assert "top1" not in after.plan.meta["compensated"]["after"]

    def test_threads_are_checked(self) -> None:
        with pytest.raises(UserError, match="threads must be"):
            Compensate(Request("random:8"), threads=-1).check()
