"""Criteria are checked against their formulas, written out naively."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import UserError
from onnxprune.scoring import criteria
from onnxprune.scoring.criteria import CRITERIA, bn_scale, criterion, find, fpgm, l1, l2


def naive_fpgm(rows: np.ndarray) -> np.ndarray:
    return np.array([sum(np.linalg.norm(u.astype(np.float64) - v) for v in rows) for u in rows])


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, criteria.Criterion]:
    copy = dict(CRITERIA)
    monkeypatch.setattr(criteria, "CRITERIA", copy)
    return copy


def test_norms() -> None:
    rows = np.array([[3.0, -4.0], [0.0, 0.0], [-1.0, 1.0]], np.float32)
    np.testing.assert_allclose(l1(rows), [7, 0, 2], rtol=1e-7)
    np.testing.assert_allclose(l2(rows), [5, 0, 2**0.5], rtol=1e-7)
    np.testing.assert_allclose(bn_scale(np.array([[-2.0], [0.5]], np.float32)), [2, 0.5], rtol=1e-7)


def test_norms_do_not_overflow_float32() -> None:
    rows = np.full((2, 3), 3e38, np.float32)
    assert np.isfinite(l1(rows)).all()
    assert np.isfinite(l2(rows)).all()


@pytest.mark.parametrize(("units", "features"), [(1, 3), (5, 0), (7, 4), (37, 19), (64, 33)])
@pytest.mark.parametrize("tile", [3, 8, 1024])
def test_fpgm_is_the_sum_of_distances(monkeypatch: pytest.MonkeyPatch, units: int, features: int, tile: int) -> None:
    monkeypatch.setattr(criteria, "TILE", tile)
    rows = np.random.default_rng(0).standard_normal((units, features)).astype(np.float32)
    np.testing.assert_allclose(fpgm(rows), naive_fpgm(rows), rtol=1e-6, atol=1e-6)


def test_fpgm_tells_w_from_minus_w() -> None:
    # Both have the same norm; the one alone on its side is the farther from all.
    rows = np.array([[1.0, 2.0], [1.0, 2.0], [-1.0, -2.0]], np.float32)
    scores = fpgm(rows)
    assert scores[2] > 1.9 * scores[0]
    np.testing.assert_allclose(scores[0], 2 * 5**0.5, rtol=1e-6)
    np.testing.assert_allclose(fpgm(np.abs(rows)), 0, atol=1e-6)  # which is what scoring |w| would have said


def test_fpgm_puts_no_distance_between_a_unit_and_itself() -> None:
    # u.u + u.u - 2 u.u is not 0 in floating point, and its root is 1e-8 of the norm
    rows = 1e6 * np.random.default_rng(0).standard_normal((20, 1, 4099))
    assert [fpgm(row)[0] for row in rows] == [0] * 20


def test_fpgm_takes_views_in_any_layout() -> None:
    whole = np.random.default_rng(1).standard_normal((12, 20)).astype(np.float32)
    np.testing.assert_allclose(fpgm(whole[:, ::2].T), naive_fpgm(np.ascontiguousarray(whole[:, ::2].T)), rtol=1e-6)


@settings(deadline=None)  # a busy machine is not a failure
@given(st.integers(0, 2**32 - 1), st.integers(2, 20), st.integers(1, 12))
def test_fpgm_does_not_depend_on_the_order_of_units(seed: int, units: int, features: int) -> None:
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((units, features))
    order = generator.permutation(units)
    np.testing.assert_allclose(fpgm(rows[order]), fpgm(rows)[order], rtol=1e-6, atol=1e-6)


@settings(deadline=None)  # a busy machine is not a failure
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 30))
def test_a_promise_to_work_by_rows_is_kept(seed: int, units: int, features: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((units, features)).astype(np.float32)
    checked = 0
    for rule in CRITERIA.values():
        if rule.rowwise:
            one_by_one = np.concatenate([rule.function(rows[u : u + 1]) for u in range(units)])
            np.testing.assert_allclose(rule.function(rows), one_by_one, rtol=1e-12)
            checked += 1
    assert checked >= 3


def test_the_criteria_we_promise_exist_and_state_their_formula() -> None:
    assert {"l1", "l2", "fpgm", "bn_scale", "random"} <= set(CRITERIA)
    for name, paper in {"l1": "Li et al.", "fpgm": "He et al.", "bn_scale": "Liu et al."}.items():
        assert paper in find(name).formula
    assert (find("l1").roles, find("fpgm").roles) == (("out", "in"), ("out",))


def test_a_criterion_from_outside(registry: dict[str, criteria.Criterion]) -> None:
    @criterion("peak", roles=("out",))
    def peak(rows: np.ndarray) -> np.ndarray:
        """max |w|."""
        found: np.ndarray = np.abs(rows).max(axis=1)
        return found

    assert find("peak").function is peak
    assert find("peak").formula == "max |w|."
    assert not find("peak").rowwise  # only a criterion that promises it may be fed blocks


def test_a_name_can_only_be_taken_once(registry: dict[str, criteria.Criterion]) -> None:
    with pytest.raises(ValueError, match="'l1' is registered already"):

        @criterion("l1", roles=("out",))
        def other(rows: np.ndarray) -> np.ndarray:
            return rows[:, 0]

    assert find("l1").function is l1


@pytest.mark.parametrize("roles", [("bogus",), "out"])
def test_roles_that_no_weight_has(registry: dict[str, criteria.Criterion], roles: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"criterion 'new' cannot read '\w+': the roles are out, in, scale"):
        criterion("new", roles=roles)
    assert "new" not in registry


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(UserError) as error:
        find("fpgn")
    assert "did you mean 'fpgm'?" in str(error.value)
    assert "bn_scale, fpgm, l1, l2, random" in str(error.value)
    assert "\n" not in str(error.value)
