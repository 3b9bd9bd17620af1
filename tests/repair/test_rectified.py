"""What an activation hides is not fitted: less error where it shows, and never more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from building import Net
from oracle import prepared

from onnxprune.repair.consumers import Consumers
from onnxprune.repair.rectified import FEWEST, Hidden, Shown, shown

Array = np.ndarray[Any, Any]
INF = float("inf")


def rows(seed: int = 0, *, groups: int = 1, count: int = 4000, seen: int = 6, outputs: int = 5) -> tuple[Array, Array]:
    """Some of the features that wanted outputs were made of; the rest is missed."""
    weight = np.random.default_rng(9).standard_normal((groups, outputs, 2 * seen)) / seen**0.5
    whole = np.random.default_rng(seed).standard_normal((groups, count, 2 * seen)).astype(np.float32)
    return whole[:, :, :seen], (whole @ weight.transpose(0, 2, 1) - 0.3).astype(np.float32)


def plain(x: Array, t: Array) -> tuple[Array, Array]:
    """Least squares of all that is wanted."""
    ones = np.ones((x.shape[1], 1))
    pairs = zip(x, t, strict=True)
    found = [np.linalg.lstsq(np.hstack([a, ones]).astype(np.float64), b, rcond=None)[0].T for a, b in pairs]
    both = np.stack(found)
    return both[:, :, :-1], both[:, :, -1]


def seen_error(
    x: Array, t: Array, weight: Array, bias: Array, low: float, high: float, z: Array | float = 0.0
) -> float:
    p = x.astype(np.float64) @ weight.transpose(0, 2, 1) + bias[:, None]
    return float(np.square(np.clip(t, low, high) - np.clip(p, low, high)).sum())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("low", "high", "share"), [(0.0, INF, 0.96), (-1.0, 1.0, 0.97), (-INF, 0.0, 0.96)])
def test_what_shows_comes_closer(groups: int, low: float, high: float, share: float) -> None:
    x, t = rows(groups=groups)
    hidden = Hidden(Shown(low, high))
    for a, b in zip(np.split(x, 4, axis=1), np.split(t, 4, axis=1), strict=True):
        hidden.add(a, b, None, apart=250, parts=4)
    first = plain(x, t)
    found = hidden.refined(*first, biased=True)
    new, wanted = rows(seed=1, groups=groups, count=9000)
    before, after = (seen_error(new, wanted, *each, low, high) for each in (first, found))
    assert after < share * before


def test_what_is_added_behind_counts() -> None:
    """A summand that lifts everything above zero leaves nothing hidden."""
    x, t = rows()
    first = plain(x, t)
    found = {}
    for lift in (0.0, 100.0):
        hidden = Hidden(Shown(0.0, INF))
        hidden.add(x, t + np.float32(lift), np.full_like(t, lift), apart=1000, parts=1)
        found[lift] = hidden.refined(*first, biased=True)
    assert np.abs(found[0.0][0] - first[0]).max() > 0.05
    assert np.abs(found[100.0][0] - first[0]).max() < 0.01


def test_a_layer_without_a_bias_gets_none() -> None:
    x, t = rows()
    weight = plain(x, t)[0]
    bias = np.full((1, 5), -0.3)
    hidden = Hidden(Shown(0.0, INF))
    hidden.add(x, t, None, apart=1000, parts=1)
    found = hidden.refined(weight, bias, biased=False)
    np.testing.assert_array_equal(found[1], bias)
    assert seen_error(x, t, *found, 0.0, INF) < 0.98 * seen_error(x, t, weight, bias, 0.0, INF)


def test_of_few_rows_nothing_is_learned() -> None:
    x, t = rows(count=6 * FEWEST)
    first = plain(x, t)
    hidden = Hidden(Shown(0.0, INF))
    hidden.add(x, t, None, apart=24, parts=1)
    np.testing.assert_array_equal(hidden.refined(*first, biased=True)[0], first[0])


def test_weights_that_are_best_stay() -> None:
    """Outputs that chance alone moves: no step is better on what was kept apart."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 400, 8)).astype(np.float32)
    t = np.full((1, 400, 2), 5, np.float32)
    first = np.zeros((1, 2, 8)), np.full((1, 2), 5.0)
    hidden = Hidden(Shown(0.0, INF))
    hidden.add(x, t, None, apart=100, parts=1)
    found = hidden.refined(*first, biased=True)
    np.testing.assert_array_equal(found[0], first[0])


def test_rows_are_thinned_out_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.repair.rectified.ROOM", 16000)
    x, t = rows()
    hidden = Hidden(Shown(0.0, INF))
    for a, b in zip(np.split(x, 4, axis=1), np.split(t, 4, axis=1), strict=True):
        hidden.add(a, b, None, apart=250, parts=4)
    kept = sum(part.size for part in hidden._x) + 2 * sum(part.size for part in hidden._t)
    assert 12000 < kept <= 16000
    assert hidden._apart == [63] * 4


def ends(kind: str) -> Net:
    n = Net()
    y = n.conv(n.image(), 4, name="made")
    if kind == "relu6":
        n.output(n.op("Clip", y, n.scalar(0), n.scalar(6)))
    elif kind == "old clip":
        n = Net(opset=10)
        n.output(n.op("Clip", n.conv(n.image(), 4, name="made"), min=-1.0, max=2.0))
    elif kind == "computed clip":
        n.output(n.op("Clip", y, n.op("ReduceMin", n.scalar(3.0), keepdims=0)))
    elif kind == "both":
        n.output(n.op("Add", n.op("Relu", y), n.op("Clip", y, n.scalar(-2), n.scalar(1))))
    elif kind == "also seen":
        n.output(n.op("Add", n.op("Relu", y), y))
    elif kind == "an output":
        n.output(n.op("Relu", y), y)
    elif kind == "hard":
        n.output(n.op("HardSigmoid", y, alpha=0.25, beta=0.5))
    else:
        n.output(n.op(kind, y))
    return n


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("Relu", (0, INF)),
        ("relu6", (0, 6)),
        ("old clip", (-1, 2)),
        ("both", (-2, INF)),
        ("HardSwish", (-3, INF)),
        ("hard", (-2, 2)),
        ("Sigmoid", None),
        ("also seen", None),
        ("an output", None),
    ],
)
def test_what_shows_of_a_tensor(kind: str, expected: tuple[float, float] | None) -> None:
    model = prepared(ends(kind).proto())
    found = shown("made.out", Consumers(model))
    assert (found and (found.low, found.high)) == expected
