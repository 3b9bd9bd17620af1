"""`onnxprune doctor`: what there is to work with, and what to do about what is missing."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from onnxprune.cli.arguments import Commands, command, finished
from onnxprune.cli.progress import Activity
from onnxprune.cli.tables import Column, Grid, Part
from onnxprune.cli.talk import Talk
from onnxprune.errors import UserError
from onnxprune.machine.doctor import GIVES, Examination, Place, age, examine, install
from onnxprune.machine.measured import Kept
from onnxprune.machine.providers import short
from onnxprune.text.figures import plural, size

_EXAMPLES = """\
examples:
  onnxprune doctor
  onnxprune doctor --json                         for a bug report
"""
_STATUSES = {"used": "of this machine", "another": "of another machine or onnxruntime", "damaged": "damaged"}


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "doctor",
        "",
        "check versions, providers, cores and kept measurements",
        "Show what there is to work with: versions, extras and what each of them gives, execution providers, cores, "
        "memory, and the measurements that are kept. Whatever should be done is listed last. Exit code 2: something "
        "essential is broken.",
        _EXAMPLES,
        ratio=False,
    )
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    talk = Talk.of(args)
    with Activity(talk) as activity:
        activity.step("looking around")
        found = examine()
    talk.result({"command": "doctor", **_document(found)}, _parts(found, verbose=talk.verbose))
    if found.broken:
        raise UserError("; ".join(f"{finding.what}: {finding.todo}" for finding in found.broken))
    return 0


def _document(found: Examination) -> dict[str, Any]:
    return {
        "onnxprune": found.version,
        "python": found.python,
        "system": found.system,
        "packages": [{**asdict(package), "ok": package.ok} for package in found.packages],
        "extras": [
            {"name": name, "installed": there, "gives": GIVES[name], "install": install(name)}
            for name, there in found.extras.items()
        ],
        "providers": [asdict(provider) for provider in found.providers],
        "limits": {**asdict(found.limits), "usable": found.limits.usable},
        "load": found.load,
        "cache": {
            **asdict(found.cache),
            "files": [{**asdict(file), "days": age(file.modified)} for file in found.kept],
        },
        "temporary": asdict(found.scratch),
        "findings": [asdict(finding) for finding in found.findings],
    }


def _parts(found: Examination, *, verbose: bool) -> list[Part]:
    return [
        f"onnxprune {found.version}, Python {found.python}, {found.system}",
        "",
        *_packages(found),
        *_extras(found),
        *_machine(found),
        *_cache(found.cache, found.kept, verbose=verbose),
        _temporary(found.scratch),
        "",
        *_findings(found),
    ]


def _packages(found: Examination) -> list[Part]:
    columns = (*(Column(title, name=True) for title in ("Package", "Installed", "Needed", "For")),)
    rows = [
        [
            package.name,
            package.version or "-",
            f"{package.least} or newer" if package.least else "any",
            f"the extra {package.extra}" if package.extra else "",
        ]
        for package in sorted(found.packages, key=lambda package: (package.extra or "", package.name))
    ]
    return [Grid(columns, rows), ""] if rows else []


def _extras(found: Examination) -> list[Part]:
    if not found.extras:
        return []
    columns = (Column("Extra", name=True), Column("There", name=True), Column("Gives", name=True))
    rows = [[name, "yes" if there else "no", GIVES[name]] for name, there in found.extras.items()]
    missing = [name for name, there in found.extras.items() if not there]
    line = [f"To add what is missing: {install(*missing)}"] if missing else []
    return [Grid(columns, rows), *line, ""]


def _machine(found: Examination) -> list[Part]:
    room = found.limits
    names = ", ".join(short(p.name) + ("" if p.starts else " (does not start)") for p in found.providers)
    cores = f"{plural(room.cores, 'core')}"
    if room.allowed < room.cores:
        cores += f", of which this process may run on {room.allowed}"
    if room.quota is not None and room.quota < room.allowed:
        cores += f", for {room.quota:g} cores' worth of time"
    memory = [size(room.memory) if room.memory else "not known"]
    memory += [f"{size(room.memory_limit)} for this process"] if room.memory_limit else []
    memory += [f"{size(room.memory_free)} free"] if room.memory_free is not None else []
    load = [f"load:       {found.load:.1f}"] if found.load is not None else []
    return [
        f"providers:  {names or 'none'}",
        f"cores:      {cores}",
        *load,
        f"memory:     {', '.join(memory)}",
    ]


def _cache(place: Place, kept: Sequence[Kept], *, verbose: bool) -> list[Part]:
    lines: list[Part] = [f"cache:      {place.path}{'' if place.writable else ' (cannot be written)'}"]
    if not kept:
        return [*lines, "            no measurements yet"]
    for status, meaning in _STATUSES.items():
        files = [file for file in kept if file.status == status]
        if files:
            kinds = ", ".join(
                plural(number, f"{kind} measurement")
                for kind in dict.fromkeys(file.kind for file in files)
                if (number := sum(file.kind == kind for file in files))
            )
            total = size(sum(file.bytes for file in files))
            lines.append(f"            {meaning}: {kinds}; {total}, {_ages(files)}")
    if verbose:
        columns = (Column("File", name=True), Column("Size"), Column("Age"), Column("Status", name=True))
        rows = [[file.path.name, size(file.bytes), _days(file), _STATUSES[file.status]] for file in kept]
        lines += ["", Grid(columns, rows), ""]
    return lines


def _ages(files: Sequence[Kept]) -> str:
    newest, oldest = _days(files[0]), _days(files[-1])
    return f"{newest} old" if newest == oldest else f"{newest} to {oldest} old"


def _days(file: Kept) -> str:
    return plural(round(age(file.modified)), "day")


def _temporary(place: Place) -> str:
    free = f", {size(place.free)} free" if place.free is not None else ""
    return f"temporary:  {place.path}{free}"


def _findings(found: Examination) -> list[Part]:
    if not found.findings:
        return ["Nothing needs doing."]
    return [line for f in found.findings for line in (f"{f.level}: {f.what}", f"  do: {f.todo}")]
