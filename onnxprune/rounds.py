"""Timing round by round: whatever slows the machine down slows every contestant of that round.

    round 1   A B C
    round 2   A B C      ratio of B in a round: A's time / B's time, of the same few milliseconds

Two runs one after the other differ by the machine's mood; the median of the rounds' ratios does not.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

MIN_ROUNDS = 5
_MIN_SAMPLE = 1e-3
"""Seconds: below that a sample is repeated calls, or the clock and the call itself would be measured."""


def time_rounds(
    calls: Sequence[Callable[[], object]],
    *,
    runs: int | None = None,
    warmup: int = 3,
    seconds: float = 5.0,
    clock: Callable[[], float] = time.perf_counter,
    on_progress: Callable[[float], None] | None = None,
) -> NDArray[np.float64]:
    """Seconds per call, a row per round: `runs` rounds, or what fits into `seconds`, but at least five."""
    repeats = [1] * len(calls)
    for _ in range(warmup):
        for index, call in enumerate(calls):
            repeats[index] = max(1, math.ceil(_MIN_SAMPLE / max(_time(call, 1, clock), 1e-7)))
    rounds: list[list[float]] = []
    with _no_garbage_collection():
        start = clock()
        done = False
        while not done:
            rounds.append([_time(call, repeat, clock) for call, repeat in zip(calls, repeats, strict=True)])
            elapsed = clock() - start
            adaptive = min(elapsed / max(seconds, 1e-9), len(rounds) / MIN_ROUNDS)
            part = adaptive if runs is None else len(rounds) / runs
            done = part >= 1
            if on_progress:
                on_progress(min(part, 1.0))
    return np.array(rounds)


def _time(call: Callable[[], object], repeat: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeat):
        call()
    return (clock() - start) / repeat


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
