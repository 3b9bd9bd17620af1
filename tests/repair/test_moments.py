"""The same numbers as NumPy finds in the whole, whatever the batches, and where plain sums would cancel."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.repair import moments
from onnxprune.repair.moments import Moments


@pytest.mark.parametrize(("shape", "axis"), [((20, 3, 4, 5), 1), ((20, 3), 1), ((20, 7, 3), -1)])
@pytest.mark.parametrize("block", [1, 100, 1 << 22])
def test_batches_join_to_the_whole(
    shape: tuple[int, ...], axis: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "_BLOCK", block)
    rng = np.random.default_rng(0)
    a = rng.standard_normal(shape) * 3 + 5
    b = 0.5 * a + rng.standard_normal(shape)
    found = Moments(axis)
    for part in (slice(0, 7), slice(7, 7), slice(7, 8), slice(8, 20)):
        found.add(a[part], b[part])
    rows = [np.moveaxis(each, axis, 0).reshape(3, -1) for each in (a, b)]
    assert found.count == rows[0].shape[1]
    np.testing.assert_allclose(found.mean, [row.mean(axis=1) for row in rows], rtol=1e-12)
    for channel in range(3):
        expected = np.cov([row[channel] for row in rows], bias=True)
        np.testing.assert_allclose(found.covariance[:, :, channel], expected, rtol=1e-10)
        assert expected[0, 1] > 0.2


def test_a_large_mean_does_not_drown_the_variance() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((64, 2, 8, 8)) * 0.01 + 1000).astype(np.float32)
    found = Moments(1)
    for batch in np.split(x, 16):
        found.add(batch)
    expected = x.astype(np.float64).var(axis=(0, 2, 3))
    np.testing.assert_allclose(found.covariance[0, 0], expected, rtol=1e-6)


def test_nothing_has_no_moments() -> None:
    found = Moments(1)
    found.add(np.zeros((0, 3, 2)))
    assert (found.count, found.covariance.shape) == (0, (1, 1, 0))
