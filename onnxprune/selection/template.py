"""The options of a pruning run as a TOML file; a template is one with every line commented out.

    ratio = 0.3
    exclude = ["head.*"]
    calib = {spec = "photos/", preprocess = {size = 224}}

    [groups]                    # ratios of single groups, by name or pattern
    "layer1.0.conv1" = 0.5      # 64 units; layer1.0.conv1.weight:0, layer1.0.conv2.weight:1
    "layer4.*" = 0              # leave whole

`read` checks names and types; whether a number makes sense is for those that use it to say. Paths are relative to the
file.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from onnxprune.analysis.coupling import Coupling, Group
from onnxprune.data.schema import Reader, unknown_key
from onnxprune.data.sources import Request
from onnxprune.data.synthetic import WITHOUT_DATA
from onnxprune.errors import UserError
from onnxprune.text.figures import some
from onnxprune.text.kinds import is_number
from onnxprune.text.toml_reader import table_of


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
    round_to: int | Literal["auto"] | None = None
    min_keep: float | None = None
    steps: int | None = None
    schedule: str | None = None
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    include_ops: tuple[str, ...] | None = None
    exclude_ops: tuple[str, ...] | None = None
    max_drop: float | None = None
    metric: str | None = None
    data: Request | None = None
    calib: Request | None = None
    compensate: str | None = None
    sensitivity: str | Path | None = None
    run: Path | None = None
    threads: int | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    """The table [groups]: group name or pattern -> ratio."""

    writes: ClassVar[tuple[str, ...]] = ("run",)


_SHOWN: Mapping[str, str] = {
    "criterion": '"l1"',
    "seed": "0",
    "reduce": '"mean"',
    "normalize": '"mean"',
    "ratio": "0.3",
    "targets": "[]",
    "scope": '"local"',
    "round_to": '"auto"',
    "min_keep": "0.1",
    "steps": "1",
    "schedule": '"linear"',
    "max_drop": "0.01",
    "metric": '"module:function"',
    "data": '"random:64"',
    "calib": '"random:256"',
    "compensate": '"sequential"',
    "sensitivity": '"sensitivity.json"',
    "run": '"way"',
    "threads": "1",
    "include": "[]",
    "exclude": "[]",
    "include_ops": "[]",
    "exclude_ops": "[]",
}
"""Key -> what the template shows: its default, or an example where there is none."""

_MEANINGS: Mapping[str, str] = {
    "ratio": "fraction of the prunable units of each group to remove",
    "targets": 'what has to hold in the end, "macs=0.5" or "latency=12ms"; all at once, ratio too if set',
    "scope": '"local": each group by the ratio; "global": one ranking over all groups; "isomorphic": one per kind',
    "round_to": 'keep a multiple of this many channels; "auto": what this machine was measured to like',
    "min_keep": "fraction of each group that always stays",
    "steps": "prune in so many steps, scoring anew each time",
    "schedule": '"linear", "exponential" or "cubic"',
    "max_drop": "cut as much as data bears: what may be lost, 0.01 being one point",
    "metric": "measured instead of accuracy; more is better",
    "data": 'what to measure on: a path, "module:function", or a table with spec, limit, preprocess',
    "calib": 'what to compensate on, likewise; "none": on noise as smooth as photographs',
    "compensate": 'by what: "sequential", "one-pass", "bn" or "none"',
    "sensitivity": "what `onnxprune sensitivity` measured",
    "run": "a folder for what a stopped run needs to go on",
    "threads": "of onnxruntime",
    "include": "patterns on group, node or initializer names; empty: all",
    "reduce": 'over the members of a group: "mean", "sum", "max" or "min"',
    "normalize": 'within members and groups: "mean", "sum", "max", "gaussian" or "none"; or per "macs", "latency" …',
}


def write(coupling: Coupling) -> str:
    """A template for this model: every option and every group, commented out."""
    lines = ["# onnxprune options. Remove the '# ' in front of a line to set it.", ""]
    for key, default in _SHOWN.items():
        lines.append(f"# {key} = {default}" + (f"  # {_MEANINGS[key]}" if key in _MEANINGS else ""))
    lines += ["", "# Ratios of single groups, by name or pattern; 0 leaves a group whole.", "[groups]"]
    lines += [f"# {_quoted(group.name)} = 0.3  # {_members(group)}" for group in coupling.groups]
    return "\n".join(lines) + "\n"


def read(path: str | Path) -> Template:
    """The options that a file sets."""
    data = table_of(path)
    try:
        return _template(data, Path(path).parent)
    except UserError as error:
        raise UserError(f"{str(path)!r}: {error}") from None


def _template(data: Mapping[str, Any], base: Path) -> Template:
    options = {key: value for key, value in data.items() if key != "groups"}
    for key in options:
        if key not in _SHOWN:
            raise UserError(unknown_key(key, key, [*_SHOWN, "groups"]))
    if options.get("calib") == "none":
        options["calib"] = f"synthetic:{WITHOUT_DATA}"
    found = Reader(base).read(Template, options)
    ratios = data.get("groups", {})
    if not isinstance(ratios, dict):
        raise UserError(f"groups must be a table, not {reprlib.repr(ratios)}")
    for name, ratio in ratios.items():
        if isinstance(ratio, dict):
            # an unquoted layer1.0.conv1 is a table in a table to TOML
            raise UserError(f"groups.{name} must be a number, not a table: names with dots need quotes")
        if not is_number(ratio):
            raise UserError(f"groups.{name} must be a number, not {reprlib.repr(ratio)}")
    return replace(found, ratios=ratios)


def _members(group: Group, limit: int = 6) -> str:
    # Nodes first: an exporter that folds BatchNormalization leaves weights with names like onnx::Conv_497.
    names = [_plain(name) for name in (*group.nodes[1:], *map(str, group.weights))]
    return f"{group.size} units; {some(names, limit)}"


def _quoted(name: str) -> str:
    """A TOML string: JSON's escapes are TOML's, but TOML also wants DEL escaped."""
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")


def _plain(name: str) -> str:
    """A name inside a comment, where a line break would end the comment."""
    return _quoted(name)[1:-1]
