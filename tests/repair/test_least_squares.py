"""Against NumPy's least squares, and against everything that could make a system of equations fall over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from onnxprune.repair.least_squares import RIDGES, Samples, Solution, Sums, evidence, solved

Array = np.ndarray[Any, Any]
Kind = Callable[[int, int, int], Any]
KINDS = pytest.mark.parametrize("kind", [Sums, Samples])
BIASED = pytest.mark.parametrize("biased", [True, False])


def rows(groups: int, count: int, features: int, *, seed: int = 0) -> Array:
    """Correlated, and with a mean."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((groups, features, features)) / features**0.5 + np.eye(features)
    return (rng.standard_normal((groups, count, features)) @ mixing + rng.standard_normal(features)).astype(np.float32)


def linear(groups: int, outputs: int, features: int, *, biased: bool, seed: int = 1) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((groups, outputs, features))
    return weight, rng.standard_normal((groups, outputs)) * biased


def made(x: Array, weight: Array, bias: Array) -> Array:
    return x.astype(np.float64) @ weight.transpose(0, 2, 1) + bias[:, None, :]


def gathered(kind: Kind, x: Array, y: Array, parts: int = 3) -> Any:
    found = kind(x.shape[0], x.shape[2], y.shape[2])
    for a, b in zip(np.array_split(x, parts, axis=1), np.array_split(y, parts, axis=1), strict=True):
        found.add(a, b)
    return found


def solve(kind: Kind, x: Array, y: Array, weight: Array, bias: Array, *, biased: bool, **more: Any) -> Solution:
    apart = max(1, x.shape[1] // 4)
    fit, check = gathered(kind, x[:, apart:], y[:, apart:]), gathered(kind, x[:, :apart], y[:, :apart])
    return solved(fit, check, weight, bias, biased=biased, **more)


def mean_error(x: Array, y: Array, weight: Array, bias: Array) -> float:
    return float(np.square(y - made(x, weight, bias)).sum() / x.shape[1])


def test_many_rows_are_summed_and_few_are_kept() -> None:
    x, y = np.zeros((2, 5, 9)), np.zeros((2, 5, 4))
    assert isinstance(evidence(x, y, rows=10), Sums)
    assert isinstance(evidence(x, y, rows=9), Samples)
    assert evidence(x, y, rows=10).xx.shape == (2, 9, 9)  # type: ignore[attr-defined]


@KINDS
@BIASED
def test_linear_outputs_give_their_weights(kind: Kind, biased: bool) -> None:
    x = rows(3, 200, 12)
    weight, bias = linear(3, 5, 12, biased=biased)
    start = np.zeros_like(weight), np.zeros_like(bias)
    found = solve(kind, x, made(x, weight, bias), *start, biased=biased)
    np.testing.assert_allclose(found.weight, weight, atol=1e-4)
    np.testing.assert_allclose(found.bias, bias, atol=1e-4)
    assert found.before > 0.5
    assert 0 <= found.after < 1e-8


@pytest.mark.parametrize(("kind", "count"), [(Sums, 60), (Samples, 6)])
@BIASED
def test_without_a_ridge_it_is_numpy_s_least_squares(kind: Kind, count: int, biased: bool) -> None:
    """Where there are fewer rows than features, the solution that is nearest to where it was."""
    x, rng = rows(2, count, 7), np.random.default_rng(2)
    y = rng.standard_normal((2, count, 4))
    start, fixed = rng.standard_normal((2, 4, 7)), rng.standard_normal((2, 4))
    nearest = gathered(kind, x, y).nearest(start, fixed, np.ones((2, 4), bool), biased=biased)
    weight, bias = nearest(np.full(2, 1e-13))
    gap = y - made(x, start, fixed)
    for group in range(2):
        a, b = x[group].astype(np.float64), gap[group]
        if biased:
            a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        expected = start[group] + np.linalg.lstsq(a, b, rcond=None)[0].T
        np.testing.assert_allclose(weight[group], expected, atol=1e-6)
        middle = y[group].mean(axis=0) - expected @ x[group].mean(axis=0)
        np.testing.assert_allclose(bias[group], middle if biased else fixed[group], atol=1e-6)


@KINDS
@BIASED
@pytest.mark.parametrize("ridge", RIDGES)
def test_a_ridge_pulls_to_where_it_was(kind: Kind, biased: bool, ridge: float) -> None:
    """The same as rows of another kind: sqrt(n r) times each unit vector, which W0 maps to where it does."""
    x, rng = rows(1, 40, 6), np.random.default_rng(3)
    y, start, fixed = rng.standard_normal((1, 40, 3)), rng.standard_normal((1, 3, 6)), rng.standard_normal((1, 3))
    weight, bias = gathered(kind, x, y).nearest(start, fixed, np.ones((1, 3), bool), biased=biased)(np.full(1, ridge))
    a, b = x[0].astype(float), y[0] - (0 if biased else fixed[0])
    off, to = (a.mean(axis=0), b.mean(axis=0)) if biased else (np.zeros(6), np.zeros(3))
    a, b = a - off, b - to
    strength = (40 * ridge * np.square(a).mean()) ** 0.5
    a, b = np.vstack([a, strength * np.eye(6)]), np.vstack([b, strength * start[0].T])
    expected = np.linalg.lstsq(a, b, rcond=None)[0].T
    np.testing.assert_allclose(weight[0], expected, atol=1e-6)
    np.testing.assert_allclose(bias[0], to - expected @ off if biased else fixed[0], atol=1e-6)


@BIASED
def test_both_kinds_find_the_same(biased: bool) -> None:
    x, rng = rows(2, 48, 30), np.random.default_rng(4)
    weight, bias = linear(2, 5, 30, biased=biased)
    y = made(x, weight, bias) + rng.standard_normal((2, 48, 5))
    start = weight + 0.3 * rng.standard_normal(weight.shape), bias
    sums, samples = (solve(kind, x, y, *start, biased=biased) for kind in (Sums, Samples))
    np.testing.assert_allclose(sums.weight, samples.weight, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sums.bias, samples.bias, rtol=1e-5, atol=1e-5)
    assert (sums.before, sums.after) == pytest.approx((samples.before, samples.after), rel=1e-6)
    assert sums.after < 0.9 * sums.before


@KINDS
@BIASED
def test_errors_and_powers_are_those_of_the_rows(kind: Kind, biased: bool) -> None:
    x, rng = rows(3, 50, 6), np.random.default_rng(5)
    y = rng.standard_normal((3, 50, 4)) + 3
    weight, bias = linear(3, 4, 6, biased=biased)
    found = gathered(kind, x, y)
    np.testing.assert_allclose(found.power(), np.square(y).mean(axis=1).sum(axis=1))
    np.testing.assert_allclose(found.spread(), y.var(axis=1).sum(axis=1))
    np.testing.assert_allclose(found.error(weight, bias), np.square(y - made(x, weight, bias)).sum(axis=2).mean(axis=1))
    other = gathered(kind, x[:, :7], y[:, :7])
    found.absorb(other)
    assert found.count == 57
    twice = gathered(kind, np.concatenate([x, x[:, :7]], axis=1), np.concatenate([y, y[:, :7]], axis=1))
    np.testing.assert_allclose(found.error(weight, bias), twice.error(weight, bias))


@KINDS
@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("count", [8, 20, 80])
def test_what_was_kept_apart_never_gets_worse(kind: Kind, noise: float, count: int) -> None:
    for seed in range(5):
        x, rng = rows(1, count, 10, seed=seed), np.random.default_rng(seed)
        weight, bias = linear(1, 4, 10, biased=True)
        y = made(x, weight, bias) + noise * rng.standard_normal((1, count, 4))
        start = weight + 0.1 * rng.standard_normal(weight.shape), bias
        apart = count // 4
        fit, check = gathered(kind, x[:, apart:], y[:, apart:]), gathered(kind, x[:, :apart], y[:, :apart])
        found = solved(fit, check, *start, biased=True)
        assert found.after <= found.before
        assert mean_error(x, y, found.weight, found.bias) <= mean_error(x, y, *start) * (1 + 1e-9)
        if noise == 0 and count == 80:
            assert found.after < 1e-9 < found.before


@KINDS
def test_more_noise_takes_a_stronger_ridge(kind: Kind) -> None:
    """Few rows, good weights: what is learned is mostly noise, and should stay small."""
    x = rows(1, 30, 20)
    weight, bias = linear(1, 4, 20, biased=True)
    distances = []
    for noise in (0.0, 0.3, 3.0):
        y = made(x, weight, bias) + noise * np.random.default_rng(6).standard_normal((1, 30, 4))
        found = solve(kind, x, y, weight * 1.05, bias, biased=True)
        distances.append(float(np.square(found.weight - weight).sum() / np.square(weight).sum()) ** 0.5)
    assert distances[0] < 0.05
    assert distances[2] < 0.5, "a plain solution would be several times the weights"


@KINDS
def test_groups_are_independent(kind: Kind) -> None:
    """Each alone gives, to the last bits, what all together give."""
    x, rng = rows(40, 16, 5), np.random.default_rng(7)
    x[1] *= 1e-6
    x[2] *= 1e6
    weight, bias = linear(40, 3, 5, biased=True)
    y = made(x, weight, bias) + 10.0 ** rng.uniform(-2, 2, (40, 1, 1)) * rng.standard_normal((40, 16, 3))
    start = weight + 0.3 * rng.standard_normal(weight.shape), bias
    together = solve(kind, x, y, *start, biased=True)
    for group in range(40):
        one = slice(group, group + 1)
        alone = solve(kind, x[one], y[one], start[0][one], start[1][one], biased=True)
        np.testing.assert_allclose(together.weight[one], alone.weight, rtol=1e-7)
        np.testing.assert_allclose(together.bias[one], alone.bias, rtol=1e-7)


@KINDS
@BIASED
def test_outputs_that_are_not_free_keep_their_weights(kind: Kind, biased: bool) -> None:
    x = rows(1, 60, 5)
    weight, bias = linear(1, 4, 5, biased=biased)
    free = np.array([[True, False, True, False]])
    start = np.zeros_like(weight), np.zeros_like(bias)
    y = made(x, weight, bias)
    found = solve(kind, x, y, *start, biased=biased, free=free)
    np.testing.assert_allclose(found.weight[free], weight[free], atol=1e-5)
    np.testing.assert_array_equal(found.weight[~free], 0)
    expected = y.mean(axis=1) if biased else np.zeros((1, 4))
    np.testing.assert_allclose(found.bias[~free], expected[~free], atol=1e-5)


def hopeless() -> dict[str, tuple[Array, Array]]:
    x, rng = rows(2, 40, 6), np.random.default_rng(8)
    y = rng.standard_normal((2, 40, 3)).astype(np.float32)
    dead, twins, ones = x.copy(), x.copy(), np.ones_like(x)
    dead[:, :, [1, 4]] = 0
    dead[1] = 0
    twins[:, :, 1:] = twins[:, :, :1]
    return {
        "dead channels": (dead, y),
        "nothing but zeros": (0 * x, 0 * y),
        "nothing to read": (0 * x, y),
        "nothing to make": (x, 0 * y),
        "always the same": (ones, ones[:, :, :3]),
        "channels that are equal": (twins, y),
        "one row": (x[:, :1], y[:, :1]),
        "two rows": (x[:, :2], y[:, :2]),
        "fewer rows than features": (x[:, :5], y[:, :5]),
        "one row many times": (np.repeat(x[:, :1], 40, axis=1), np.repeat(y[:, :1], 40, axis=1)),
        "no rows": (x[:, :0], y[:, :0]),
        "tiny": (x * np.float32(1e-20), y * np.float32(1e-20)),
        "tiny to huge": (x * np.float32(1e-18), y * np.float32(1e18)),
        "huge": (x * np.float32(1e20), y * np.float32(1e20)),
        "denormal": (x * np.float32(1e-42), y * np.float32(1e-42)),
        "far from zero": (x + np.float32(1e4), y),
        "one of a million": (x * np.float32(10.0) ** np.arange(-6, 6, 2), y),
    }


@KINDS
@BIASED
@pytest.mark.parametrize("case", hopeless())
def test_nothing_makes_weights_that_are_no_numbers(kind: Kind, biased: bool, case: str) -> None:
    x, y = hopeless()[case]
    rng = np.random.default_rng(9)
    start = rng.standard_normal((2, 3, 6)), rng.standard_normal((2, 3))
    found = solve(kind, x, y, *start, biased=biased)
    assert np.isfinite(found.weight).all()
    assert np.isfinite(found.bias).all()
    assert np.isfinite([found.before, found.after]).all()
    assert found.after <= found.before
    if x.shape[1]:
        assert mean_error(x, y, found.weight, found.bias) <= mean_error(x, y, *start) * (1 + 1e-9)


@KINDS
@pytest.mark.parametrize("scale", [1e-20, 1e-10, 1.0, 1e10, 1e18])
@pytest.mark.parametrize("to", [1e-20, 1.0, 1e18])
def test_scales_do_not_matter(kind: Kind, scale: float, to: float) -> None:
    x = rows(1, 80, 6).astype(np.float64)
    weight, bias = linear(1, 3, 6, biased=True)
    y = made(x, weight, bias)
    rng = np.random.default_rng(10)
    start = weight + rng.standard_normal(weight.shape), bias + 1
    plain = solve(kind, x, y, *start, biased=True)
    scaled = solve(kind, x * scale, y * to, start[0] * to / scale, start[1] * to, biased=True)
    np.testing.assert_allclose(scaled.weight * scale / to, plain.weight, rtol=1e-6)
    np.testing.assert_allclose(scaled.bias / to, plain.bias, rtol=1e-6)
    assert scaled.after < 1e-9 < scaled.before


@KINDS
def test_dead_channels_are_left_as_they_were(kind: Kind) -> None:
    x = rows(1, 80, 6)
    x[:, :, 2] = 0
    weight, bias = linear(1, 3, 6, biased=True)
    start = np.zeros_like(weight) + 7, bias
    found = solve(kind, x, made(x, weight, bias), *start, biased=True)
    np.testing.assert_allclose(found.weight[:, :, 2], 7)
    others = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(found.weight[:, :, others], weight[:, :, others], atol=1e-4)


@KINDS
@pytest.mark.parametrize("empty", ["fit", "check"])
def test_one_half_without_rows(kind: Kind, empty: str) -> None:
    x, y = rows(1, 20, 4), np.random.default_rng(11).standard_normal((1, 20, 2))
    full, none = gathered(kind, x, y), kind(1, 4, 2)
    start = np.ones((1, 2, 4)), np.zeros((1, 2))
    found = solved(*((none, full) if empty == "fit" else (full, none)), *start, biased=True)
    np.testing.assert_array_equal(found.weight, start[0])
    assert found.before == found.after


@KINDS
def test_what_fits_already_is_not_touched(kind: Kind) -> None:
    x = rows(2, 60, 5)
    weight, bias = linear(2, 3, 5, biased=True)
    y = made(x, weight, bias).astype(np.float32)
    y[1] += 1
    found = solve(kind, x, y, weight, bias, biased=True)
    np.testing.assert_array_equal(found.weight[0], weight[0])
    np.testing.assert_array_equal(found.bias[0], bias[0])
    np.testing.assert_allclose(found.bias[1], bias[1] + 1, atol=1e-5)
    again = solve(kind, x[:1], y[:1], weight[:1], bias[:1], biased=True)
    assert again.weight is not None
    assert again.after == again.before < 1e-12


class Counted(Sums):
    """Counts how often its system is solved."""

    def __init__(self, groups: int, features: int, outputs: int) -> None:
        super().__init__(groups, features, outputs)
        self.ridges: list[float] = []

    def nearest(self, *given: Any, **more: Any) -> Any:
        solve = super().nearest(*given, **more)

        def counted(ridge: Array) -> Any:
            self.ridges.append(float(ridge.max()))
            return solve(ridge)

        return counted


def test_no_more_systems_are_solved_than_need_be() -> None:
    """None where nothing is to be gained, and no stronger ridges than help."""
    x = rows(1, 400, 6)
    weight, bias = linear(1, 3, 6, biased=True)
    y = made(x, weight, bias)
    fit, check = gathered(Counted, x[:, 100:], y[:, 100:].astype(np.float32)), gathered(Sums, x[:, :100], y[:, :100])
    solved(fit, check, weight, bias, biased=True)
    assert fit.ridges == []
    fit, check = gathered(Counted, x[:, 100:], y[:, 100:]), gathered(Sums, x[:, :100], y[:, :100])
    solved(fit, check, 2 * weight, bias, biased=True)
    assert fit.ridges == [RIDGES[0], RIDGES[1], RIDGES[0]]


def test_sums_do_not_depend_on_how_rows_come() -> None:
    x, y = rows(2, 100, 5), np.random.default_rng(12).standard_normal((2, 100, 3))
    one, many = gathered(Sums, x, y, parts=1), gathered(Sums, x, y, parts=40)
    for name in ("x", "y", "xx", "yx", "yy", "count"):
        np.testing.assert_allclose(getattr(one, name), getattr(many, name), rtol=1e-12)
