"""Selection under targets: what is counted is exact, and the plan cuts no more than it must."""

from __future__ import annotations

import pytest

import onnxprune
from onnxprune.budget import order_of, select_within
from onnxprune.cost import cost
from onnxprune.errors import UserError
from onnxprune.meter import Meter
from onnxprune.models_zoo import digits
from onnxprune.plan import Plan


@pytest.fixture(scope="module")
def given() -> tuple[onnxprune.Model, onnxprune.Coupling, onnxprune.scores.Scores, Meter]:
    model = onnxprune.load(digits.model_path())
    coupling = onnxprune.analyze(model)
    return model, coupling, onnxprune.score(model, coupling, "l2"), Meter(model, coupling)


def test_the_meter_counts_what_the_cut_model_costs(given) -> None:
    model, coupling, scores, meter = given
    for ratio in (0.2, 0.5):
        plan = onnxprune.select(coupling, scores, ratio=ratio)
        usage = meter.usage({group.name: group.removed for group in plan.groups})
        real = cost(onnxprune.apply(model, plan))
        assert (usage.macs, usage.params) == (real.macs, real.params)
    whole = cost(model)
    assert (meter.usage({}).macs, meter.usage({}).params) == (whole.macs, whole.params)


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
def test_targets_hold_and_barely(given, scope: str) -> None:
    model, coupling, scores, meter = given
    plan = select_within(order_of(coupling, scores, scope=scope), ["macs=0.5", "params=0.9"], meter)
    kept = cost(onnxprune.apply(model, plan)).macs / cost(model).macs
    assert 0.46 < kept <= 0.5
    assert plan.meta["bound_by"] == "macs"


def test_all_targets_hold_at_once(given) -> None:
    model, coupling, scores, meter = given
    plan = select_within(order_of(coupling, scores), ["macs=0.6", "params=0.3"], meter)
    found, whole = cost(onnxprune.apply(model, plan)), cost(model)
    assert found.params <= 0.3 * whole.params
    assert found.macs <= 0.6 * whole.macs
    assert plan.meta["bound_by"] == "params"


def test_peak_memory_counts_weights_and_what_is_alive(given) -> None:
    _, _, _, meter = given
    usage = meter.usage({})
    # the widest moment: the first residual block holds two activations of 16 x 8 x 8 floats, and makes a third
    assert usage.bytes < usage.peak_memory <= usage.bytes + 3 * 16 * 8 * 8 * 4


def test_a_latency_target_takes_the_slowest_model_that_is_fast_enough(given) -> None:
    model, coupling, scores, meter = given
    whole = cost(model).macs
    asked: list[float] = []

    def clock(plan: Plan) -> float:
        """A machine whose time is the MACs plus a constant share."""
        usage = meter.usage({group.name: group.removed for group in plan.groups})
        asked.append(0.1 + 0.9 * usage.macs / whole)
        return asked[-1]

    plan = select_within(order_of(coupling, scores), ["latency=0.5"], meter, clock=clock)
    assert 0.48 < clock(plan) <= 0.5
    assert plan.meta["bound_by"] == "latency"
    assert len(asked) < 14


def test_what_cannot_be_reached_says_how_low_it_goes_and_who_holds_it(given) -> None:
    _, coupling, scores, meter = given
    with pytest.raises(UserError, match=r"the lowest macs is 0\.\d+ of the original \(held most by "):
        select_within(order_of(coupling, scores), ["macs=0.001"], meter)
    with pytest.raises(UserError, match=r"takes 0\.90 of the original's time"):
        select_within(order_of(coupling, scores), ["latency=0.5"], meter, clock=lambda plan: 0.9)


def test_a_model_that_holds_its_targets_is_left_alone(given) -> None:
    _, coupling, scores, meter = given
    with pytest.raises(UserError, match="holds all targets as it is"):
        select_within(order_of(coupling, scores), ["macs=1G"], meter)


def test_groups_with_a_ratio_of_their_own_keep_it(given) -> None:
    _, coupling, scores, meter = given
    first = coupling.groups[0]
    plan = select_within(order_of(coupling, scores, ratios={first.name: 0}), ["macs=0.5"], meter)
    assert {group.name: group.removed for group in plan.groups}[first.name] == 0
