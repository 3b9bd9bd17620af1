"""What a process may use of its machine, read from files as Linux writes them, in both interfaces."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxprune.machine import limits as module
from onnxprune.machine.limits import limits

MEMINFO = "MemTotal:       16384 kB\nMemFree:         1024 kB\nMemAvailable:    8192 kB\n"


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(module, "_OWN", tmp_path / "own")
    monkeypatch.setattr(module, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    put(tmp_path / "meminfo", MEMINFO)
    return tmp_path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_no_limits(system: Path) -> None:
    found = limits()
    assert (found.cores, found.allowed, found.quota, found.usable) == (64, 8, None, 8)
    assert (found.memory, found.memory_limit, found.memory_free) == (16384 << 10, None, 8192 << 10)


def test_the_new_interface_and_a_group_above(system: Path) -> None:
    put(system / "own", "0::/a/b\n")
    put(system / "cgroup/a/b/cpu.max", "max 100000\n")
    put(system / "cgroup/a/cpu.max", "250000 100000\n")
    put(system / "cgroup/a/b/memory.max", f"{4096 << 10}\n")
    put(system / "cgroup/memory.max", "max\n")
    found = limits()
    assert (found.quota, found.usable) == (2.5, 2.5)
    assert (found.memory_limit, found.memory_free) == (4096 << 10, 4096 << 10)


def test_the_old_interface(system: Path) -> None:
    put(system / "own", "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n0::/\n")
    put(system / "cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    put(system / "cgroup/cpu/cpu.cfs_period_us", "100000\n")
    put(system / "cgroup/cpu/docker/x/cpu.cfs_quota_us", "150000\n")
    put(system / "cgroup/cpu/docker/x/cpu.cfs_period_us", "100000\n")
    put(system / "cgroup/memory/docker/x/memory.limit_in_bytes", "9223372036854771712\n")
    assert limits().quota == 1.5
    assert limits().memory_limit is None


def test_a_limit_above_the_machine_is_none(system: Path) -> None:
    put(system / "own", "0::/\n")
    put(system / "cgroup/memory.max", f"{16384 << 11}\n")
    assert limits().memory_limit is None


def test_files_that_say_nothing(system: Path) -> None:
    put(system / "own", "garbage\n0::\n:::\n")
    put(system / "cgroup/cpu.max", "\n")
    put(system / "cgroup/memory.max", "lots\n")
    put(system / "meminfo", "")
    found = limits()
    assert (found.quota, found.memory_limit) == (None, None)
    assert found.memory is None or found.memory > 0
