"""Selection under targets: what is counted is exact, and the plan cuts no more than it must."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from by_hand import EIGHT, SIXTEEN, layer, likes
from by_hand import coupling as coupled
from by_hand import scores as scored

import onnxprune
from onnxprune.counting.cost import cost
from onnxprune.counting.meter import Meter
from onnxprune.cutting.plan import Plan
from onnxprune.errors import NothingToCut, Unreachable, UserError
from onnxprune.models_zoo import digits
from onnxprune.passes import Select
from onnxprune.pipeline.manager import State
from onnxprune.targets.budget import CHANCES, CLOSE, TRIES, Order, order_of, select_within
from onnxprune.targets.costs import terms_of
from onnxprune.targets.terms import Widths


@pytest.fixture(scope="module")
def given() -> tuple[onnxprune.Model, onnxprune.Coupling, onnxprune.scoring.scores.Scores, Meter]:
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
    least = meter.usage((left := order_of(coupling, scores)).counts(left.size))
    for target, amount in (("macs=0.001M", f"{least.macs / 1e6:.4g}M"), ("bytes=8B", f"{least.bytes:.4g}B")):
        with pytest.raises(UserError, match=rf"is 0\.\d+ of the original, {re.escape(amount)} \(held most by "):
            select_within(order_of(coupling, scores), [target], meter)
    with pytest.raises(UserError, match=r"takes 0\.90 of the original's time, 36ms \(held most by "):
        select_within(order_of(coupling, scores), ["latency=9ms"], meter, clock=lambda plan: 0.9, original_ms=40.0)
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


# The search for a time, with clocks that are made up


class Clock:
    """Tells the time by the part of the units that a plan removes, and remembers what it was asked."""

    def __init__(self, time: Callable[[float], float], noise: float = 0.0, seed: int = 0) -> None:
        self.time, self.noise, self.rng = time, noise, np.random.default_rng(seed)
        self.seen: dict[tuple[int, ...], float] = {}
        self.told: dict[tuple[int, ...], list[float]] = {}

    def __call__(self, plan: Plan) -> float:
        removed = tuple(group.removed for group in plan.groups)
        assert any(removed), "what is left as it is need not be measured"
        part = sum(removed) / sum(group.units for group in plan.groups)
        told = self.told.setdefault(removed, [])
        told.append(self.time(part) * float(1 + self.noise * self.rng.standard_normal()))
        assert len(told) <= 2, "only what seemed just fast enough is measured again, and once"
        self.seen[removed] = sum(told) / len(told)
        return self.seen[removed]


class NoMeter:
    """For searches that end well."""

    def usage(self, removed: object) -> Any:
        return None


def order(*sizes: int, **options: Any) -> Order:
    """Groups a, b, c of these sizes, every unit as important as its number."""
    groups = {"abcdefgh"[i]: size for i, size in enumerate(sizes)}
    values = {name: np.arange(size) / size for name, size in groups.items()}
    return order_of(coupled(*(layer(name, size) for name, size in groups.items())), scored(**values), **options)


def searched(found: Order, clock: Clock, target: str) -> float:
    """The time of what was found, as the clock told it."""
    plan = select_within(found, [target], NoMeter(), clock=clock)  # type: ignore[arg-type]  # it is never asked
    again = sum(len(told) - 1 for told in clock.told.values())
    assert again <= CHANCES
    assert len(clock.seen) <= TRIES * max(1, again) + 1
    assert plan.meta["bound_by"] == "latency"
    return clock.seen[tuple(group.removed for group in plan.groups)]


BENT: dict[str, Callable[[float], float]] = {
    "in proportion": lambda part: 1 - part,
    "with a share that stays": lambda part: 0.2 + 0.8 * (1 - part),
    "by the square": lambda part: (1 - part) ** 2,
    "late": lambda part: 1 - 0.95 * part**4,
    "very late": lambda part: 1 - 0.98 * part**8,
    "early": lambda part: 0.02 + 0.95 * (1 - part) ** 4,
    "very early": lambda part: 0.02 + 0.95 * (1 - part) ** 8,
    "by the root": lambda part: 1 - 0.95 * part**0.5,
    "slower at first": lambda part: 1 + 0.3 * np.sin(4 * part) - part,
}


@pytest.mark.parametrize("limit", [0.9, 0.7, 0.5, 0.3])
@pytest.mark.parametrize("kind", BENT)
def test_within_three_percent_on_any_smooth_curve(kind: str, limit: float) -> None:
    clock = Clock(BENT[kind])
    found = searched(order(1000, 3000, 2000, min_keep=0), clock, f"latency={limit}")
    assert limit * (1 - CLOSE) < found <= limit


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_noise_never_lets_through_what_was_too_slow(noise: float, seed: int) -> None:
    clock = Clock(BENT["with a share that stays"], noise, seed)
    assert 0.5 * (1 - CLOSE - 2 * noise) < searched(order(400, 100, 200), clock, "latency=0.5") <= 0.5


def test_what_was_lucky_once_is_found_out() -> None:
    """The first time that a model is asked for, its clock is a twentieth fast: nothing near the limit would hold."""

    class Lucky(Clock):
        def __call__(self, plan: Plan) -> float:
            removed = tuple(group.removed for group in plan.groups)
            part = sum(removed) / sum(group.units for group in plan.groups)
            told = self.told.setdefault(removed, [])
            told.append(self.time(part) * (1.05 if told else 0.95))
            self.seen[removed] = sum(told) / len(told)
            return self.seen[removed]

    clock = Lucky(BENT["in proportion"])
    plan = select_within(order(1000, 3000), ["latency=0.5"], NoMeter(), clock=clock)  # type: ignore[arg-type]
    removed = tuple(group.removed for group in plan.groups)
    found_out = [counts for counts, told in clock.told.items() if len(told) == 2 and clock.seen[counts] > 0.5]
    assert found_out
    assert removed not in found_out
    assert clock.seen[removed] <= 0.5


@pytest.mark.parametrize("seed", range(10))
def test_a_clock_that_is_all_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clock = Clock(lambda part: 0.2 if part > 0.85 else float(rng.uniform(0.2, 1.2)))
    assert searched(order(400, 100), clock, "latency=0.5") <= 0.5


@pytest.mark.parametrize("limit", [0.95, 0.8, 0.6, 0.4])
@pytest.mark.parametrize("block", [16, 24, 32])
def test_on_a_staircase_the_slowest_step_that_is_fast_enough(block: int, limit: float) -> None:
    """Most lengths cut what the one before them does; none of these is measured, and no try is wasted on them."""
    found = order(64, 96, 128, 64, round_to=block)
    clock = Clock(lambda part: 1 - part)
    every = {tuple(found.counts(length).values()) for length in range(found.size + 1)}
    times = {1 - sum(counts) / 352 for counts in every}
    best = max(time for time in times if time <= limit)
    assert len(times) < 30
    seen = searched(found, clock, f"latency={limit}")
    assert best * (1 - CLOSE) <= seen <= best


def test_between_two_steps_nothing_is_left_to_try() -> None:
    found = order(64, round_to=32)
    clock = Clock(lambda part: 1 - part)
    assert searched(found, clock, "latency=0.9") == 0.5
    assert clock.seen == {(32,): 0.5}


def test_a_model_that_is_fast_enough_is_not_measured() -> None:
    def never(plan: Plan) -> float:
        raise AssertionError

    with pytest.raises(NothingToCut, match="the model holds all targets as it is"):
        select_within(order(64), ["latency=20ms"], NoMeter(), clock=never, original_ms=18.0)  # type: ignore[arg-type]


def test_an_amount_is_told_in_milliseconds() -> None:
    clock = Clock(lambda part: 1 - part)
    found = order(1000, min_keep=0)
    plan = select_within(found, ["latency=12ms"], NoMeter(), clock=clock, original_ms=20.0)  # type: ignore[arg-type]
    assert 0.6 * (1 - CLOSE) < 1 - plan.groups[0].removed / 1000 <= 0.6


def test_what_other_targets_ask_for_is_measured_first() -> None:
    clock = Clock(lambda part: 1 - part)
    found = order(1000, min_keep=0)
    plan = select_within(found, ["ratio=0.5", "latency=0.6"], NoMeter(), clock=clock)  # type: ignore[arg-type]
    assert (plan.groups[0].removed, plan.meta["bound_by"], len(clock.seen)) == (500, "ratio", 1)
    clock = Clock(lambda part: 1 - part)
    plan = select_within(found, ["ratio=0.5", "latency=0.3"], NoMeter(), clock=clock)  # type: ignore[arg-type]
    assert plan.meta["bound_by"] == "latency"
    assert min(counts[0] for counts in clock.seen) == 500


def test_a_time_that_cannot_be_reached_names_who_holds_the_work(given) -> None:
    _, coupling, scores, meter = given
    with pytest.raises(UserError) as error:
        select_within(order_of(coupling, scores), ["latency=0.5"], meter, clock=lambda plan: 0.9)
    left = order_of(coupling, scores)
    least = meter.usage(left.counts(left.size)).macs
    gains = {name: least - usage.macs for name, usage in meter.without_each(left.counts(left.size))}
    top = sorted(gains, key=lambda name: gains[name], reverse=True)[:3]
    assert f"(held most by {', '.join(top)}); lower min_keep" in str(error.value)
    # where all groups stay whole there is nothing to measure
    with pytest.raises(UserError, match=r"the model takes 1\.00 of the original's time \(held most by "):
        select_within(order_of(coupling, scores, round_to=512), ["latency=0.5"], meter, clock=Clock(lambda part: 0))


# The length that a ratio stands for


@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_ratio_is_of_all_units_not_of_those_above_the_floors(scope: str) -> None:
    found = order(100, 100, min_keep=0.5, scope=scope)
    plan = select_within(found, ["ratio=0.3"], NoMeter())  # type: ignore[arg-type]
    assert sum(group.removed for group in plan.groups) == 60
    assert found.share(0.9) == found.size == 100


def test_scopes_put_units_in_different_orders() -> None:
    """By rank within a group, by rank within groups that are built alike, by score."""
    groups = coupled(layer("a", 8), layer("b", 8), layer("c", 8, op="Gemm"))
    values = scored(a=np.arange(8) + 100.0, b=np.arange(8) + 10.0, c=np.arange(8) + 1000.0)
    expected = {"local": [4, 4, 4], "isomorphic": [1, 7, 4], "global": [5, 7, 0]}
    for scope, removed in expected.items():
        found = order_of(groups, values, scope=scope, min_keep=0)
        assert list(found.counts(12).values()) == removed, scope


def test_a_ratio_of_a_group_s_own_is_rounded_as_without_targets() -> None:
    groups, values = coupled(layer("a", 10), layer("b", 10)), scored(a=np.arange(10), b=np.arange(10))
    plain = onnxprune.select(groups, values, ratio=0.25, ratios={"a": 0.25})
    found = order_of(groups, values, ratios={"a": 0.25})
    assert found.size == 9
    aimed = select_within(found, ["ratio=0.25"], NoMeter())  # type: ignore[arg-type]
    assert [group.removed for group in aimed.groups] == [group.removed for group in plain.groups] == [3, 3]


def test_a_ratio_that_is_a_target_holds() -> None:
    """Whole blocks go until at least so much is gone; what floors and blocks leave out of reach is refused."""
    plan = select_within(order(64, round_to=32), ["ratio=0.1"], NoMeter())  # type: ignore[arg-type]
    assert [group.removed for group in plan.groups] == [32]
    with pytest.raises(Unreachable, match=r"'ratio=0\.9' cannot be reached: at most 0\.500 of the units can go"):
        select_within(order(64, round_to=32), ["ratio=0.9"], NoMeter())  # type: ignore[arg-type]
    with pytest.raises(NothingToCut, match=r"min_keep 0\.1 and round_to 128 leave every group whole"):
        order(64, round_to=128).plan(0)


def test_edges_of_what_the_same_goes_at() -> None:
    found = order(64, round_to=16)
    assert [found.counts(length)["a"] for length in (0, 8, 9, 24, 25, 48)] == [0, 0, 16, 16, 32, 48]
    assert (found.edge(0, 48), found.edge(9, 48), found.edge(20, 48), found.edge(20, 0)) == (8, 24, 24, 9)


# Importance per cost


@pytest.mark.parametrize("kind", ["macs", "params", "activation"])
def test_what_loses_least_per_cost_loses_less(given, kind: str) -> None:
    model, coupling, scores, meter = given
    cost_of = terms_of(kind, model, meter, Widths(coupling, meter.shapes))
    target = {"macs": "macs=0.6", "params": "params=0.6", "activation": "peak-memory=0.7"}[kind]

    def lost(plan: Plan) -> float:
        return sum(float(np.sort(scores.by_group[g.name])[: g.removed].sum()) for g in plan.groups)

    per = select_within(order_of(coupling, scores, per=cost_of, per_what=kind), [target], meter)
    plain = select_within(order_of(coupling, scores, scope="global"), [target], meter)
    assert (per.meta["scope"], per.meta["per"]) == ("global", kind)
    assert (plain.meta["scope"], plain.meta["per"]) == ("global", "none")
    before, after = meter.usage({}), meter.usage({group.name: group.removed for group in per.groups})
    name = target.split("=")[0].replace("-", "_")
    assert getattr(after, name) <= float(target.split("=")[1]) * getattr(before, name)
    if kind != "activation":  # which is not what peak memory counts
        assert lost(per) < lost(plain)


def test_an_alignment_is_noted_with_its_blocks() -> None:
    found = order(64, 24, round_to=likes(SIXTEEN, EIGHT))
    plan = select_within(found, ["ratio=0.5"], NoMeter())  # type: ignore[arg-type]
    assert (plan.meta["round_to"], plan.meta["blocks"]) == ("auto", {"conv": 16, "matmul": 8})
    assert [group.removed for group in plan.groups] == [48, 8]


def test_sizes_that_a_cut_itself_adds_are_counted() -> None:
    """Split sizes and index vectors that apply writes are bytes too: the file must hold the target."""
    model = onnxprune.load(digits.model_path())
    coupling = onnxprune.analyze(model)
    scores = onnxprune.score(model, coupling, "l2")
    state = State(model, normalized=True, coupling=coupling, scores=scores)
    whole = onnxprune.cost(model).bytes
    real = Meter.usage

    def short(self: Meter, removed: Any) -> Any:
        """An estimate that is 300 bytes too low as soon as something is cut."""
        found = real(self, removed)
        return replace(found, bytes=found.bytes - 300) if any(removed.values()) else found

    patch = pytest.MonkeyPatch()
    patch.setattr(Meter, "usage", short)
    try:
        plan = Select(targets=("bytes=0.5",), round_to=1).run(state).plan
    finally:
        patch.undo()
    assert plan is not None
    assert plan.meta["targets"] == ["bytes=0.5"]
    assert onnxprune.cost(onnxprune.apply(model, plan)).bytes <= 0.5 * whole
