"""What was measured once on a machine is kept in a file, and only holds for that machine.

    <cache>/onnxprune/alignment-1f3a90c2.json     {"machine": {...}, "format": 1, "value": ...}

The name is a digest of what the figures depend on: processor, onnxruntime's version, provider, threads, and what the
caller adds. The same facts stand in the file, so that a digest that meets another is noticed. A file that cannot be
read is measured anew and written over; the caller is told, in `notes`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from onnxprune.errors import UserError
from onnxprune.files.replacing import write_text

FORMAT = 1
"""Of the files; others are measured anew."""


@dataclass(frozen=True)
class Machine:
    """What a time depends on, besides the model."""

    cpu: str
    cores: int
    onnxruntime: str
    """Its version."""
    provider: str
    threads: int

    @staticmethod
    def this(*, threads: int, provider: str = "CPUExecutionProvider") -> Machine:
        """The one that this runs on."""
        import onnxruntime

        return Machine(_cpu(), os.cpu_count() or 1, onnxruntime.__version__, provider, threads)


@dataclass(frozen=True)
class Found:
    """A measurement, from the file or fresh."""

    value: Any
    """Anything that JSON holds."""
    notes: tuple[str, ...] = ()
    """What the user should know about the file."""
    fresh: bool = False
    """Measured just now."""


def folder() -> Path:
    """Where measurements are kept: `$ONNXPRUNE_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("ONNXPRUNE_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "onnxprune"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnxprune"


def remembered(
    kind: str,
    machine: Machine,
    measure: Callable[[], Any],
    *,
    of: Mapping[str, Any] | None = None,
    valid: Callable[[Any], bool] = lambda value: True,
) -> Found:
    """The value of an earlier measurement of the same thing on the same machine, else a fresh one, which is kept."""
    facts: dict[str, Any] = {"kind": kind, "machine": asdict(machine), "of": dict(of or {})}
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    path = folder() / f"{kind}-{name}.json"
    notes: list[str] = []
    try:
        stored = json.loads(path.read_bytes())
        if stored.get("format") == FORMAT and stored["facts"] == facts and valid(stored["value"]):
            return Found(stored["value"])
        notes.append(f"the measurements in {str(path)!r} do not fit; measured anew")
    except FileNotFoundError:
        pass
    except OSError as error:
        notes.append(f"cannot read {str(path)!r}: {error.strerror}; measured anew")
    except (ValueError, ArithmeticError, AttributeError, TypeError, LookupError, RecursionError):
        notes.append(f"the measurements in {str(path)!r} were damaged; measured anew")
    value = measure()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"format": FORMAT, "facts": facts, "value": value}))
    except (OSError, UserError) as error:
        notes.append(f"measurements are not kept: {getattr(error, 'strerror', None) or error}")
    return Found(value, tuple(notes), fresh=True)


@dataclass(frozen=True)
class Kept:
    """A file of measurements."""

    path: Path
    kind: str
    bytes: int
    modified: float
    """Seconds since the epoch."""
    status: str
    """`used` on this machine; of `another` machine, onnxruntime or format; or `damaged`."""


def kept() -> list[Kept]:
    """What earlier measurements left, the newest first."""
    found = []
    try:
        listed = [(path, path.stat()) for path in folder().iterdir()]
    except OSError:
        return []
    for path, facts in listed:
        name = re.fullmatch(r"([a-z]+)-[0-9a-f]{12}\.json", path.name)
        if name:
            found.append(Kept(path, name[1], facts.st_size, facts.st_mtime, _status(path)))
    return sorted(found, key=lambda file: -file.modified)


def _status(path: Path) -> str:
    try:
        stored = json.loads(path.read_bytes())
        machine = stored["facts"]["machine"]
        here = Machine.this(threads=machine["threads"], provider=machine["provider"])
        return "used" if stored["format"] == FORMAT and machine == asdict(here) else "another"
    except (OSError, ValueError, ArithmeticError, AttributeError, TypeError, LookupError, RecursionError):
        return "damaged"


@cache
def _cpu() -> str:
    """The processor's name, as exactly as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    wanted = ("model name", "cpu family", "model", "stepping", "flags", "CPU implementer", "CPU part", "Features")
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    told = [facts[key] for key in wanted if key in facts]
    name = told[0] if told else platform.processor() or platform.machine()
    return f"{name} {hashlib.sha256(' '.join(told).encode()).hexdigest()[:8]}"
