"""What counts as a number when a user gives it: True is an int to Python, but nobody's ratio."""

from __future__ import annotations

from typing import TypeGuard


def is_whole(value: object) -> TypeGuard[int]:
    """A whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """A whole number or a float, NaN and Inf included: ranges are checked by who knows them."""
    return is_whole(value) or isinstance(value, float)
