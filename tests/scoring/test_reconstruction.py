"""What a channel is worth to those that read it: against removing it and solving for all the rest."""

from __future__ import annotations

import itertools
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import pytest
from building import F, Net
from nets import DIMS, NETS
from onnx import TensorProto
from oracle import prepared

from onnxprune.accuracy.evaluate import evaluate
from onnxprune.analysis.analyze import analyze
from onnxprune.cutting.apply import apply
from onnxprune.data.sources import open_data
from onnxprune.errors import UserError
from onnxprune.execution.batches import Batch
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.repair.compensate import compensate
from onnxprune.repair.linear_layers import Layer
from onnxprune.scoring.reconstruction import (
    DATA_CRITERIA,
    RIDGE,
    Reader,
    activation,
    apoz,
    cosine,
    data_scores,
    obs,
    ridge,
)
from onnxprune.scoring.scores import Scores, score
from onnxprune.scoring.statistics import Reading
from onnxprune.selection.select import select

Array = np.ndarray[Any, Any]
LAYER = Layer(onnx.NodeProto(), "x", "w", None, "y", None, 1, 1)


def reader(
    x: Array, weight: Array, units: list[list[int]] | None = None, power: float = 1.0, count: int = 1 << 40
) -> Reader:
    """Of a layer with a bias that reads these rows again and again."""
    x, weight = np.asarray(x, float), np.asarray(weight, float)
    covariance = np.atleast_2d(np.cov(x.T, bias=True))
    mean, second, active = x.mean(axis=0), np.square(x).mean(axis=0), (x != 0).mean(axis=0)
    reading = Reading(LAYER, 0, weight, covariance, mean, second, active, count, power)
    units = units or [[feature] for feature in range(x.shape[1])]
    return Reader(reading, tuple(np.array(columns, np.int64) for columns in units))


def rows(count: int, features: int, *, seed: int = 0) -> Array:
    """Correlated."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, features)) @ (np.eye(features) + 0.5 * rng.standard_normal((features, features)))


def left_over(each: Reader, gone: list[int]) -> float:
    """The error of the best weights without these units, as a share of the power."""
    reading = each.reading
    assert reading.covariance is not None
    size = len(reading.covariance)
    h = reading.covariance + ridge(reading) * np.eye(size)
    kept = np.setdiff1d(
        np.arange(size), np.concatenate([np.empty(0, np.int64), *(each.features[unit] for unit in gone)])
    )
    best = np.zeros_like(reading.weight)
    best[:, kept] = np.linalg.solve(h[np.ix_(kept, kept)], (reading.weight @ h)[:, kept].T).T
    gap = best - reading.weight
    return float(np.einsum("of,fg,og->", gap, h, gap)) / reading.power


def greedy(readers: list[Reader], size: int) -> tuple[list[int], list[float]]:
    """The order in which units go, each time the one that leaves the least error, and what each adds to it."""
    gone: list[int] = []
    costs, before = [], 0.0
    for _ in range(size):
        errors = {
            unit: sum(left_over(each, [*gone, unit]) for each in readers) for unit in range(size) if unit not in gone
        }
        unit = min(errors, key=lambda each: errors[each])
        costs.append(errors[unit] - before)
        before = errors[unit]
        gone.append(unit)
    return gone, costs


def shuffled(units: int, lengths: list[int], *, seed: int) -> list[list[int]]:
    """Features of units, in any order."""
    order = np.random.default_rng(seed).permutation(sum(lengths)).tolist()
    ends = list(itertools.accumulate([0, *lengths]))
    assert len(lengths) == units
    return [order[a:b] for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize("seed", range(4))
def test_obs_is_removal_with_all_the_rest_solved_anew(seed: int) -> None:
    """Two readers: one of single features, one whose units have one to three."""
    rng = np.random.default_rng(seed)
    one = reader(rows(200, 9, seed=seed), rng.standard_normal((4, 9)), power=3.0, count=1 << (4 + 2 * seed))
    lengths = [1, 2, 3, 1, 1, 2, 3, 1, 2]
    many = reader(
        rows(200, 16, seed=seed + 9), rng.standard_normal((5, 16)), shuffled(9, lengths, seed=seed), power=7.0
    )
    order, costs = greedy([one, many], 9)
    scores = obs([one, many], 9)
    assert np.argsort(scores).tolist() == order
    np.testing.assert_allclose(scores[order], np.maximum.accumulate(costs), rtol=1e-6)
    assert (np.diff(scores[order]) > 0).all()


def test_obs_of_independent_channels_is_what_they_add() -> None:
    """H is 1: a channel costs the sum of its squared weights."""
    x = np.concatenate([np.eye(4), -np.eye(4)]) * 2
    weight = np.array([[1.0, 2.0, 0.0, 3.0], [1.0, 0.0, 0.5, 4.0]])
    expected = np.array([2, 4, 0.25, 25]) / 10
    np.testing.assert_allclose(obs([reader(x, weight, power=10)], 4), expected)
    few = obs([reader(x, weight, power=10, count=16)], 4)
    np.testing.assert_allclose(few, expected * (1 + RIDGE * 4 / 16))
    twice = obs([reader(x, weight, power=10), reader(x, weight, power=5)], 4)
    np.testing.assert_allclose(twice, 3 * expected)


def test_of_two_channels_that_are_equal_one_goes_first_and_the_other_late() -> None:
    x = rows(300, 6)
    x[:, 4] = x[:, 1]
    weight = np.random.default_rng(0).uniform(1, 2, (5, 6))
    each = reader(x, weight, power=float(np.square(x @ weight.T).mean(axis=0).sum()))
    scores = obs([each], 6)
    first = int(scores.argmin())
    assert first in (1, 4)
    assert scores[first] < 1e-9
    assert scores[5 - first] > 0.01


def test_a_score_never_falls_where_a_cost_does() -> None:
    """Two channels that only their difference counts of: when one has gone, the other is worth less than it was."""
    rng = np.random.default_rng(7)
    shared, a, b = rng.standard_normal((3, 400))
    x = np.stack([10 * shared + a, 10 * shared - a, b], axis=1)
    each = reader(x, np.array([[1.0, -1.0, 5.0]]))
    order, costs = greedy([each], 3)
    assert costs[1] < 0.5 * costs[0]
    scores = obs([each], 3)
    assert np.argsort(scores).tolist() == order
    assert scores[order[0]] < scores[order[1]] < scores[order[2]]
    np.testing.assert_allclose(scores[order[:2]], costs[0], rtol=1e-6)


@pytest.mark.parametrize("units", [130, 300])
def test_equal_channels_are_told_apart_where_several_go_at_once(units: int) -> None:
    """Half of the channels repeat the other half: not both of a pair are cheap."""
    rng = np.random.default_rng(1)
    half = units // 2
    x = rng.standard_normal((4 * units, half))
    weight = rng.uniform(1, 2, (8, units)) * rng.choice([-1, 1], (8, units))
    scores = obs([reader(np.hstack([x, x]), weight, power=float(np.square(weight).sum()))], units)
    first = np.sort(np.argsort(scores)[:half])
    assert (np.sort(first % half) == np.arange(half)).all(), "one of each pair"
    assert np.sort(scores)[half - 1] < 0.1 * np.sort(scores)[half]


def test_several_at_once_cost_what_they_cost_together() -> None:
    """Scores of wide groups are still those of solving anew after each."""
    rng = np.random.default_rng(2)
    units = 140
    x = rng.standard_normal((2000, units)) @ (np.eye(units) + 0.02 * rng.standard_normal((units, units)))
    each = reader(x, rng.standard_normal((6, units)), power=50.0)
    scores = obs([each], units)
    order = np.argsort(scores).tolist()
    assert np.isclose(scores[order[:6]].sum(), left_over(each, order[:6]), rtol=0.02)
    errors = [left_over(each, order[:count]) for count in range(0, units - 4, 10)]
    sums = [float(scores[order[:count]].sum()) for count in range(0, units - 4, 10)]
    np.testing.assert_allclose(sums, errors, rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_a_channel_that_is_always_the_same_goes_first(value: float) -> None:
    """A bias does as well, however large its weights are."""
    x = rows(100, 5)
    x[:, 3] = value
    weight = np.random.default_rng(3).uniform(1, 2, (4, 5))
    weight[:, 3] = 1000
    each = reader(x, weight)
    scores = obs([each], 5)
    assert scores.argmin() == 3
    assert scores[3] < 1e-300
    assert np.sort(scores)[1] > 0.1
    assert cosine([each], 5)[3] < 1e-3 < np.sort(cosine([each], 5))[1]


def test_nothing_is_missed_where_nothing_is_read() -> None:
    each = reader(np.zeros((10, 4)), np.ones((3, 4)), power=0.0)
    for criterion in DATA_CRITERIA.values():
        scores = criterion([each], 4)
        assert np.isfinite(scores).all()
        assert scores.max() < 1e-300
    assert sorted(set(obs([each], 4).tolist())) == sorted(obs([each], 4).tolist()), "still in an order"


def test_activation_by_hand() -> None:
    """sqrt(mean x^2) is 1, 2 and 3, |w| 3, 1 and 0; of the second reader 1, 0 and 1."""
    x = np.array([[1.0, 2, 3], [-1, 2, -3], [1, -2, 3], [-1, -2, -3]])
    one = reader(x, np.array([[2.0, -1, 0], [-1, 0, 0]]))
    np.testing.assert_allclose(activation([one], 3), [3 / 5, 2 / 5, 0])
    two = reader(x, np.array([[1.0, 0, -1]]))
    np.testing.assert_allclose(activation([one, two], 3), [3 / 5 + 1 / 4, 2 / 5, 3 / 4])
    merged = reader(x, np.array([[2.0, -1, 0], [-1, 0, 0]]), [[0, 2], [1]])
    np.testing.assert_allclose(activation([merged], 2), [3 / 5, 2 / 5])


def test_apoz_by_hand() -> None:
    x = np.array([[1.0, 0, 0, 2], [1, 0, 3, 0], [1, 0, 0, 0], [1, 0, 1, 0]])
    assert apoz([reader(x, np.ones((2, 4)))], 4).tolist() == [1, 0, 0.5, 0.25]
    assert apoz([reader(x, np.ones((2, 4)), [[0, 1], [2, 3]])], 2).tolist() == [0.5, 0.375]
    both = [reader(x, np.ones((2, 4)), [[0], [1]]), reader(x, np.ones((2, 4)), [[2], [3]])]
    assert apoz(both, 2).tolist() == [0.75, 0.125]


def test_cosine_by_hand() -> None:
    """Variances 1, 4 and 1; the third is 0.6 of the first and 0.8 of its own."""
    a = np.array([1.0, 1, 1, 1, -1, -1, -1, -1])
    b = 2 * np.array([1.0, 1, -1, -1, 1, 1, -1, -1])
    c = np.array([1.0, -1, 1, -1, 1, -1, 1, -1])
    each = reader(np.stack([a, b, 0.6 * a + 0.8 * c], axis=1), np.ones((1, 3)))
    np.testing.assert_allclose(cosine([each], 3), np.array([0.64, 4, 0.64]) / 6)
    pair = reader(np.stack([a, b, 0.6 * a + 0.8 * c], axis=1), np.ones((1, 3)), [[0, 2], [1]])
    np.testing.assert_allclose(cosine([pair], 2), np.array([2, 4]) / 6)


def test_scales_of_what_is_read_do_not_matter() -> None:
    x, weight = rows(100, 5), np.random.default_rng(4).standard_normal((3, 5))
    for criterion in (obs, activation, apoz, cosine):
        plain = criterion([reader(x, weight, power=2.0)], 5)
        for scale in (1e-15, 1e15):
            found = criterion([reader(x * scale, weight, power=2.0 * scale**2)], 5)
            np.testing.assert_allclose(found, plain, rtol=1e-5)


def with_weights(model: Model, **arrays: Array) -> Model:
    named = {name.replace("__", "."): np.float32(array) for name, array in arrays.items()}
    return model.replace(weights={**model.weights, **{name: Tensor.of(name, a) for name, a in named.items()}})


def scored(model: Model, criterion: str, spec: str = "random:40", **more: Any) -> Scores:
    return data_scores(model, analyze(model, strict=True), criterion, open_data(spec, model, **more))


@pytest.mark.parametrize("criterion", DATA_CRITERIA)
@pytest.mark.parametrize("name", NETS)
def test_networks(name: str, criterion: str) -> None:
    model = prepared(NETS[name]())
    coupling = analyze(model, strict=True)
    found = data_scores(model, coupling, criterion, open_data("random:32", model, dims=DIMS.get(name)))
    assert {*found.by_group, *found.skipped} == {group.name for group in coupling.groups}
    assert not set(found.by_group) & set(found.skipped)
    assert len(found.by_group) > 1
    for group in found.by_group:
        scores = found.by_group[group]
        assert scores.shape == (coupling.group(group).size,)
        assert np.isfinite(scores).all()
        assert (scores >= 0).all()
        assert len(set(scores.tolist())) > 1 or criterion == "apoz"
    assert (found.criterion, found.reduce, found.normalize) == (criterion, "sum", "none")
    again = data_scores(model, coupling, criterion, open_data("random:32", model, dims=DIMS.get(name)))
    assert all(np.array_equal(scores, again.by_group[group]) for group, scores in found.by_group.items())


def flattened() -> Model:
    """Each channel makes 49 features of the layer behind."""
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 7, 7), 6, 3, name="first"), name="relu")
    n.output(n.gemm(n.op("Flatten", x), 5, name="second"))
    return prepared(n.proto())


def test_a_channel_is_many_features_behind_a_flatten() -> None:
    """A channel that the layer ignores, and one that is never above zero."""
    model = flattened()
    weight, bias = model.weights["second.weight"].array().copy(), model.weights["first.bias"].array().copy()
    weight[:, 2 * 49 : 3 * 49] *= 1e-4
    bias[4] = -100
    model = with_weights(model, second__weight=weight, first__bias=bias)
    for criterion in ("obs", "activation"):
        scores = scored(model, criterion, "random:400").by_group["first"]
        assert set(np.argsort(scores)[:2].tolist()) == {2, 4}, criterion
        assert np.sort(scores)[2] > 100 * np.sort(scores)[1]
    assert scored(model, "apoz").by_group["first"][4] == 0
    assert scored(model, "cosine", "random:400").by_group["first"].argmin() == 4


def test_heads_are_units_of_several_features() -> None:
    """The head whose values the output projection ignores goes first."""
    model = prepared(NETS["transformer"]())
    weight = model.weights["o.weight"].array().copy()
    weight[6:9] *= 1e-3
    model = with_weights(model, o__weight=weight)
    data = open_data("random:64", model, batch=8, dims={"batch": 8, "time": 3})
    coupling = analyze(model, strict=True)
    (group,) = [group for group in coupling.groups if any(slot.tensor == "o.weight" for slot in group.weights)]
    assert group.size == 4
    for criterion in ("obs", "activation"):
        scores = data_scores(model, coupling, criterion, data).by_group[group.name]
        assert scores.argmin() == 2
        assert np.sort(scores)[1] > 50 * scores[2]


def test_all_who_read_are_asked() -> None:
    """A channel that one reader ignores and another needs stays."""
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 6, 3, name="first"), name="relu")
    n.output(n.conv(x, 5, 3, name="a"), n.conv(x, 5, name="b"))
    model = prepared(n.proto())
    a, b = (model.weights[f"{name}.weight"].array().copy() for name in "ab")
    a[:, [1, 4]] *= 1e-4
    b[:, [2, 4]] *= 1e-4
    scores = scored(with_weights(model, a__weight=a, b__weight=b), "obs").by_group["first"]
    assert scores.argmin() == 4
    assert np.sort(scores)[1] > 100 * scores[4]


def test_obs_and_compensation_agree_on_what_a_cut_costs() -> None:
    """A duplicate, a channel that is a sum of others: without these the network is the same."""
    n = Net()
    x = n.conv(n.image("batch", 4, 6, 6), 6, 1, name="first")
    n.output(n.conv(x, 5, name="second"))
    model = prepared(n.proto())
    weight = model.weights["first.weight"].array().copy()
    weight[5] = weight[0] + 0.5 * weight[1]
    model = with_weights(model, first__weight=weight)
    coupling = analyze(model, strict=True)
    data = open_data("random:250", model)
    scores = data_scores(model, coupling, "obs", data)
    low, high = np.sort(scores.by_group["first"])[:2], np.sort(scores.by_group["first"])[2:]
    assert 10 * low[1] < high[0], "four channels carry all that six make of four colours"
    plan = select(coupling, scores, ratio=2 / 6)
    pruned = apply(model, plan)
    found = compensate(model, pruned, plan, data)
    deviation = evaluate(found.model, data, original=model).deviation
    assert deviation is not None
    assert deviation < 1e-5


def test_obs_weighs_groups_by_what_arrives_at_the_outputs() -> None:
    """Two branches that are alike; what the second makes is added a hundred times weaker."""
    n = Net()
    image = n.image("batch", 3, 6, 6)
    ways = []
    for name in "ab":
        x = n.op("Relu", n.conv(image, 8, 3, name=f"{name}.first"), name=f"{name}.relu")
        ways.append(n.conv(x, 5, name=f"{name}.second"))
    faint = n.op("Mul", ways[1], n.const(np.float32(0.01)), name="faint")
    n.output(n.op("Add", ways[0], faint, name="sum"))
    model = prepared(n.proto())
    model = with_weights(
        model, **{f"b.{rest}": model.weights[f"a.{rest}"].array() for rest in ("first.weight", "first.bias")}
    )
    model = with_weights(
        model, **{f"b.{rest}": model.weights[f"a.{rest}"].array() for rest in ("second.weight", "second.bias")}
    )
    by_group = scored(model, "obs", "random:100").by_group
    ratio = by_group["b.first"] / by_group["a.first"]
    assert ratio == pytest.approx(np.full(8, 1e-4), rel=0.3)


def twice(array: Array, axis: int) -> Array:
    """Every second channel is two times the one before."""
    array = array.copy()
    pairs = np.moveaxis(array, axis, 0)
    pairs[1::2] = 2 * pairs[::2]
    return array


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Conv of 2", "ConvTranspose of 2", "LSTM"])
def test_what_obs_expects_of_the_readers_is_measured(kind: str) -> None:
    """Half of the channels are copies and a constant: the others and the bias make up for them."""
    n = Net()
    group = 2 if "2" in kind else 1
    # zeros between the inputs of a ConvTranspose stay zeros, so that a constant is none for its rows
    offsets = np.float32([0, 0 if "Transpose" in kind else 3] * 4)
    if kind == "LSTM":
        x = n.op("Relu", n.linear(n.input("x", 4, 3, 5), 8, name="first"), name="relu")
        weights = n.weight(1, 16, 8, name="w"), n.weight(1, 16, 4, name="r"), n.weight(1, 32, name="b")
        y = n.op("LSTM", n.op("Add", x, n.const(offsets)), *weights, hidden_size=4, name="past")
        n.output(n.linear(n.op("Squeeze", y, n.ints(1), name="flat"), 2, name="last"))
    else:
        x = n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 8, name="first"), name="relu")
        x = n.op("Add", x, n.const(offsets.reshape(8, 1, 1)))
        shape = (6, 8 // group, 3, 3) if kind.startswith("Conv ") or kind == "Conv" else (8, 6 // group, 3, 3)
        weights = n.weight(*shape, name="w"), n.weight(6, name="b")
        n.output(n.conv(n.op("Relu", n.op(kind.split()[0], x, *weights, group=group)), 2, name="last"))
    model = prepared(n.proto())
    weight, bias = model.weights["first.weight"].array(), model.weights["first.bias"].array()
    axis = weight.shape.index(8)
    model = with_weights(model, first__weight=twice(weight, axis), first__bias=twice(bias + 0.5, 0))
    scores = np.sort(scored(model, "obs", "random:400").by_group["first"])
    half = len(scores) // 2
    assert scores[:half].sum() < 1e-4, "what arrives at the outputs when the copies are gone"
    assert scores[half:].sum() > 10 * scores[:half].sum()


def recurrent(kind: str = "LSTM", gates: int = 4) -> Model:
    n = Net()
    x = n.op("Relu", n.linear(n.input("x", 4, 3, 5), 8, name="first"), name="relu")
    w, r = n.weight(1, gates * 4, 8, name="w"), n.weight(1, gates * 4, 4, name="r")
    y = n.op("Squeeze", n.op(kind, x, w, r, hidden_size=4, name="past"), n.ints(1), name="flat")
    n.output(n.linear(n.op("Relu", n.linear(y, 6, name="third")), 2, name="last"))
    return prepared(n.proto())


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_are_asked_too(kind: str, gates: int) -> None:
    model = recurrent(kind, gates)
    weight = model.weights["w"].array().copy()
    weight[:, :, 3] *= 1e-3
    model = with_weights(model, w=weight)
    for criterion in ("obs", "activation"):
        found = scored(model, criterion)
        assert set(found.by_group) >= {"first", "third"}
        scores = found.by_group["first"]
        assert scores.argmin() == 3
        assert np.sort(scores)[1] > 10 * scores[3]


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_convolutions_of_several_groups_are_asked_too(op: str) -> None:
    """A unit is a channel of each group: one that both groups ignore is the cheapest, one that one ignores is not."""
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 8, name="first"), name="relu")
    array = n.rng.standard_normal((6, 4, 3, 3) if op == "Conv" else (8, 3, 3, 3)).astype(np.float32)
    ways = array.reshape(2, 3, 4, 3, 3).swapaxes(1, 2) if op == "Conv" else array.reshape(2, 4, 3, 3, 3)
    ways[:, 2] *= 1e-3  # of both groups
    ways[0, 1] *= 1e-3
    y = n.op("Relu", n.op(op, x, n.const(array, name="w"), group=2, name="grouped"))
    n.output(n.conv(y, 2, name="last"))
    model = prepared(n.proto())
    group = analyze(model, strict=True).group("first")
    assert group.size == 4
    for criterion in DATA_CRITERIA:
        found = scored(model, criterion)
        assert "first" in found.by_group
        assert found.by_group["first"].shape == (4,)
    for criterion in ("obs", "activation"):
        scores = scored(model, criterion).by_group["first"]
        assert scores.argmin() == 2
        assert np.sort(scores)[1] > 10 * scores[2]
        if criterion == "activation":
            assert scores.sum() == pytest.approx(1)


def test_groups_that_nobody_known_reads_are_skipped_with_a_reason() -> None:
    """Half floats are no plain weights."""
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 8, name="first"), name="relu")
    w = n.const(n.rng.standard_normal((6, 8, 1, 1)), np.float16, name="half")
    y = n.op(
        "Relu", n.conv(n.op("Cast", n.op("Conv", n.op("Cast", x, to=TensorProto.FLOAT16), w), to=F), 6, name="third")
    )
    n.output(n.conv(y, 2, name="last"))
    model = prepared(n.proto())
    found = scored(model, "obs")
    assert "first" in found.skipped
    assert "third" in found.by_group
    reason = found.skipped["first"]
    assert (reason.code, reason.node) == ("no-scores", "first")
    assert "criterion 'obs' asks the layers that read a channel" in reason.sentence
    assert "'first' is read by none with plain float32 weights and at most 9,216 features" in reason.sentence
    assert "features" not in scored(model, "activation").skipped["first"].sentence
    plan = select(analyze(model), found, ratio=0.5)
    assert {group.name for group in plan.groups if group.removed} <= set(found.by_group)


def test_models_without_known_readers_are_refused() -> None:
    n = Net()
    x = n.op("Cast", n.image("batch", 3, 6, 6), to=TensorProto.FLOAT16)
    for out, inner in ((8, 3), (5, 8)):
        w = n.const(n.rng.standard_normal((out, inner, 1, 1)), np.float16, name=f"w{out}")
        x = n.op("Conv", x, w, name=f"conv{out}")
    n.output(n.op("Cast", x, to=F))
    with pytest.raises(UserError, match="'apoz' asks the layers that read a channel.*plain float32 weights"):
        scored(prepared(n.proto()), "apoz")


def test_a_model_without_groups_has_no_scores() -> None:
    n = Net()
    n.output(n.conv(n.image("batch", 3, 6, 6), 5, name="only"))
    model = prepared(n.proto())
    found = scored(model, "obs")
    assert (dict(found.by_group), dict(found.skipped)) == ({}, {})
    assert isinstance(found.by_group, MappingProxyType)


def test_obs_beats_magnitudes_where_these_mislead() -> None:
    """Channels of large weights that repeat others, beside small ones that nothing can replace."""
    rng = np.random.default_rng(5)
    n = Net()
    x = n.op("Relu", n.gemm(n.image("batch", 6), 12, name="first"))
    n.output(n.gemm(x, 8, name="second"))
    model = prepared(n.proto())
    weight, bias = (model.weights[f"first.{part}"].array().copy() for part in ("weight", "bias"))
    weight[:6], bias[:6] = 0.5 * rng.standard_normal((6, 6)), 0.1
    weight[6:], bias[6:] = 1.2 * rng.standard_normal(6), 1.0
    model = with_weights(model, first__weight=weight, first__bias=bias)
    coupling = analyze(model, strict=True)
    data = [Batch({"image": rng.standard_normal((5000, 6)).astype(np.float32)}, None, 5000)]
    found = data_scores(model, coupling, "obs", data).by_group["first"]
    assert set(np.argsort(found)[:5].tolist()) < {6, 7, 8, 9, 10, 11}, "five of the six that are the same"
    plain = score(model, coupling, "l2").by_group["first"]
    assert set(np.argsort(plain)[:5].tolist()) < {0, 1, 2, 3, 4, 5}
