"""Sums of bilinear terms: what they are at any widths, what a unit saves, and what is fitted to measurements."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from by_hand import coupling, layer, slot

from onnxprune.analysis.coupling import Coupling, Group, Slot
from onnxprune.targets.terms import Floats, Term, Terms, Widths, fitted

SHAPES = {
    "a.weight": (8, 3, 3, 3),
    "b.weight": (40, 8),
    "cat": (2, 16, 4, 4),
    "flat": (2, 72),
    "heads": (6, 5, 7),
    "square": (8, 8),
    "frozen": (5, 5),
}


def fork() -> Coupling:
    """All that a slot may be: a whole axis or a part, several positions a unit, two axes of one tensor, a period."""
    first = (
        Slot("cat", 1, 16, False, "", np.arange(8), np.arange(8)),
        Slot("flat", 1, 72, False, "", np.arange(72), np.arange(72) // 9),
        slot("square", 8),
        slot("square", 8, axis=1, role="in"),
        Slot("b.weight", 1, 8, True, "in", np.arange(8), np.arange(8), "Gemm"),
        slot("unknown", 8),
        slot("frozen", 8, axis=2),
    )
    a = Group("a", (), ("Conv",), 8, (slot("a.weight", 8), *first))
    b = Group("b", (), ("Gemm",), 10, (slot("b.weight", 10, 4),))
    # 2 of 16 positions belong to nobody
    c = Group("c", (), (), 6, (Slot("cat", 1, 16, False, "", np.arange(8, 14), np.arange(6)),))
    # batch * heads: 3 heads, and 6 positions at a batch of 2
    d = Group("d", (), (), 3, (Slot("heads", 0, 3, False, "period", np.arange(3), np.arange(3)),))
    return coupling(a, b, c, d)


def ratio(tensor: str | None, removed: Mapping[str, float]) -> float:
    """By hand."""
    a, b, c, d = (removed.get(name, 0.0) for name in "abcd")
    return {
        "a.weight": 1 - a / 8,
        "b.weight": (1 - 4 * b / 40) * (1 - a / 8),
        "cat": 1 - (a + c) / 16,
        "flat": 1 - 9 * a / 72,
        "heads": 1 - d / 3,
        "square": (1 - a / 8) ** 2,
    }.get(tensor or "", 1.0)


TENSORS = [*SHAPES, "nowhere", None]


def terms(seed: int = 0, count: int = 40) -> Terms:
    rng = np.random.default_rng(seed)
    parts = [
        Term(f"t{i}", *(TENSORS[rng.integers(len(TENSORS))] for _ in "uv"), rng.uniform(0, 9, 4)) for i in range(count)
    ]
    return Terms(Widths(fork(), SHAPES), parts)


def somewhere(rng: np.random.Generator) -> dict[str, int]:
    return {name: int(rng.integers(0, size)) for name, size in (("a", 8), ("b", 10), ("c", 6), ("d", 3))}


@pytest.mark.parametrize("seed", range(5))
def test_the_sum_is_that_of_a_plain_loop(seed: int) -> None:
    found, rng = terms(seed), np.random.default_rng(seed)
    for removed in ({}, {"a": 7}, {"d": 2, "b": 9}, *(somewhere(rng) for _ in range(20))):
        values = []
        for term in found.parts:
            u, v = ratio(term.u, removed), ratio(term.v, removed)
            a, b, c, d = term.coefficients
            values.append(a + b * u + c * v + d * u * v)
        at = found.widths.array(removed)
        np.testing.assert_allclose(found.each(at), values, rtol=1e-12)
        assert found.total(at) == pytest.approx(sum(values), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_savings_are_the_derivative(seed: int) -> None:
    found, rng, step = terms(seed), np.random.default_rng(seed), 1e-4
    for removed in ({}, *(somewhere(rng) for _ in range(20))):
        at = found.widths.array(removed)
        for place, saved in enumerate(found.saved(at)):
            ahead, behind = at.copy(), at.copy()
            ahead[place] += step
            behind[place] -= step
            slope = (found.total(behind) - found.total(ahead)) / (2 * step)
            assert saved == pytest.approx(slope, rel=1e-6, abs=1e-7)
    assert (found.saved(found.widths.array({})) > 1).all(), "every group costs something"


def test_savings_shrink_on_the_way() -> None:
    """A layer between two groups: what a unit of the one saves depends on the other."""
    widths = Widths(fork(), SHAPES)
    product = Terms(widths, [Term("fc", None, "b.weight", (0, 0, 320, 0))])
    assert product.saved(widths.array({})).tolist() == [40, 32, 0, 0]
    assert product.saved(widths.array({"a": 4})).tolist() == [40, 16, 0, 0]
    assert product.saved(widths.array({"b": 5})).tolist() == [20, 32, 0, 0]
    assert product.total(widths.array({"a": 4, "b": 5})) == 80


def test_a_group_that_stands_on_two_axes_counts_twice() -> None:
    widths = Widths(fork(), SHAPES)
    square = Terms(widths, [Term("s", None, "square", (0, 0, 64, 0))])
    assert square.saved(widths.array({})).tolist() == [16, 0, 0, 0]
    assert square.saved(widths.array({"a": 6}))[0] == pytest.approx(4)
    assert square.total(widths.array({"a": 6})) == 4


def test_units_that_are_all_gone_leave_nothing() -> None:
    widths = Widths(fork(), SHAPES)
    everything = Terms(widths, [Term("w", "a.weight", "b.weight", (1, 10, 100, 1000))])
    assert everything.total(widths.array({"a": 8, "b": 10})) == 1
    assert everything.total(widths.array({"a": 80})) == 1, "a ratio is never negative"


def test_nothing_to_sum_and_nothing_to_cut() -> None:
    empty = Terms(Widths(fork(), SHAPES), [])
    assert empty.total(np.zeros(4)) == 0
    assert empty.saved(np.zeros(4)).tolist() == [0, 0, 0, 0]
    bare = Terms(Widths(coupling(), SHAPES), [Term("t", "cat", None, (1, 2, 3, 4))])
    assert bare.total(bare.widths.array({})) == 10
    assert bare.saved(bare.widths.array({})).size == 0
    hidden = Terms(Widths(coupling(layer("a", 8)), {}), [Term("t", "a.weight", None, (1, 2, 3, 4))])
    assert hidden.saved(np.zeros(1)).tolist() == [0], "no shape is known"


def test_names_that_are_not_groups_are_of_no_account() -> None:
    widths = Widths(fork(), SHAPES)
    assert widths.array({"a": 3, "nobody": 5}).tolist() == [3, 0, 0, 0]
    assert widths.ratios(widths.array({}))[widths.index("nowhere")] == 1
    assert widths.index(None) == widths.index("nowhere") == widths.index("frozen")


# Fitting

LEVELS = np.array([1.0, 0.75, 0.5, 0.25])
U, V = (values.ravel() for values in np.meshgrid(LEVELS, LEVELS))


def at(u: Floats, v: Floats, coefficients: tuple[float, ...]) -> Floats:
    a, b, c, d = coefficients
    return a + b * u + c * v + d * u * v


@pytest.mark.parametrize(
    "truth",
    [
        (0, 0, 0, 90),
        (4, 0, 0, 90),
        (0, 0, 30, 0),
        (5, 20, 0, 0),
        (0, 7, 30, 0),
        (2, 7, 30, 0),
        (1, 10, 20, 60),
        (12, 0, 0, 0),
    ],
    ids=str,
)
def test_the_truth_is_found(truth: tuple[float, ...]) -> None:
    assert fitted(U, V, at(U, V, truth)) == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize("truth", [(4, 0, 0, 90), (0, 0, 30, 0), (2, 7, 30, 0), (1, 10, 20, 60)], ids=str)
def test_noise_of_three_percent_stays_noise(truth: tuple[float, ...]) -> None:
    exact = at(U, V, truth)
    for seed in range(30):
        noisy = exact * (1 + 0.03 * np.random.default_rng(seed).standard_normal(U.size))
        found = fitted(U, V, noisy)
        assert min(found) >= 0
        np.testing.assert_allclose(at(U, V, found), exact, rtol=0.12)


def test_no_coefficient_is_negative() -> None:
    """Narrower and slower: the most that such a function can say is that the width does not matter."""
    found = fitted(U, V, 10 - 4 * U * V)
    assert found[1:] == (0, 0, 0)
    assert 6 < found[0] < 10
    for seed in range(50):
        assert min(fitted(U, V, np.random.default_rng(seed).uniform(1, 9, U.size))) >= 0


def test_small_values_count_as_much_as_large_ones() -> None:
    """Relative errors: a kernel at a quarter of its widths takes a sixteenth of its time."""
    exact = at(U, V, (3, 0, 0, 300))
    found = fitted(U, V, exact * np.where(exact > 200, 1.05, 1.0))
    np.testing.assert_allclose(at(U, V, found)[exact < 100], exact[exact < 100], rtol=0.03)


def test_widths_that_never_change_make_a_constant() -> None:
    ones = np.ones(5)
    assert fitted(ones, ones, np.array([3.0, 3, 3, 3, 3])) == pytest.approx((3, 0, 0, 0))
    assert fitted(np.ones(1), np.ones(1), np.array([7.0])) == pytest.approx((7, 0, 0, 0))


def test_where_two_columns_say_the_same_the_simplest_is_taken() -> None:
    ones = np.ones_like(V)
    assert fitted(ones, V, 2 + 8 * V) == pytest.approx((2, 0, 0, 8))
    assert fitted(V, V, 8 * V) == pytest.approx((0, 0, 8, 0))
    assert fitted(V, V, 8 * V**2) == pytest.approx((0, 0, 0, 8))


def test_a_kernel_that_takes_no_time() -> None:
    assert fitted(U, V, np.zeros_like(U)) == (0, 0, 0, 0)
