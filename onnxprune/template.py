"""The options of a pruning run as a TOML file; a template is one with every line commented out.

    ratio = 0.3
    exclude = ["head.*"]

    [groups]                    # ratios of single groups, by name or pattern
    "layer1.0.conv1" = 0.5      # 64 units; layer1.0.conv1.weight:0, layer1.0.conv2.weight:1
    "layer4.*" = 0              # leave whole

`read` checks names and types; whether a number makes sense is for those that use it to say.
"""

from __future__ import annotations

import json
import reprlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxprune.coupling import Coupling, Group
from onnxprune.errors import UserError
from onnxprune.kinds import is_number, is_whole
from onnxprune.names import suggest


@dataclass(frozen=True)
class Template:
    """What a template file sets; None is what it leaves alone."""

    criterion: str | None = None
    seed: int | None = None
    reduce: str | None = None
    normalize: str | None = None
    ratio: float | None = None
    targets: tuple[str, ...] | None = None
    scope: str | None = None
    round_to: int | str | None = None
    min_keep: float | None = None
    steps: int | None = None
    schedule: str | None = None
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    include_ops: tuple[str, ...] | None = None
    exclude_ops: tuple[str, ...] | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    """The table [groups]: group name or pattern -> ratio."""


_IS: Mapping[str, Callable[[Any], bool]] = {
    "a string": lambda value: isinstance(value, str),
    "a list of strings": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "a number": is_number,
    "a whole number": is_whole,
    'a whole number or "auto"': lambda value: is_whole(value) or value == "auto",
}

_KINDS: Mapping[str, tuple[str, str]] = {
    "criterion": ("a string", '"l1"'),
    "seed": ("a whole number", "0"),
    "reduce": ("a string", '"mean"'),
    "normalize": ("a string", '"mean"'),
    "ratio": ("a number", "0.3"),
    "targets": ("a list of strings", "[]"),
    "scope": ("a string", '"local"'),
    "round_to": ('a whole number or "auto"', '"auto"'),
    "min_keep": ("a number", "0.1"),
    "steps": ("a whole number", "1"),
    "schedule": ("a string", '"linear"'),
    "include": ("a list of strings", "[]"),
    "exclude": ("a list of strings", "[]"),
    "include_ops": ("a list of strings", "[]"),
    "exclude_ops": ("a list of strings", "[]"),
}
"""Key -> what it holds, and its default as the template shows it."""

_MEANINGS: Mapping[str, str] = {
    "ratio": "fraction of the prunable units of each group to remove",
    "targets": 'what has to hold in the end, "macs=0.5" or "latency=12ms"; then ratio is not used',
    "scope": '"local": each group by the ratio; "global": one ranking over all groups; "isomorphic": one per kind',
    "round_to": 'keep a multiple of this many channels; "auto": what this machine was measured to like',
    "min_keep": "fraction of each group that always stays",
    "steps": "prune in so many steps, scoring anew each time",
    "schedule": '"linear", "exponential" or "cubic"',
    "include": "patterns on group, node or initializer names; empty: all",
    "reduce": 'over the members of a group: "mean", "sum", "max" or "min"',
    "normalize": 'within members and groups: "mean", "sum", "max", "gaussian" or "none"; or per "macs", "latency" …',
}


def write(coupling: Coupling) -> str:
    """A template for this model: every option and every group, commented out."""
    lines = ["# onnxprune options. Remove the '# ' in front of a line to set it.", ""]
    for key, (_, default) in _KINDS.items():
        lines.append(f"# {key} = {default}" + (f"  # {_MEANINGS[key]}" if key in _MEANINGS else ""))
    lines += ["", "# Ratios of single groups, by name or pattern; 0 leaves a group whole.", "[groups]"]
    lines += [f"# {_quoted(group.name)} = 0.3  # {_members(group)}" for group in coupling.groups]
    return "\n".join(lines) + "\n"


def read(path: str | Path) -> Template:
    """The options that a file sets."""
    try:
        data = tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))  # some editors put a mark in front
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except RecursionError:
        raise UserError(f"{str(path)!r} is not valid TOML: it is nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise UserError(f"{str(path)!r} is not valid TOML: {error}") from None
    try:
        return _template(data)
    except UserError as error:
        raise UserError(f"{str(path)!r}: {error}") from None


def _template(data: Mapping[str, Any]) -> Template:
    known = (*_KINDS, "groups")
    for key in data:
        if key not in known:
            raise UserError(f"unknown key {key!r}{suggest(key, known)} (there are: {', '.join(known)})")
    options = {key: _value(key, data[key], _KINDS[key][0]) for key in _KINDS if key in data}
    ratios = data.get("groups", {})
    if not isinstance(ratios, dict):
        raise UserError(f"groups must be a table, not {reprlib.repr(ratios)}")
    for name, ratio in ratios.items():
        if isinstance(ratio, dict):
            # an unquoted layer1.0.conv1 is a table in a table to TOML
            raise UserError(f"groups.{name} must be a number, not a table: names with dots need quotes")
        _value(f"groups.{name}", ratio, "a number")
    return Template(**options, ratios=ratios)


def _value(key: str, value: Any, kind: str) -> Any:
    if not _IS[kind](value):
        raise UserError(f"{key} must be {kind}, not {reprlib.repr(value)}")
    return tuple(value) if isinstance(value, list) else value


def _members(group: Group, limit: int = 6) -> str:
    # Nodes first: an exporter that folds BatchNormalization leaves weights with names like onnx::Conv_497.
    names = [_plain(name) for name in (*group.nodes[1:], *map(str, group.weights))]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{group.size} units; {', '.join(names[:limit])}{more}"


def _quoted(name: str) -> str:
    """A TOML string: JSON's escapes are TOML's, but TOML also wants DEL escaped."""
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")


def _plain(name: str) -> str:
    """A name inside a comment, where a line break would end the comment."""
    return _quoted(name)[1:-1]
