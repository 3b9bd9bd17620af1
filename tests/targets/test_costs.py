"""Counted costs as terms: exactly what the formulas count, at any widths, on everything there is a rule for."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import test_period
from building import MS, Net
from graphs import free_dims, grow
from nets import DIMS, NETS
from oracle import prepared
from rows import Row
from test_random_graphs import Dice

from onnxprune.analysis.analyze import analyze
from onnxprune.analysis.coupling import Coupling
from onnxprune.counting.cost import cost
from onnxprune.counting.meter import Meter
from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Plan
from onnxprune.files.model import Model
from onnxprune.selection.select import cuts
from onnxprune.targets.costs import terms_of
from onnxprune.targets.terms import Widths

EXACT = 1e-9
RULES = sorted((Path(__file__).parents[1] / "rules").glob("test_*.py"))


def pruned(model: Model, coupling: Coupling, removed: Mapping[str, int]) -> Model:
    """Without the first so many units of each group."""
    return apply(
        model, Plan(tuple(x for group in coupling.groups for x in cuts(group, np.arange(removed[group.name]))))
    )


def checked(proto: onnx.ModelProto, dims: Mapping[str, int] | None = None, *, inexact: bool = False) -> int:
    """Meter, terms and the cost of what is left agree; how many groups there were."""
    model = prepared(proto)
    coupling = analyze(model, allow_inexact=inexact)
    meter = Meter(model, coupling, dims)
    widths, rng = Widths(coupling, meter.shapes), np.random.default_rng(0)
    terms = {kind: terms_of(kind, model, meter, widths) for kind in ("macs", "params")}
    counts = [dict.fromkeys((group.name for group in coupling.groups), 0)]
    counts += [meter.random_counts(rng) for _ in range(3 if coupling.groups else 0)]
    for removed in counts:
        usage, real = meter.usage(removed), cost(pruned(model, coupling, removed), dims)
        assert (usage.macs, usage.params) == (real.macs, real.params)
        for kind, found in terms.items():
            assert found.total(widths.array(removed)) == pytest.approx(getattr(usage, kind), rel=EXACT), kind
    return len(coupling.groups)


@pytest.mark.parametrize("name", NETS)
def test_architectures(name: str) -> None:
    assert checked(NETS[name](), DIMS.get(name)) > 1


def rows(path: Path) -> Iterator[Row]:
    spec = importlib.util.spec_from_file_location(f"rules_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tables = [value for value in vars(module).values() if isinstance(value, list) and value]
    yield from (row for table in tables if all(isinstance(row, Row) for row in table) for row in table)


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_everything_there_is_a_rule_for(path: Path) -> None:
    groups = 0
    for row in rows(path):
        try:
            groups += checked(row.proto(), dict(row.dims), inexact=row.inexact is not None)
        except AssertionError as error:
            raise AssertionError(f"{row.name}: {error}") from error
    assert groups > 10


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed: int) -> None:
    proto = grow(Dice(seed), steps=8, opset=17, dynamic=bool(seed % 2))
    checked(proto, free_dims(proto))


@pytest.mark.parametrize("merge", test_period.MERGE)
@pytest.mark.parametrize("batch", [1, 3])
def test_batch_times_heads(merge: str, batch: int) -> None:
    """An axis of which every fourth position goes, whatever the batch."""
    net = Net()
    test_period.batch_first(net, test_period.MERGE[merge], test_period.PART["all computed"], test_period.needs(merge))
    assert checked(net.proto(), {"batch": batch}) == 1


def test_a_recurrent_layer_is_a_sum_of_two_products() -> None:
    """Its own width counts twice in one of them: neither is a product of what it reads and what it makes."""
    net = Net()
    x = net.squeeze(net.conv(net.input("image", 1, 3, 1, 5), 8, name="first"), 2)
    w, r = net.weight(1, 24, 8, name="W"), net.weight(1, 24, 6, name="R")
    y = net.op("LSTM", net.transpose(x, 2, 0, 1), w, r, name="lstm", hidden_size=6)
    net.output(net.linear(net.squeeze(y, 1), 4, name="last"))
    model = prepared(net.proto())
    coupling = analyze(model)
    meter = Meter(model, coupling)
    widths = Widths(coupling, meter.shapes)
    found = terms_of("macs", model, meter, widths)
    assert [group.name for group in coupling.groups] == ["first", "lstm"]
    for inputs in range(1, 9):
        for hidden in range(1, 7):
            lstm = 5 * 4 * hidden * (inputs + hidden)
            whole = 5 * 3 * inputs + lstm + 5 * 4 * hidden
            at = widths.array({"first": 8 - inputs, "lstm": 6 - hidden})
            assert found.total(at) == pytest.approx(whole)
            assert found.saved(at) == pytest.approx([15 + 20 * hidden, 20 * (inputs + 2 * hidden) + 20])


def test_a_product_of_which_three_lengths_change_at_once_is_near() -> None:
    """The one form that is no product of two tensors: its work is fitted, and some percent off at most widths."""
    net = Net()
    heads = net.conv(net.image(1, 3, 1, 1), 8, name="heads")
    x = net.op("Mul", heads, net.linear(net.input("x", 1, 1, 5, 7), 12, name="inner"))
    y = net.op("Einsum", x, net.weight(8, 12, 10, name="w"), equation="bhtk,hkn->bhtn", name="mix")
    net.output(net.op("Einsum", y, net.weight(8, 10, 7, name="out"), equation="bhtn,hno->bto", name="close"))
    model = prepared(net.proto())
    coupling = analyze(model)
    assert [group.size for group in coupling.groups] == [8, 12, 10]
    meter = Meter(model, coupling)
    widths = Widths(coupling, meter.shapes)
    found, rng = terms_of("macs", model, meter, widths), np.random.default_rng(3)
    errors = []
    for _ in range(100):
        removed = meter.random_counts(rng)
        errors.append(abs(found.total(widths.array(removed)) / meter.usage(removed).macs - 1))
    assert 0.01 < np.median(errors) < 0.15
    assert max(errors) < 0.5


def test_activations_are_what_multiplying_nodes_write() -> None:
    net = Net()
    x = net.op("Relu", net.norm(net.conv(net.image(2, 3, 6, 6), 8, name="first")))
    net.output(net.conv(x, 5, 3, name="last"))
    model = prepared(net.proto())
    coupling = analyze(model)
    meter = Meter(model, coupling)
    found = terms_of("activation", model, meter, Widths(coupling, meter.shapes))
    assert [term.name for term in found.parts] == ["first", "last"]
    assert found.total(np.zeros(1)) == 2 * 36 * (8 + 5)
    assert found.total(np.array([3.0])) == 2 * 36 * (5 + 5)
    assert found.saved(np.zeros(1)).tolist() == [2 * 36]


# The meter


def test_each_group_gone_is_counted_as_if_all_were_counted_anew() -> None:
    for name, write in NETS.items():
        model = prepared(write())
        coupling = analyze(model)
        meter, rng = Meter(model, coupling, DIMS.get(name)), np.random.default_rng(0)
        for removed in ({}, meter.random_counts(rng), meter.random_counts(rng)):
            found = dict(meter.without_each(removed))
            assert list(found) == [group.name for group in coupling.groups]
            for group in coupling.groups:
                assert found[group.name] == meter.usage({**removed, group.name: group.size})


def test_weights_that_are_stored_once_count_once() -> None:
    """A scale that two convolutions share is taken apart for analysis."""
    net = Net()
    scale, zero = net.const(0.02, np.float32, name="scale"), net.const(0, np.int8, name="zero")
    x = net.image(1, 3, 4, 4)
    for name, channels in (("a", 3), ("b", 8)):
        stored = net.const(net.rng.integers(-9, 9, (8, channels, 1, 1)), np.int8, name=name)
        x = net.op("Conv", x, net.op("DequantizeLinear", stored, scale, zero))
    net.output(net.conv(x, 5, name="last"))
    model = prepared(net.proto())
    assert len([name for name in model.weights if name.startswith("scale")]) == 2
    meter = Meter(model, analyze(model))
    whole = cost(model)
    assert (meter.usage({}).params, meter.usage({}).bytes) == (whole.params, whole.bytes)
    assert whole.params == 24 + 64 + 40 + 5 + 1


def test_a_packed_weight_is_as_wide_as_what_it_makes() -> None:
    """Its shape says nothing of its columns, and the attribute that does is only rewritten when the cut is made."""
    net = Net()
    x = net.linear(net.input("x", 4, 32), 32, name="first")
    packed, scales = net.const(net.rng.integers(0, 255, (16, 1, 16)), np.uint8), net.positive(16)
    x = net.op(f"{MS}::MatMulNBits", x, packed, scales, K=32, N=16, bits=4, block_size=32, name="packed", made=(4, 16))
    net.output(net.linear(net.op("Relu", x), 5, name="last"))
    model = prepared(net.proto())
    coupling = analyze(model)
    assert [group.name for group in coupling.groups] == ["packed"]
    meter = Meter(model, coupling)
    assert meter.usage({"packed": 6}).macs == 4 * (32 * 32 + 32 * 10 + 10 * 5)
    assert cost(pruned(model, coupling, {"packed": 6})).macs == 4 * (32 * 32 + 32 * 10 + 10 * 5)
