"""However the program is told to end, what it has begun is taken back first: SIGTERM and SIGHUP interrupt like Ctrl-C.

A `KeyboardInterrupt` passes every `except Exception`, and every temporary file hangs on a `finally`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""What shells make of SIGINT: 128 and its number."""

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Ended(KeyboardInterrupt):
    """Told to end by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def code_of(interruption: KeyboardInterrupt) -> int:
    """The exit code that tells how it ended."""
    return 128 + interruption.number if isinstance(interruption, Ended) else INTERRUPTED


@contextmanager
def orderly() -> Iterator[None]:
    """Inside, those signals raise `Ended`; one that is ignored (nohup) or handled by somebody else is left alone."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    mine = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    for each in _SIGNALS:
        if signal.getsignal(each) is _end:
            signal.signal(each, signal.SIG_IGN)  # a second one must not cut the tidying short
    raise Ended(number)


def keep_standard_streams() -> None:
    """Occupy stdin, stdout and stderr where they are closed, or the next file opened would get what libraries print."""
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(spare)
