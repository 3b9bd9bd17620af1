"""Frozen dataclasses as tables of TOML or JSON: a field is a key, and its annotation says what the key may hold.

    ratio: float = 0.3                      ratio = 0.5
    targets: tuple[str, ...] = ()           targets = ["macs=0.5"]
    select: Select                          select.ratio = 0.5          or a table [select]
    sensitivity: str | Path | None = None   sensitivity = "s.json"      relative to the file that says so
    teacher: Literal["original"] | Path     teacher = "original"        a word, not a file
    data: Request                           data = "photos/"            or a table, or the name of what is declared

Fields that no file can hold, functions for instance, are no options. Types are checked here and files have to exist;
whether a number makes sense is for the dataclass to say.
"""

from __future__ import annotations

import dataclasses
import reprlib
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from onnxprune.data.preprocess import Preprocess, preprocess_of, read_preprocess
from onnxprune.data.sources import Request, is_generated
from onnxprune.errors import UserError
from onnxprune.text.functions import is_function_name
from onnxprune.text.kinds import is_number, is_whole
from onnxprune.text.names import suggest

T = TypeVar("T")

_PLAIN: Mapping[Any, str] = {str: "a string", bool: "true or false", int: "a whole number", float: "a number"}
_PAIRS = tuple[tuple[str, int], ...]
"""A mapping in a form that can be hashed: a table in the file."""


@cache
def options_of(cls: Any) -> Mapping[str, Any]:
    """The options of a dataclass: name of each, and its annotation."""
    hints = get_type_hints(cls)
    known = {item.name: hints[item.name] for item in dataclasses.fields(cls) if item.init}
    return {name: hint for name, hint in known.items() if _can_be_written(hint)}


def names_file(hint: Any, value: object) -> bool:
    """Whether a value of such a field is the name of a file."""
    if hint is not Path and Path not in get_args(hint):
        return False
    return isinstance(value, str | Path) and not any(value in get_args(kind) for kind in get_args(hint))


def written_by(cls: type[Any]) -> tuple[str, ...]:
    """The fields that name files to be written, which a class lists as `writes`; all other files are read."""
    return tuple(getattr(cls, "writes", ()))


@dataclass(frozen=True)
class Reader:
    """Reads tables; everything that is wrong with one is a `UserError` that says where."""

    base: Path = Path()
    """What relative paths are relative to."""
    data: Mapping[str, Request] = field(default_factory=dict)
    """Data by name."""

    def read(self, cls: type[T], table: object, where: str = "") -> T:
        """The dataclass that a table describes."""
        if not isinstance(table, Mapping):
            raise UserError(f"{where or 'the file'} must be a table, not {reprlib.repr(table)}")
        options = options_of(cls)  # type: ignore[arg-type]  # classes can be hashed
        for key in table:
            if key not in options:
                raise UserError(unknown_key(_join(where, key), key, options))
        for item in dataclasses.fields(cls):  # type: ignore[arg-type]  # what has options is a dataclass
            needed = item.default is MISSING and item.default_factory is MISSING
            if item.name in options and needed and item.name not in table:
                raise UserError(f"{_join(where, item.name)} is missing")
        given = {key: self._value(options[key], value, _join(where, key)) for key, value in table.items()}
        for key, value in given.items():
            if isinstance(value, Path) and key not in written_by(cls) and not value.exists():
                raise UserError(f"{_join(where, key)}: there is no {str(value)!r}")
        return cls(**given)

    def _value(self, hint: Any, value: Any, where: str) -> Any:
        if value is None and types.NoneType in _alternatives(hint):
            return None
        kinds = [kind for kind in _alternatives(hint) if kind is not types.NoneType and _can_be_written(kind)]
        if Path in kinds:
            words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
            return value if value in words else self._path(value, where)
        if len(kinds) == 1:
            return self._one(kinds[0], value, where)
        for kind in kinds:
            if _fits(kind, value):
                return self._one(kind, value, where)
        raise UserError(f"{where} must be {' or '.join(map(_called, kinds))}, not {reprlib.repr(value)}")

    def _one(self, kind: Any, value: Any, where: str) -> Any:
        if kind is Request:
            return self.request(value, where)
        if kind is Preprocess:
            return self._preprocess(value, where)
        if dataclasses.is_dataclass(kind):
            return self.read(kind, value, where)  # type: ignore[arg-type]  # a class, as annotations are
        if kind == _PAIRS:
            return tuple(self._one(Mapping[str, int], value, where).items())
        origin, inner = get_origin(kind), get_args(kind)
        if _is_mapping(kind):
            if not isinstance(value, Mapping):
                raise UserError(f"{where} must be a table, not {reprlib.repr(value)}")
            return {key: self._value(inner[1], item, _join(where, _key(key))) for key, item in value.items()}
        if _is_sequence(kind):
            if not isinstance(value, list | tuple):
                raise UserError(f"{where} must be a list, not {reprlib.repr(value)}")
            if origin is tuple and Ellipsis not in inner and len(inner) != len(value):
                raise UserError(f"{where} must be a list of {len(inner)}, not {reprlib.repr(value)}")
            return tuple(self._value(inner[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        if not _fits(kind, value):
            raise UserError(f"{where} must be {_called(kind)}, not {reprlib.repr(value)}")
        return float(value) if kind is float else value

    def request(self, value: Any, where: str) -> Request:
        """Data: the name of declared data, a path or whatever else data can be, or a table whose `spec` is one."""
        if isinstance(value, Mapping):
            options = options_of(Request)
            for key in value:
                if key not in options:
                    raise UserError(unknown_key(_join(where, key), key, options))
            if "spec" not in value:
                raise UserError(f'{_join(where, "spec")} is missing: the path of the data, "module:function", …')
            given = {key: self._value(options[key], item, _join(where, key)) for key, item in value.items()}
        else:
            given = {"spec": self._one(str, value, where)}
        spec = given["spec"]
        if spec in self.data:
            return dataclasses.replace(self.data[spec], **{**given, "spec": self.data[spec].spec})
        if not is_generated(spec):
            path = self._path(spec, where)
            if path.exists():
                given["spec"] = str(path)
            elif not is_function_name(spec):
                raise UserError(f"{where}: there is no {str(path)!r}{suggest(spec, self.data)}")
        return Request(**given)

    def _preprocess(self, value: Any, where: str) -> Preprocess:
        if isinstance(value, str):
            return read_preprocess(self._path(value, where))
        if not isinstance(value, Mapping):
            raise UserError(f"{where} must be a table or the name of a TOML file, not {reprlib.repr(value)}")
        return preprocess_of(value, where)

    def _path(self, value: Any, where: str) -> Path:
        if not isinstance(value, str) or not value or "\0" in value:
            raise UserError(f"{where} must be the name of a file, not {reprlib.repr(value)}")
        return self.base / value


def with_defaults(thing: T, table: Mapping[str, Any], defaults: Mapping[str, Any]) -> T:
    """The dataclass with `defaults` in the options of these names that its table leaves alone, at every depth."""
    options = options_of(type(thing))  # type: ignore[arg-type]  # classes can be hashed
    changes: dict[str, Any] = {}
    for name, hint in options.items():
        value = getattr(thing, name)
        if name in defaults and name not in table:
            changes[name] = tuple(defaults[name].items()) if hint == _PAIRS else defaults[name]
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            inner = table.get(name, {})
            changes[name] = with_defaults(value, inner if isinstance(inner, Mapping) else {}, defaults)
    return dataclasses.replace(thing, **changes)  # type: ignore[type-var]  # what has options is a dataclass


def unknown_key(where: str, key: str, known: Iterable[str]) -> str:
    """What to say of a key that nobody takes."""
    names = list(known)
    return f"{where}: unknown key{suggest(str(key), names)} (there are: {', '.join(names) or 'none'})"


def _can_be_written(hint: Any) -> bool:
    if hint is Any or hint in _PLAIN or hint is Path or dataclasses.is_dataclass(hint):
        return True
    if get_origin(hint) is Literal:
        return True
    if get_origin(hint) in (Union, types.UnionType):
        return any(kind is not types.NoneType and _can_be_written(kind) for kind in get_args(hint))
    if _is_mapping(hint) or _is_sequence(hint):
        return all(kind is Ellipsis or _can_be_written(kind) for kind in get_args(hint))
    return False


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_mapping(hint: Any) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_sequence(hint: Any) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping)


def _fits(kind: Any, value: Any) -> bool:
    if kind is Any:
        return True
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is int:
        return is_whole(value)
    if kind is float:
        return is_number(value)
    if _is_sequence(kind):
        return isinstance(value, list | tuple)
    if _is_mapping(kind) or dataclasses.is_dataclass(kind):
        return isinstance(value, Mapping)
    return isinstance(value, kind)


def _called(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(repr(choice) for choice in get_args(kind))
    return _PLAIN.get(kind) or ("a table" if _is_mapping(kind) or dataclasses.is_dataclass(kind) else "a list")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def _key(key: str) -> str:
    return f'"{key}"' if "." in key else key
