"""Numbers as people read them; JSON always holds the exact ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: float) -> str:
    """`25.6 M`: three digits."""
    for step, letter in _STEPS:
        if abs(number) >= 0.9995 * step:
            return f"{_three(number / step)} {letter}"
    return f"{number:,.0f}"


def size(nbytes: float) -> str:
    """`102 MB`, decimal as disks are."""
    for step, letter in _STEPS:
        if nbytes >= 0.9995 * step:
            return f"{_three(nbytes / step)} {letter}B"
    return f"{nbytes:.0f} B"


def milliseconds(value: float) -> str:
    """`0.183 ms`, `12.3 ms`."""
    return f"{_three(value)} ms"


def _three(value: float) -> str:
    """Three digits, more before the point if there are more."""
    decimals = 3 if value < 0.9995 else 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{decimals}f}"


def percent(share: float) -> str:
    """`44.4%`."""
    return f"{100 * share:.1f}%"


def change(before: float, after: float) -> str:
    """`-44.4%`, nothing where there was nothing."""
    return f"{100 * (after - before) / before:+.1f}%" if before else ""


def noise(value: float) -> str:
    """`4.4e-07`, and `0.811` where there is no need for powers."""
    return f"{value:.1e}".replace(".0e", "e") if 0 < value < 1e-3 else f"{value:.3g}"


def some(texts: Sequence[str], most: int = 3, between: str = ", ") -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return f"{between.join(texts[:most])}{more}"


def plural(number: int, noun: str) -> str:
    """`1 group`, `12 groups`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def tally(numbers: Mapping[str, int]) -> str:
    """`Conv (12x), Relu (3x)`."""
    return ", ".join(f"{name} ({number}x)" for name, number in numbers.items())


def bindings(dims: Mapping[str, int]) -> str:
    """`batch=1, height=224`."""
    return ", ".join(f"{name}={number}" for name, number in dims.items())
