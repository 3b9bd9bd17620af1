"""What of the machine this process may use: cores and memory.

    cores    those of the machine  >=  those it may run on (affinity)  >=  its share of time (cgroup)
    memory   that of the machine   >=  what its container may take (cgroup)

A container that may use two cores of sixty-four sees all of them, and so does onnxruntime: it then starts a thread for
each, and they take turns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_NONE = 1 << 60
"""Bytes from which on a limit of memory is the old interface's way of saying that there is none."""


@dataclass(frozen=True)
class Limits:
    """What there is, and what of it may be used. None: the system does not tell."""

    cores: int
    """Of the machine."""
    allowed: int
    """That the process may run on."""
    quota: float | None
    """Cores' worth of time that its group may take; None: as much as there is."""
    memory: int | None
    """Bytes of the machine."""
    memory_limit: int | None
    """Bytes that its group may take; None: as much as there is."""
    memory_free: int | None
    """Bytes that could be taken now."""

    @property
    def usable(self) -> float:
        """Cores that are really there for this process."""
        return min(self.allowed, self.quota or self.allowed)


def limits() -> Limits:
    """Those of this process."""
    cores = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    memory, free = _meminfo()
    limit = min(_memory_limits(), default=None)
    limit = limit if limit is not None and (memory is None or limit < memory) else None
    if limit is not None:
        free = min(free, limit) if free is not None else limit
    return Limits(cores, allowed, min(_quotas(), default=None), memory, limit, free)


def _quotas() -> Iterator[float]:
    for folder in _folders("cpu"):
        words = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        numbers = [int(word) for word in words if word.isdecimal()]  # "max" and -1: there is none
        if len(words) == len(numbers) == 2 and numbers[1]:
            yield numbers[0] / numbers[1]


def _memory_limits() -> Iterator[int]:
    for folder in _folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            yield from (int(word) for word in _words(folder / name) if word.isdecimal() and int(word) < _NONE)


def _folders(controller: str) -> Iterator[Path]:
    """The process's group and all above it, in the new interface and in the old one."""
    for line in _lines(_OWN):
        names, _, path = line.partition(":")[2].partition(":")
        if names and controller not in names.split(","):
            continue
        root = _CGROUP / controller if names else _CGROUP
        own = root / path.strip("/")
        yield from (folder for folder in (own, *own.parents) if folder == root or root in folder.parents)


def _meminfo() -> tuple[int | None, int | None]:
    """All of it, and what is free or could be freed."""
    facts = {name: words.split() for name, _, words in (line.partition(":") for line in _lines(_MEMINFO))}
    if "MemTotal" in facts:
        return tuple(int(facts[name][0]) << 10 if name in facts else None for name in ("MemTotal", "MemAvailable"))  # type: ignore[return-value]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    except (AttributeError, OSError, ValueError):  # no such thing on this system
        return None, None


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
