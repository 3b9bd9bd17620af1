"""The search for the deepest cut: what it returns was measured and held, and it asks for few models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import onnxprune
from onnxprune import UserError
from onnxprune.data import Request
from onnxprune.drop import TRIES, Try, deepest, drop_of
from onnxprune.evaluate import Evaluation
from onnxprune.models_zoo import digits
from onnxprune.passes import Analyze, Normalize, Score, Select, Spare
from onnxprune.pipeline import PassManager, State

HELD_OUT = Request("onnxprune.models_zoo.digits:held_out")


@pytest.mark.parametrize("edge", [0, 1, 37, 500, 999, 1000])
def test_a_single_edge_is_found_to_a_hundredth(edge: int) -> None:
    asked: list[int] = []

    def measure(length: int) -> tuple[float, str]:
        asked.append(length)
        return (0.0 if length <= edge else 0.5), "top1"

    found = deepest(1000, 0.1, measure)
    assert edge - 10 <= found <= edge
    assert len(asked) == len(set(asked)) <= TRIES
    assert found == 0 or found in asked


def test_what_is_returned_held_even_where_damage_comes_and_goes() -> None:
    asked: dict[int, float] = {}

    def measure(length: int) -> tuple[float, str]:
        asked[length] = 0.3 if (length // 50) % 2 else 0.0
        return asked[length], "agreement"

    found = deepest(1000, 0.1, measure)
    assert found == 0 or asked[found] <= 0.1
    assert found == max((length for length, lost in asked.items() if lost <= 0.1 and length <= found), default=0)


def test_known_tries_are_not_made_again() -> None:
    told: list[Try] = []
    first = deepest(100, 0.1, lambda n: (n / 500, "top1"), on_try=told.append)
    known = {one.length: (one.drop, one.measure) for one in told}

    def never(length: int) -> tuple[float, str]:
        raise AssertionError(length)

    assert deepest(100, 0.1, never, known=known) == first == 50


def test_targets_that_lose_too_much_are_refused() -> None:
    with pytest.raises(UserError, match=r"targets need more than --max-drop 0\.1 allows.*top1 is off by 0\.2000"):
        deepest(100, 0.1, lambda n: (0.2, "top1"), least=40)
    assert deepest(100, 0.1, lambda n: (n / 500, "top1"), least=20) == 50


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


def test_the_digits_within_two_points(tmp_path: Path) -> None:
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
    assert len(kept) >= len(said)
    again: list[str] = []
    assert run(Spare(0.02, HELD_OUT, select, folder=tmp_path, on_try=again.append)).plan == state.plan
    assert again == []
    with pytest.raises(UserError, match="holds another run"):
        run(Spare(0.03, HELD_OUT, select, folder=tmp_path))
    (tmp_path / "tries.json").write_text("[{]")
    assert run(Spare(0.02, HELD_OUT, select, folder=tmp_path)).plan == state.plan


def test_nothing_to_lose() -> None:
    with pytest.raises(UserError, match="max_drop must be"):
        PassManager([Normalize(), Analyze(), Score(), Spare(1.5, HELD_OUT)])
