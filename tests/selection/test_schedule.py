"""Pruning in steps: how much is left when, and that what went stays gone while scores are those of what is left."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import onnxprune
from onnxprune import UserError, passes
from onnxprune.analysis.coupling import Coupling
from onnxprune.cutting import plan_json
from onnxprune.cutting.plan import Plan
from onnxprune.models_zoo import digits
from onnxprune.passes import Analyze, Normalize, Score, Select, Steps, Verify
from onnxprune.pipeline.manager import PassManager, State
from onnxprune.selection.schedule import SCHEDULES, continued, gone, left_after, remaining
from onnxprune.selection.select import field_of, plan_of


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.8, 0.6, 0.4, 0.2]),
        ("exponential", [0.2**0.25, 0.2**0.5, 0.2**0.75, 0.2]),
        ("cubic", [1 - 0.8 * (1 - 0.75**3), 1 - 0.8 * (1 - 0.5**3), 1 - 0.8 * (1 - 0.25**3), 0.2]),
    ],
)
def test_what_is_left_after_each_step(schedule: str, expected: list[float]) -> None:
    assert [left_after(schedule, 0.2, step, 4) for step in (1, 2, 3, 4)] == pytest.approx(expected)


def test_every_schedule_falls_and_ends_where_it_should() -> None:
    for schedule in SCHEDULES:
        left = [left_after(schedule, 0.3, step, 7) for step in range(8)]
        assert left[0] == pytest.approx(1.0)
        assert left[-1] == 0.3
        assert all(a > b for a, b in pairwise(left))


@pytest.fixture(scope="module")
def model() -> onnxprune.Model:
    return onnxprune.load(digits.model_path())


@pytest.fixture(scope="module")
def coupling(model: onnxprune.Model) -> Coupling:
    return onnxprune.analyze(model)


def some_plan(model: onnxprune.Model, coupling: Coupling) -> tuple[Plan, dict[str, set[int]]]:
    """A few units of each group, drawn at random."""
    scores = onnxprune.score(model, coupling, "random", seed=3)
    counts = {group.name: index % 4 + 1 for index, group in enumerate(coupling.groups)}
    plan = plan_of(field_of(coupling, scores, 1, 0.1), scores, counts, {})
    return plan, {name: set(np.argsort(scores.by_group[name])[:count].tolist()) for name, count in counts.items()}


def test_gone_reads_the_units_off_a_plan(model: onnxprune.Model, coupling: Coupling) -> None:
    plan, units = some_plan(model, coupling)
    assert {name: set(found.tolist()) for name, found in gone(coupling, plan).items()} == units


def test_scores_of_what_remains_are_those_of_the_pruned_model(model: onnxprune.Model, coupling: Coupling) -> None:
    """Analysing the pruned model anew must give the same groups, hence the same scores."""
    plan, units = some_plan(model, coupling)
    pruned = onnxprune.apply(model, plan)
    quick = onnxprune.score(pruned, remaining(coupling, plan), "l2")
    anew = onnxprune.score(pruned, onnxprune.analyze(pruned), "l2")
    assert set(quick.by_group) == set(anew.by_group)
    for name, values in anew.by_group.items():
        np.testing.assert_allclose(quick.by_group[name], values, rtol=1e-6)
    whole = continued(coupling, plan, quick)
    for name, lost in units.items():
        assert set(np.flatnonzero(np.isneginf(whole.by_group[name])).tolist()) == lost
        kept = np.setdiff1d(np.arange(coupling.group(name).size), list(lost))
        np.testing.assert_array_equal(whole.by_group[name][kept], quick.by_group[name])


def manager(steps: Steps) -> PassManager:
    return PassManager([Normalize(), Analyze(), steps])


def run(steps: Steps) -> State:
    return manager(steps).run(str(digits.model_path()))


def units_of(coupling: Coupling, plan: Plan) -> dict[str, set[int]]:
    return {name: set(found.tolist()) for name, found in gone(coupling, plan).items()}


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_what_went_stays_gone_and_the_end_is_what_was_asked_for(
    coupling: Coupling, tmp_path: Path, schedule: str
) -> None:
    select = Select(ratio=0.5, round_to=1)
    state = run(Steps(Score("l2"), select, Verify(), 4, schedule, tmp_path / "run"))
    plans = [plan_json.load(tmp_path / "run" / f"step-{step:04d}.json") for step in (1, 2, 3, 4)]
    assert state.plan is not None
    assert state.plan.cuts == plans[-1].cuts
    assert all(group.removed == group.units // 2 for group in plans[-1].groups)
    for before, after in pairwise(plans):
        first, second = units_of(coupling, before), units_of(coupling, after)
        assert all(lost <= second[name] for name, lost in first.items())
    assert units_of(coupling, plans[0]) != units_of(coupling, plans[-1])


def test_targets_are_approached_in_steps(model: onnxprune.Model, tmp_path: Path) -> None:
    select = Select(targets=("macs=0.4",), scope="global", round_to=1)
    state = run(Steps(Score("l2"), select, Verify("structural"), 3, "exponential", tmp_path))
    assert state.plan is not None
    assert state.plan.meta["targets"] == ["macs=0.4"]
    assert state.plan.meta["steps"] == 3
    whole = onnxprune.cost(model).macs
    shares = []
    for step in (1, 2, 3):
        plan = plan_json.load(tmp_path / f"step-{step:04d}.json")
        shares.append(onnxprune.cost(onnxprune.apply(model, plan)).macs / whole)
    wanted = [0.4 ** (1 / 3), 0.4 ** (2 / 3), 0.4]
    assert all(limit - 0.05 < share <= limit for share, limit in zip(shares, wanted, strict=True))


def test_absolute_targets_are_approached_too(model: onnxprune.Model) -> None:
    limit = onnxprune.cost(model).params * 0.6
    state = run(Steps(select=Select(targets=(f"params={limit / 1e3}k",), round_to=1), steps=2))
    assert state.plan is not None
    assert 0.55 * limit / 0.6 < onnxprune.cost(onnxprune.apply(model, state.plan)).params <= limit


def test_a_stopped_run_goes_on_after_its_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(Score("l2"), Select(ratio=0.5, round_to=1), Verify("structural"), 4, "linear", tmp_path)
    straight = run(steps).plan
    (tmp_path / "step-0003.json").unlink()
    (tmp_path / "step-0004.json").unlink()
    scored: list[int] = []
    real = passes.Score.run

    def counted(self: Score, state: State) -> State:
        scored.append(1)
        return real(self, state)

    monkeypatch.setattr(passes.Score, "run", counted)
    state = run(steps)
    assert len(scored) == 2
    assert straight is not None
    assert state.plan is not None
    assert state.plan.cuts == straight.cuts
    assert any("going on after step 2 of 4" in note for note in state.notes)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run(Steps(select=Select(ratio=0.5, round_to=1), steps=2, folder=tmp_path, verify=Verify("off")))
    with pytest.raises(UserError, match="holds another run"):
        run(Steps(select=Select(ratio=0.4, round_to=1), steps=2, folder=tmp_path, verify=Verify("off")))


def test_files_of_other_steps_are_not_believed(tmp_path: Path) -> None:
    steps = Steps(Score("l2"), Select(ratio=0.5, round_to=1), Verify("structural"), 3, "linear", tmp_path)
    straight = run(steps).plan
    (tmp_path / "step-0003.json").write_text((tmp_path / "step-0001.json").read_text("utf-8"))
    (tmp_path / "step-0002.json").write_text('{"a')
    state = run(steps)
    assert straight is not None
    assert state.plan is not None
    assert state.plan.cuts == straight.cuts
    assert sum("damaged or is of another step" in note for note in state.notes) == 2
    assert any("going on after step 1 of 3" in note for note in state.notes)


def test_groups_that_analysis_was_not_to_offer_are_another_run(tmp_path: Path) -> None:
    select = Select(ratio=0.5, round_to=1)
    run(Steps(select=select, steps=2, folder=tmp_path, verify=Verify("off")))
    some = Steps(select=replace(select, exclude=("stem.*",)), steps=2, folder=tmp_path, verify=Verify("off"))
    with pytest.raises(UserError, match="holds another run"):
        run(some)


def test_a_step_that_cannot_be_taken_is_named() -> None:
    with pytest.raises(UserError, match=r"step 2 of 2: target 'macs=0\.0001' cannot be reached"):
        run(Steps(select=Select(targets=("macs=0.0001",), round_to=1), steps=2, verify=Verify("off")))


def test_steps_too_small_for_a_block_are_passed_over(tmp_path: Path) -> None:
    """Of 64 units in blocks of 16, a tenth is none: only the later steps cut something."""
    run(Steps(select=Select(ratio=0.3, round_to=16), steps=6, folder=tmp_path, verify=Verify("off")))
    there = sorted(path.name for path in tmp_path.glob("step-*.json"))
    assert 0 < len(there) < 6
    assert there[-1] == "step-0006.json"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 0}, "steps must be"), ({"steps": 10_000}, "steps must be"), ({"schedule": "square"}, "schedule must")],
)
def test_what_cannot_be_is_refused_before_anything_runs(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        manager(Steps(**options))  # type: ignore[arg-type]


def test_only_scores_that_were_not_normalised_compare_between_groups(
    model: onnxprune.Model, coupling: Coupling
) -> None:
    scores = onnxprune.score(model, coupling, "l2")
    assert not scores.comparable
    assert onnxprune.score(model, coupling, "l2", normalize="none").comparable
    weights = {group.name: float(index) for index, group in enumerate(coupling.groups)}
    weighed = scores.weighed(weights)
    for index, group in enumerate(coupling.groups):
        expected = scores.by_group[group.name] * max(index, 1e-12)
        np.testing.assert_array_equal(weighed.by_group[group.name], expected)


def test_work_is_what_magnitudes_are_weighed_by(model: onnxprune.Model, coupling: Coupling) -> None:
    """Without weights, groups of few and dear units would lose everything that their floors leave to lose."""
    scores = onnxprune.score(model, coupling, "l2")
    deepest = []
    for found in (scores, replace(scores, normalize="none")):
        state = State(model, normalized=True, coupling=coupling, scores=found)
        plan = Select(per="macs", round_to=1, targets=("ratio=0.3",)).run(state).plan
        assert plan is not None
        deepest.append(max(group.removed / group.units for group in plan.groups))
    assert deepest[0] < 0.75 < 0.85 < deepest[1]


def test_steps_tell_how_far_they_are(tmp_path: Path) -> None:
    heard: list[float] = []
    select, check = Select(ratio=0.3, round_to=1), Verify(mode="off")
    quiet = Steps(select=select, verify=check, steps=3, folder=tmp_path / "run")
    model = onnxprune.load(digits.model_path())
    first = PassManager([Normalize(), Analyze(), quiet]).run(model)
    again = PassManager([Normalize(), Analyze(), replace(quiet, on_progress=heard.append)]).run(model)
    assert any("going on after step 3 of 3" in note for note in again.notes), "who is told makes no other run"
    assert first.plan is not None
    PassManager([Normalize(), Analyze(), replace(quiet, folder=None, on_progress=heard.append)]).run(model)
    assert heard == pytest.approx([1 / 3, 2 / 3])
