"""JSON that somebody else may have written: whatever it holds is what was expected, or an error that says where.

fields(data, "groups[2]", ("name", "units"))     "groups[2]: 'units' is missing"
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from onnxprune.errors import UserError
from onnxprune.text.kinds import is_number, is_whole
from onnxprune.text.names import suggest

T = TypeVar("T")


def read_text(path: str | Path, what: str) -> str:
    """The text of a file; `what` is what it should be: `plan`."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # some editors put a mark in front
    except UnicodeDecodeError:
        raise UserError(f"{str(path)!r} is not a {what}: it is not UTF-8 text") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise UserError(f"cannot read the {what} {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None


def parsed(text: str, source: str, what: str, read: Callable[[object], T]) -> T:
    """What `read` makes of the text; `source` is how errors call it."""
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise UserError(f"{source}: not a {what}: it is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{source}: not valid JSON: {error}") from None
    try:
        return read(data)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def check_version(data: object, version: int, what: str) -> None:
    """Refuse another format first: a newer file may well break every other expectation."""
    if isinstance(data, dict) and "version" in data and whole(data["version"], "version") != version:
        raise UserError(f"{what} format {data['version']} is unknown; this onnxprune reads format {version}")


def fields(data: object, where: str, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object with these keys and no others."""
    if not isinstance(data, dict):
        raise wrong(where, "an object", data)
    for key in data:
        if key not in needed + optional:
            raise UserError(f"{where}: unknown key {key!r}{suggest(key, needed + optional)}")
    for key in needed:
        if key not in data:
            raise UserError(f"{where}: {key!r} is missing")
    return data


def items(data: object, where: str, read: Callable[[object, str], T]) -> list[T]:
    """A list of what `read` reads."""
    if not isinstance(data, list):
        raise wrong(where, "a list", data)
    return [read(item, f"{where}[{number}]") for number, item in enumerate(data)]


def whole(data: object, where: str) -> int:
    """A whole number of 64 bits: an axis longer than that could not be indexed."""
    if not isinstance(data, int) or not is_whole(data) or not -(2**63) <= data < 2**63:
        raise wrong(where, "a whole number", data)
    return data


def number(data: object, where: str) -> float:
    """Any finite number."""
    if not isinstance(data, int | float) or not is_number(data) or not abs(data) < 1e308:
        raise wrong(where, "a number", data)
    return float(data)


def string(data: object, where: str) -> str:
    """A string."""
    if not isinstance(data, str):
        raise wrong(where, "a string", data)
    return data


def wrong(where: str, wanted: str, data: object) -> UserError:
    """What to say of a value of the wrong kind."""
    return UserError(f"{where} must be {wanted}, not {reprlib.repr(data)}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")
