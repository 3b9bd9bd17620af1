"""Run a command in a process of its own and measure all of it: wall time, peak memory, what it said.

What a parent holds is never counted to the child. The system's own counter (wait4) does count it, for a child begins as
its parent's copy; so the child's peak, and its anonymous memory, which no page cache can give back, are sampled from
/proc while it runs.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.02
SAMPLED = ("VmHWM", "RssAnon")
"""Lines of /proc/PID/status, in kilobytes: the peak so far of the resident size, and the anonymous part of it now."""


@dataclass(frozen=True)
class Child:
    """A finished process."""

    status: int
    """Exit status, minus the signal's number where one ended it."""
    stdout: str
    stderr: str
    seconds: float
    """Of the wall clock."""
    cpu_seconds: float
    """Of all its threads: what stays the same on a machine that others use."""
    peak_rss: int
    """Bytes, the largest resident size; pages of mapped files count, although the system may drop them at any time.

    Where the system has no /proc it is at least what the parent held when the child started.
    """
    peak_anonymous: int
    """Bytes, the largest sampled anonymous resident size; 0 where the system has no /proc."""
    timed_out: bool = False

    @property
    def last_line(self) -> str:
        """The last line of the talk where it failed, of the result otherwise."""
        lines = (self.stderr if self.status else self.stdout).strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def failure(self) -> str:
        """One line for a table."""
        if self.timed_out:
            return f"stopped after {self.seconds:.0f} s"
        if self.status == -signal.SIGKILL:
            return "killed (out of memory?)"
        return f"exit status {self.status}: {self.last_line[:300]}"


def run(
    command: Sequence[str | Path],
    *,
    memory_gib: float | None = None,
    timeout: float | None = None,
    cwd: str | Path | None = None,
    threads: int | None = None,
) -> Child:
    """Run to the end, with at most that much address space (on Linux) and time."""
    environment = dict(os.environ)
    if threads:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=environment,
        )
        if memory_gib and hasattr(resource, "prlimit"):
            size = int(memory_gib * (1 << 30))
            resource.prlimit(process.pid, resource.RLIMIT_AS, (size, size))
        timed_out = threading.Event()
        timer = threading.Timer(timeout or 0, _stop, (process, timed_out))
        if timeout:
            timer.start()
        finished = threading.Event()
        samples: dict[str, int] = dict.fromkeys(SAMPLED, 0)
        sampler = threading.Thread(target=_sample, args=(process.pid, finished, samples), daemon=True)
        sampler.start()
        _, wait_status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(wait_status)
        finished.set()
        timer.cancel()
        sampler.join()
        for file in (stdout, stderr):
            file.seek(0)
        return Child(
            status=process.returncode,
            stdout=stdout.read(),
            stderr=stderr.read(),
            seconds=seconds,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            peak_rss=samples["VmHWM"] or usage.ru_maxrss * 1024,
            peak_anonymous=samples["RssAnon"],
            timed_out=timed_out.is_set(),
        )


def _stop(process: subprocess.Popen[bytes], timed_out: threading.Event) -> None:
    timed_out.set()
    process.kill()


def _sample(pid: int, finished: threading.Event, samples: dict[str, int]) -> None:
    status = Path(f"/proc/{pid}/status")
    while True:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        for line in lines:
            name, _, rest = line.partition(":")
            if name in samples:
                samples[name] = max(samples[name], int(rest.split()[0]) * 1024)
        if finished.wait(SAMPLE_SECONDS):
            return
