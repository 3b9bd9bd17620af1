"""Whether one model is faster than another, or the machine was too noisy to tell.

Whatever the distribution of the rounds' ratios, each of them lies below their true median with chance 1/2. So how many
of n rounds do is binomial, and with the rounds sorted, r(1) <= ... <= r(n),

    P(r(k) <= median <= r(n+1-k))  >=  1 - 2 P(B(n, 1/2) < k)

k is the largest for which the right-hand side is at least 95 %: 1 for 6 rounds, 6 for 20, 40 for 100. With fewer than
6 rounds there is none, and nothing can be said. That takes independent rounds. Where a mood of the machine lasts for
many of them the ends are less certain than they look, but not whether 1 lies between them: which of two equal models
wins a round is decided by the order in it, and that is drawn (see `rounds`).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["reference", "faster", "slower", "about the same", "too noisy to tell"]

CONFIDENCE = 0.95
EQUAL = 0.02
"""Two models that differ by less than that are about the same, however certain the difference is."""


def median_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Where the true median of positive values lies, with 95 % confidence; from 0 to infinity with fewer than six."""
    n = len(values)
    steps = np.arange(n, dtype=np.float64)
    # the logarithms of C(n, 0), C(n, 1), ..., for C(2000, 1000) is too big for a float
    chances = np.exp(np.concatenate([[0.0], np.cumsum(np.log((n - steps) / (steps + 1)))]) - n * math.log(2))
    k = int(np.searchsorted(np.cumsum(chances), (1 - CONFIDENCE) / 2, side="right"))
    if k == 0:
        return 0.0, math.inf
    ordered = np.sort(values)
    return float(ordered[k - 1]), float(ordered[n - k])


def verdict(low: float, high: float) -> Verdict:
    """What an interval of the speed-up says."""
    if low >= 1 - EQUAL and high <= 1 + EQUAL:
        return "about the same"
    if low > 1:
        return "faster"
    if high < 1:
        return "slower"
    return "too noisy to tell"
