"""Lengths as they are computed with: numbers, and names of lengths that are only known at run time.

Two computations of the same length have the same spelling (`batch * 12` and `12 * batch` are `12*batch`), so equal
names mean equal lengths. What cannot be spelled is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Size = int | str | None


def multiply(a: Size, b: Size) -> Size:
    """A product has one spelling: the number first, then the names in order, `12*batch`."""
    if a is None or b is None:
        return 0 if 0 in (a, b) else None
    number, names = 1, []
    for factor in (*_factors(a), *_factors(b)):
        if isinstance(factor, int):
            number *= factor
        else:
            names.append(_named(factor))
    if not names or number == 0:
        return number
    return "*".join([str(number)] * (number != 1) + sorted(names))


def product(sizes: Sequence[Size]) -> Size:
    """Of any number of lengths."""
    total: Size = 1
    for size in sizes:
        total = multiply(total, size)
    return total


def divide(a: Size, b: Size) -> Size:
    """`12*batch` by 12 is `batch`: what was multiplied in comes out again."""
    if isinstance(a, str) and isinstance(b, int) and b > 0:
        factors = _factors(a)
        number = next((factor for factor in factors if isinstance(factor, int)), 1)
        if number % b == 0:
            return product([number // b, *(factor for factor in factors if isinstance(factor, str))])
    return _quotient(a, b)


def _factors(size: int | str) -> list[int | str]:
    """The factors of a spelled product; a `*` inside parentheses belongs to a name, and `2*s+1` is no product."""
    if isinstance(size, int) or _named(size) != size:
        return [size]
    found, depth = [""], 0
    for char in size:
        depth += (char == "(") - (char == ")")
        if char == "*" and depth == 0:
            found.append("")
        else:
            found[-1] += char
    return [int(factor) if factor.isdecimal() else factor for factor in found]


def _named(factor: str) -> str:
    """A name that is itself a sum or quotient stands in parentheses, or `a+b` times `c` would read `a+b*c`."""
    depth = 0
    for char in factor:
        depth += (char == "(") - (char == ")")
        if depth == 0 and char in "+-/% ":
            return f"({factor})"
    return factor


def _symbolic(sign: str, number: Callable[[int, int], int]) -> Callable[[Size, Size], Size]:
    neutral = 1 if sign == "/" else 0

    def combine(a: Size, b: Size) -> Size:
        if a is None or b is None:
            return None
        if isinstance(a, int) and isinstance(b, int):
            return None if sign in "/%" and b == 0 else number(a, b)
        if b == neutral and sign in "+-/":
            return a
        return f"({a}{sign}{b})"

    return combine


def _equal(a: Size, b: Size) -> Size:
    if a is None or b is None:
        return None
    if type(a) is type(b):
        return int(a == b) if isinstance(a, int) or a == b else None
    number = a if isinstance(a, int) else b
    return 0 if isinstance(number, int) and number < 0 else None


def _truncate(a: int, b: int) -> int:
    return int(a / b) if abs(a) < 2**52 else (abs(a) // abs(b)) * (1 if a * b >= 0 else -1)


_quotient = _symbolic("/", _truncate)

BINARY: dict[str, Callable[[Size, Size], Size]] = {
    "Add": _symbolic("+", lambda a, b: a + b),
    "Sub": _symbolic("-", lambda a, b: a - b),
    "Mul": multiply,
    "Div": divide,
    "Mod": _symbolic("%", lambda a, b: a % b),
    "Max": lambda a, b: max(a, b) if isinstance(a, int) and isinstance(b, int) else None,
    "Min": lambda a, b: min(a, b) if isinstance(a, int) and isinstance(b, int) else None,
    "Equal": _equal,
}
