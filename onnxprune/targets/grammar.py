"""What the user wants in the end: so much of the work, the weights, the time. Several targets hold all at once.

    macs=0.5        half of the original's multiply-accumulates        macs=300M      at most that many
    params=0.6      bytes=0.5      peak-memory=0.7                     bytes=4MB
    latency=0.5     half of the original's time, measured              latency=12ms
    ratio=0.3       three tenths of the prunable units go

A number between 0 and 1 is a fraction of the original, a number with a unit an amount.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onnxprune.errors import UserError
from onnxprune.text.names import suggest

_COUNT = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_SIZE = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_TIME = {"us": 1e-3, "ms": 1.0, "s": 1e3}

MOST_LIKELY_A_FRACTION = 100.0
"""Nobody asks for as few multiply-accumulates or parameters; 1 or 50 without a unit are meant otherwise."""

UNITS: Mapping[str, Mapping[str, float]] = {
    "ratio": {},
    "macs": _COUNT,
    "params": _COUNT,
    "bytes": _SIZE,
    "peak-memory": _SIZE,
    "latency": _TIME,
}
"""Kind of target -> its units; latency is counted in milliseconds."""


@dataclass(frozen=True)
class Target:
    """At most so much of one thing."""

    kind: str
    value: float
    """A fraction of the original, or an amount in the kind's base unit."""
    absolute: bool
    text: str
    """As the user wrote it."""

    def also(self, amount: float) -> str:
        """`, 4.2MB`: an amount in the user's unit, to follow a fraction; nothing where a fraction was asked for."""
        if not self.absolute:
            return ""
        # of several that the text ends in (s, ms), the longest is meant
        unit = max((name for name in UNITS[self.kind] if self.text.rstrip().endswith(name)), key=len)
        return f", {amount / UNITS[self.kind][unit]:.4g}{unit}"

    def limit(self, original: float) -> float:
        """The amount that must not be exceeded."""
        return self.value if self.absolute else self.value * original


def parse(texts: Iterable[str]) -> tuple[Target, ...]:
    """Targets as the command line and files spell them."""
    found: dict[str, Target] = {}
    for text in texts:
        target = _one(text)
        other = found.setdefault(target.kind, target)
        if other != target:
            raise UserError(f"two targets for {target.kind}: {other.text!r} and {target.text!r}; give one")
    return tuple(found.values())


def _one(text: str) -> Target:
    kind, equals, value = text.partition("=")
    kind = kind.strip()
    if kind not in UNITS:
        raise UserError(f"unknown target {kind!r}{suggest(kind, UNITS)}; there are {', '.join(UNITS)}")
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z]*)\s*", value)
    if not equals or match is None:
        raise UserError(f"target {text!r} is not of the form {kind}=0.5")
    number, unit = float(match[1]), match[2]
    fraction = not unit and 0 < number < 1
    if fraction:
        return Target(kind, number, False, text)
    if unit not in UNITS[kind]:
        near = next((f"; did you mean {name}?" for name in UNITS[kind] if name.lower() == unit.lower()), "")
        units = ", ".join(name for name in UNITS[kind] if name)
        known = f"a fraction between 0 and 1{f', or an amount in {units}' if units else ''}"
        raise UserError(f"target {text!r}: {kind} takes {known}{near}")
    if number <= 0:
        raise UserError(f"target {text!r}: must be more than 0")
    if not unit and number <= MOST_LIKELY_A_FRACTION:
        raise UserError(f"target {text!r}: a fraction lies between 0 and 1, both excluded, and no amount is that small")
    return Target(kind, number * UNITS[kind][unit], True, text)
