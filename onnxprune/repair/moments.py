"""Mean, variance and covariance of tensors channel by channel, over as much data as there is.

Two parts a and b of the data are joined as Chan, Golub and LeVeque do, so that no large sums are subtracted:

    mean = mean_a + d n_b / n        M2 = M2_a + M2_b + d d' n_a n_b / n        with d = mean_b - mean_a
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BLOCK = 1 << 22
"""Numbers that are looked at in float64 at a time."""


class Moments:
    """Of several tensors of one shape, or of one."""

    def __init__(self, axis: int) -> None:
        self._axis = axis
        """Where the channels are; counted from the end, or from the second axis on."""
        self.count = 0
        """Numbers of each channel."""
        self.mean: Floats = np.zeros((1, 0))
        """(tensors, channels)."""
        self._products: Floats = np.zeros((1, 1, 0))

    @property
    def covariance(self) -> Floats:
        """(tensors, tensors, channels); the variances lie on the diagonal."""
        return self._products / max(self.count, 1)

    def add(self, *arrays: NDArray[Any]) -> None:
        """A batch of each tensor; the first axis is one of samples."""
        if not arrays[0].size:
            return
        step = max(1, _BLOCK * len(arrays[0]) // arrays[0].size)
        for start in range(0, len(arrays[0]), step):
            parts = [np.moveaxis(array[start : start + step], self._axis, 0) for array in arrays]
            self._join(np.stack([part.reshape(len(part), -1).astype(np.float64) for part in parts]))

    def _join(self, rows: Floats) -> None:
        count, mean = rows.shape[2], rows.mean(axis=2)
        rows -= mean[:, :, None]
        products = np.einsum("icn,jcn->ijc", rows, rows)
        if not self.count:
            self.count, self.mean, self._products = count, mean, products
            return
        gap, whole = mean - self.mean, self.count + count
        self._products += products + gap[:, None] * gap[None] * (self.count * count / whole)
        self.mean = self.mean + gap * (count / whole)
        self.count = whole
