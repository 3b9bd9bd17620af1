"""Timing round by round: whatever slows the machine down slows every contestant of that round.

    round 1   B A C
    round 2   A C B      ratio of B in a round: A's time / B's time, of the same few milliseconds

Two runs one after the other differ by the machine's mood; the median of the rounds' ratios does not. The order is drawn
anew in each round: who comes first, or after a model that leaves the caches or the threads in a bad state, is at a
disadvantage, and in a fixed order that would always be the same one. So of two equal contestants either is the faster
one in half of the rounds, whatever the machine does (see `verdict`).
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

MIN_ROUNDS = 6
"""The fewest that a verdict can be drawn from (see `verdict`)."""
_MIN_SAMPLE = 1e-3
"""Seconds: below that a sample is repeated calls, or the clock and the call itself would be measured.

How many is told by the contestant's fastest call so far: by its latest, one hiccup would set it apart from its equals.
"""


def time_rounds(
    calls: Sequence[Callable[[], object]],
    *,
    runs: int | None = None,
    warmup: int = 3,
    seconds: float = 5.0,
    clock: Callable[[], float] = time.perf_counter,
    on_progress: Callable[[float], None] | None = None,
) -> NDArray[np.float64]:
    """Seconds per call, a row per round: `runs` rounds, or what fits into `seconds`, but at least six."""
    fastest = [math.inf] * len(calls)
    order = random.Random(0)
    rounds: list[list[float]] = []

    def one_round(*, repeated: bool) -> list[float]:
        times = [0.0] * len(calls)
        for index in order.sample(range(len(calls)), len(calls)):
            repeat = max(1, math.ceil(_MIN_SAMPLE / max(fastest[index], 1e-7))) if repeated else 1
            times[index] = _time(calls[index], repeat, clock)
            fastest[index] = min(fastest[index], times[index])
        return times

    for _ in range(warmup):
        one_round(repeated=False)
    with _no_garbage_collection():
        start = clock()
        done = False
        while not done:
            rounds.append(one_round(repeated=True))
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
