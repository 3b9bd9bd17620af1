"""What there is to work with, and what of it needs doing: packages, providers, cores, memory, kept measurements.

Every finding says what to do. `broken`: nothing can be verified or measured before that is done; `advice`: it works,
but less well than it could. Packages are asked for their versions without being imported; only onnxruntime is run.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from onnxprune.machine import measured
from onnxprune.machine.limits import Limits, limits
from onnxprune.machine.measured import Kept
from onnxprune.machine.providers import CPU, available, starts
from onnxprune.version import __version__

GIVES = {
    "images": "images as data: --data photos/",
    "parallel": "several measurements at a time: sensitivity --jobs",
    "report": "drawings and pages: --plot curves.svg, --html report.html",
    "torch": "training: export, finetune, zoo, and criteria of gradients",
}
"""What a user has of each extra; those that are not here are for the development of onnxprune."""
_LITTLE = 1 << 30
"""Bytes of free memory or disk that are soon used up."""
_BUSY = 0.5
"""Load for each usable core from which on timings are noise."""


@dataclass(frozen=True)
class Package:
    """Something that is needed, always or for an extra."""

    name: str
    version: str | None
    """None: it is not installed."""
    least: str
    """The oldest version that will do; empty: any."""
    extra: str | None
    """None: it is always needed."""

    @property
    def ok(self) -> bool:
        return self.version is not None and _numbers(self.version) >= _numbers(self.least)


@dataclass(frozen=True)
class Finding:
    """Something that should be done."""

    level: str
    """broken or advice."""
    what: str
    todo: str


@dataclass(frozen=True)
class Provider:
    """Of onnxruntime."""

    name: str
    starts: bool


@dataclass(frozen=True)
class Place:
    """A folder that is written to."""

    path: Path
    writable: bool
    free: int | None
    """Bytes on its disk."""


@dataclass(frozen=True, eq=False)
class Examination:
    """All that was found."""

    python: str
    system: str
    packages: tuple[Package, ...]
    providers: tuple[Provider, ...]
    limits: Limits
    load: float | None
    """Processes that wanted to run in the last minute; None: the system does not tell."""
    cache: Place
    kept: tuple[Kept, ...]
    scratch: Place
    """For temporary files."""
    findings: tuple[Finding, ...] = ()
    version: str = field(default=__version__)

    @property
    def extras(self) -> dict[str, bool]:
        """Those for users, and whether all of each is there."""
        known = {package.extra for package in self.packages}
        return {
            name: all(package.ok for package in self.packages if package.extra == name)
            for name in GIVES
            if name in known
        }

    @property
    def broken(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "broken"]


def examine() -> Examination:
    """Look at everything."""
    problems: list[Finding] = []
    packages = tuple(_packages(problems))
    providers = tuple(_providers(problems))
    room = limits()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    cache, scratch = _place(measured.folder()), _place(Path(tempfile.gettempdir()))
    # whose machine a measurement is of is told by onnxruntime's version, too
    kept = tuple(measured.kept()) if providers else ()
    findings = [*problems, *_room(room, load), *_places(cache, scratch), *_measurements(kept)]
    return Examination(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages=packages,
        providers=providers,
        limits=room,
        load=load,
        cache=cache,
        kept=kept,
        scratch=scratch,
        findings=tuple(sorted(findings, key=lambda finding: finding.level != "broken")),
    )


def install(*extras: str) -> str:
    """The line that adds them."""
    return f"pip install 'onnxprune[{','.join(extras)}]'"


def _packages(problems: list[Finding]) -> Iterator[Package]:
    try:
        lines = metadata.requires("onnxprune") or []
    except metadata.PackageNotFoundError:
        todo = "pip install . in its folder, so that its requirements are there"
        problems.append(Finding("advice", "onnxprune is not installed, it runs from a folder", todo))
        return
    runtimes = list(dict.fromkeys(metadata.packages_distributions().get("onnxruntime", [])))
    for line in lines:
        found = re.match(r"([\w.-]+)[^;>=]*(?:>=([\w.]+))?[^;]*(?:;.*extra *== *['\"](\w+)['\"])?", line)
        if found is None or (found[3] is not None and found[3] not in GIVES):
            continue
        # onnxruntime is what is imported; onnxruntime-gpu and its like bring the same module
        name = runtimes[0] if found[1] == "onnxruntime" and runtimes else found[1]
        package = Package(name, _version(name), found[2] or "", found[3])
        if package.extra is None and not package.ok:
            problems.append(_lacking(package))
        elif package.version is not None and not package.ok:
            what = f"{package.name} {package.version} is too old for the extra {package.extra!r}"
            problems.append(Finding("advice", what, f"pip install '{package.name}>={package.least}'"))
        yield package
    if len(runtimes) > 1:
        what = f"{' and '.join(sorted(runtimes))} are installed over each other: they share one folder"
        problems.append(
            Finding("advice", what, f"pip uninstall {' '.join(sorted(runtimes))}, then install one of them")
        )


def _lacking(package: Package) -> Finding:
    there = f"{package.version}, which is too old" if package.version else "missing"
    wanted = f"{package.name}>={package.least}" if package.least else package.name
    return Finding("broken", f"{package.name} is {there}", f"pip install '{wanted}'")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` -> (2, 13, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(number) for number in found[0].split(".")) if found else ()


def _providers(problems: list[Finding]) -> Iterator[Provider]:
    try:
        names = available()
    except Exception as error:  # noqa: BLE001  a library that does not load raises whatever it likes
        what = f"onnxruntime cannot be imported: {' '.join(str(error).split())[:200]}"
        problems.append(Finding("broken", what, "pip install --force-reinstall onnxruntime"))
        return
    for name in names:
        runs = starts(name)
        if name == CPU and not runs:
            todo = "pip install --force-reinstall onnxruntime"
            problems.append(Finding("broken", "onnxruntime does not run a model on the CPU", todo))
        yield Provider(name, runs)


def _room(room: Limits, load: float | None) -> Iterator[Finding]:
    usable = max(1, int(room.usable))
    if room.quota is not None and room.quota < room.allowed:
        what = f"onnxruntime sees {room.allowed} cores, and this process may use {room.quota:g}"
        yield Finding("advice", what, f"never --threads 0; --threads {usable} at most")
    if load is not None and load > _BUSY * usable + 1:  # one of them may be this command itself
        what = f"the machine is busy (load {load:.1f}, {usable} of {room.cores} cores to use): timings will be noise"
        yield Finding("advice", what, "measure when nothing else runs")
    if room.memory_free is not None and room.memory_free < _LITTLE:
        what = f"only {room.memory_free / 1e9:.1f} GB of memory are free"
        yield Finding("advice", what, "close something before pruning a big model")


def _place(path: Path) -> Place:
    there = next((folder for folder in (path, *path.parents) if folder.exists()), Path.cwd())
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        free = None
    return Place(path, there.is_dir() and os.access(there, os.W_OK | os.X_OK), free)


def _places(cache: Place, scratch: Place) -> Iterator[Finding]:
    if not cache.writable:
        what = f"{str(cache.path)!r} cannot be written: every command measures anew"
        yield Finding("advice", what, "set ONNXPRUNE_CACHE to a folder that can")
    if not scratch.writable or (scratch.free is not None and scratch.free < _LITTLE):
        what = f"there is no room for temporary files in {str(scratch.path)!r}"
        yield Finding("advice", what, "set TMPDIR to a folder with room")


def _measurements(kept: tuple[Kept, ...]) -> Iterator[Finding]:
    damaged = [str(file.path) for file in kept if file.status == "damaged"]
    if damaged:
        yield Finding("advice", f"damaged measurements: {', '.join(damaged)}", "remove them; they are made anew")


def age(modified: float) -> float:
    """Days since then."""
    return max(0.0, (time.time() - modified) / 86400)
