"""The search for the deepest cut: what it returns was measured and held, and it asks for few models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import onnxprune
from onnxprune import UserError
from onnxprune.accuracy.drop import TRIES, deepest, drop_of
from onnxprune.accuracy.evaluate import Evaluation, evaluate
from onnxprune.data.sources import Request
from onnxprune.models_zoo import digits
from onnxprune.passes import Analyze, Normalize, Score, Select, Spare
from onnxprune.pipeline.manager import PassManager, State

HELD_OUT = Request("onnxprune.models_zoo.digits:held_out")


@pytest.mark.parametrize("edge", [0, 1, 37, 500, 999, 1000])
def test_a_single_edge_is_found_to_a_hundredth(edge: int) -> None:
    asked: list[int] = []

    def measure(length: int) -> tuple[float, str]:
        asked.append(length)
        return (0.0 if length <= edge else 0.5), "top1"

    found = deepest(1000, 0.1, measure)
    assert edge - 10 <= found <= edge
    assert len(asked) == len(set(asked)) <= TRIES + 1
    assert found == 0 or found in asked


def test_what_is_returned_held_even_where_damage_comes_and_goes() -> None:
    asked: dict[int, float] = {}

    def measure(length: int) -> tuple[float, str]:
        asked[length] = 0.3 if (length // 50) % 2 else 0.0
        return asked[length], "agreement"

    found = deepest(1000, 0.1, measure)
    assert found == 0 or asked[found] <= 0.1
    assert found == max((length for length, lost in asked.items() if lost <= 0.1 and length <= found), default=0)


def test_what_goes_in_any_case_must_hold_as_well() -> None:
    with pytest.raises(UserError, match=r"--max-drop 0\.1 cannot be held: top1 is off by 0\.2000 with what"):
        deepest(100, 0.1, lambda n: (0.2, "top1"), least=40)
    with pytest.raises(UserError, match="cannot be held"):
        deepest(100, 0.1, lambda n: (0.2, "top1"))
    assert deepest(100, 0.1, lambda n: (n / 500, "top1"), least=20) == 50


def test_the_bound_itself_holds() -> None:
    assert deepest(10, 0.05, lambda n: (0.992 - 0.942 if n else 0.0, "top1")) == 10


def test_what_counts_as_lost() -> None:
    full = Evaluation(samples=10, top1=0.9, agreement=0.5, deviation=0.3, metric=2.0)
    assert drop_of(full, Evaluation(10, top1=0.7, agreement=0.5, metric=1.5)) == (0.5, "metric")
    assert drop_of(Evaluation(10, top1=0.9), Evaluation(10, top1=0.75, agreement=0.5))[0] == pytest.approx(0.15)
    assert drop_of(Evaluation(10), Evaluation(10, agreement=0.75, deviation=0.3)) == (0.25, "agreement")
    assert drop_of(Evaluation(10), Evaluation(10, deviation=0.3)) == (0.3, "deviation")
    with pytest.raises(UserError, match="says nothing"):
        drop_of(Evaluation(10), Evaluation(10))


def run(spare: Spare) -> State:
    return PassManager([Normalize(), Analyze(), Score("l2"), spare]).run(str(digits.model_path()))


def test_the_digits_within_two_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    select = Select(per="macs", round_to=1)
    state = run(Spare(0.02, HELD_OUT, select, folder=tmp_path, on_try=said.append))
    assert state.plan is not None
    original = onnxprune.load(digits.model_path())
    pruned = onnxprune.apply(original, state.plan)
    assert digits.accuracy(original) - digits.accuracy(pruned) <= 0.02 + 1e-9
    assert onnxprune.cost(pruned).macs < 0.9 * onnxprune.cost(original).macs
    assert any("holds" in line for line in said)
    assert any("too much" in line for line in said)
    kept = json.loads((tmp_path / "tries.json").read_text("utf-8"))
    assert len(kept) == len(said)
    again: list[str] = []
    measured = evaluated(monkeypatch)
    resumed = run(Spare(0.02, HELD_OUT, select, folder=tmp_path, on_try=again.append))
    assert resumed.plan == state.plan
    assert again == said
    assert len(measured) == 1  # the original, for what it can do
    assert any(f"going on with {len(kept)} tries" in note for note in resumed.notes)
    with pytest.raises(UserError, match="holds another run"):
        run(Spare(0.03, HELD_OUT, select, folder=tmp_path))
    (tmp_path / "tries.json").write_text("[{]")
    damaged = run(Spare(0.02, HELD_OUT, select, folder=tmp_path))
    assert damaged.plan == state.plan
    assert any("was damaged; measured anew" in note for note in damaged.notes)
    (tmp_path / "run.json").write_text("garbage")
    with pytest.raises(UserError, match="is damaged: delete it to go on"):
        run(Spare(0.02, HELD_OUT, select, folder=tmp_path))


def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every model that is run on the data."""
    found: list[int] = []

    def counted(*args: Any, **options: Any) -> Evaluation:
        found.append(1)
        return evaluate(*args, **options)

    monkeypatch.setattr("onnxprune.passes.spare.evaluate", counted)
    return found


def test_tries_of_another_order_do_not_count(tmp_path: Path) -> None:
    """They are known by what they cut: the same length of another order is another model."""
    for criterion in ("l2", "random"):
        passes = [Normalize(), Analyze(), Score(criterion), Spare(0.02, HELD_OUT, Select(round_to=1), folder=tmp_path)]
        state = PassManager(passes).run(str(digits.model_path()))
        assert state.plan is not None
        original = onnxprune.load(digits.model_path())
        lost = digits.accuracy(original) - digits.accuracy(onnxprune.apply(original, state.plan))
        assert lost <= 0.02 + 1e-9


def test_ratios_of_single_groups_are_measured_as_well() -> None:
    select = Select(round_to=1, ratios={"stem.0": 0.9, "stage3.0.conv2": 0.9})
    with pytest.raises(UserError, match=r"--max-drop 0\.02 cannot be held"):
        run(Spare(0.02, HELD_OUT, select))


def test_nothing_to_lose() -> None:
    with pytest.raises(UserError, match="max_drop must be"):
        PassManager([Normalize(), Analyze(), Score(), Spare(1.5, HELD_OUT)])
