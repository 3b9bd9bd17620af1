"""A pipeline as a TOML file: every pass by its name, every field of it a key.

    model = "model.onnx"                # relative to this file

    [data]
    train = "train/"                    # data that stages call by name

    [measure]                           # of every model that a stage makes
    data = "val/"

    [[stage]]
    pass = "prune"
    score.criterion = "bn_scale"
    select.ratio = 0.5

    [[stage]]
    name = "tuned"                      # else the name of the pass
    pass = "finetune"
    from = "prune"                      # else the stage above
    data = "train"

A pass is known by being in `onnxprune.passes.__all__`: `LoadPlan` there is `load_plan` here.
"""

from __future__ import annotations

import re
import reprlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.data.schema import Reader, options_of, unknown_key, with_defaults
from onnxprune.errors import UserError
from onnxprune.passes.export import Export
from onnxprune.pipeline.manager import Pass
from onnxprune.pipeline.stages import INPUT, Measure, Pipeline, Stage
from onnxprune.text.names import suggest
from onnxprune.text.toml_reader import table_of

_TOP = {"name": str, "model": str, "folder": str, "threads": int, "dims": dict, "data": dict, "measure": dict}
_KEYS = (*_TOP, "stage")
_OF_STAGE = ("name", "pass", "from")
_NOT_IN_FILES = ("folder",)
"""What a stopped run needs is kept where the stage is."""


def passes_by_name() -> dict[str, type[Pass]]:
    """Every pass, by what it is called in files."""
    from onnxprune import passes

    found: dict[str, Any] = {_snake(name): getattr(passes, name) for name in passes.__all__}
    return {name: thing for name, thing in found.items() if hasattr(thing, "needs")}


def read_pipeline(
    path: str | Path,
    *,
    changes: Sequence[str] = (),
    folder: str | Path | None = None,
    default_model: str | Path | None = None,
) -> Pipeline:
    """The pipeline that a file describes, checked. `changes` are `stage.key=value`, as in the file.

    `folder` takes the place of the file's, and `default_model` that of a model that it does not name.
    """
    path = Path(path)
    table = table_of(path)
    try:
        for change in changes:
            _change(table, change)
        return _pipeline(table, path, folder, default_model)
    except UserError as error:
        error.args = (f"{str(path)!r}: {error}",)
        raise


def _pipeline(
    table: Mapping[str, Any], path: Path, folder: str | Path | None, default_model: str | Path | None
) -> Pipeline:
    base = path.parent
    for key, value in table.items():
        if key not in _KEYS:
            raise UserError(unknown_key(key, key, _KEYS))
        if key != "stage" and not isinstance(value, _TOP[key]):
            raise UserError(f"{key} must be {_CALLED[_TOP[key]]}, not {reprlib.repr(value)}")
    plain = Reader(base)
    data = {name: plain.request(value, f"data.{name}") for name, value in table.get("data", {}).items()}
    reader = Reader(base, data)
    defaults = {key: table[key] for key in ("threads", "dims") if key in table}
    measured = table.get("measure", {})
    measure = with_defaults(reader.read(Measure, measured, "measure"), measured, defaults)
    name = table.get("name", path.stem)
    folder = folder if folder is not None else base / table.get("folder", f"runs/{name}")
    origin, tables = _origin(table.get("stage", []), reader)
    if origin is not None and "model" in table:
        raise UserError("model: the first stage exports one, so there is no other to begin with; leave one of them out")
    model = base / table["model"] if "model" in table else default_model
    if origin is not None:
        model = Path(folder, "export.onnx")
    elif model is None:
        raise UserError("model is missing: the ONNX file to begin with")
    elif not Path(model).exists():
        raise UserError(f"model: there is no {str(model)!r}")
    return Pipeline(
        stages=_stages(tables, reader, defaults),
        model=model,
        folder=folder,
        origin=origin,
        name=name,
        measure=measure,
        dims=table.get("dims", {}),
        modules=base,
    )


def _origin(tables: Any, reader: Reader) -> tuple[Export | None, Any]:
    """The export that a pipeline may begin with, and the stages behind it, for which it is the input."""
    first = tables[0] if isinstance(tables, list) and tables else None
    if not isinstance(first, dict) or first.get("pass") != "export":
        return None, tables
    name = first.get("name", "export")
    options = {key: value for key, value in first.items() if key not in ("name", "pass")}
    try:
        found = reader.read(Export, options)
    except UserError as error:
        error.args = (f"stage {name!r}: {error}",)
        raise
    rest = [
        {**table, "from": INPUT} if isinstance(table, dict) and table.get("from") == name else table
        for table in tables[1:]
    ]
    return found, rest


def _stages(tables: object, reader: Reader, defaults: Mapping[str, Any]) -> tuple[Stage, ...]:
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UserError("there is no stage: add [[stage]] with a pass, one for each step")
    return tuple(_stage(table, number + 1, reader, defaults) for number, table in enumerate(tables))


def _stage(table: Mapping[str, Any], number: int, reader: Reader, defaults: Mapping[str, Any]) -> Stage:
    known = passes_by_name()
    for key in _OF_STAGE:
        if not isinstance(table.get(key, ""), str):
            raise UserError(f"stage {number}: {key} must be a string, not {reprlib.repr(table[key])}")
    name = table.get("name", table.get("pass", str(number)))
    where = f"stage {name!r}"
    if "pass" not in table:
        raise UserError(f"{where}: pass is missing (there are: {', '.join(sorted(known))})")
    wanted = table["pass"]
    if wanted == "export":
        raise UserError(f"{where}: export makes the model that a pipeline begins with: it is the first stage, or none")
    if wanted not in known:
        raise UserError(
            f"{where}: there is no pass {wanted!r}{suggest(wanted, known)} (there are: {', '.join(sorted(known))})"
        )
    cls = known[wanted]
    options = {key: value for key, value in table.items() if key not in _OF_STAGE}
    for key in options:
        there = [option for option in options_of(cls) if option not in _NOT_IN_FILES]
        if key not in there:
            raise UserError(unknown_key(f"{where}: {key}", key, [*there, *_OF_STAGE]))
    try:
        step = reader.read(cls, options)
    except UserError as error:
        error.args = (f"{where}: {error}",)
        raise
    return Stage(name, with_defaults(step, options, defaults), table.get("from"))


def _change(table: dict[str, Any], change: str) -> None:
    """Do what `stage.key=value` says; values are TOML, and what is no TOML is a string."""
    place, equals, text = change.partition("=")
    *keys, last = place.strip().split(".")
    if not equals or not last:
        raise UserError(f"{change!r} does not say stage.key=value")
    try:
        value: Any = tomllib.loads(f"x = {text}")["x"]
    except ValueError:
        value = text
    at: Any = table
    stages = table.get("stage", [])
    if keys and keys[0] not in _TOP:
        named = {stage.get("name", stage.get("pass")): stage for stage in stages if isinstance(stage, dict)}
        if keys[0] not in named:
            known = [*map(str, named), "measure", "data"]
            raise UserError(f"{change!r}: there is no stage {keys[0]!r}{suggest(keys[0], known)}")
        at = named[keys.pop(0)]
    for key in keys:
        at = at.setdefault(key, {})
        if not isinstance(at, dict):
            raise UserError(f"{change!r}: {key} is no table")
    at[last] = value


_CALLED = {str: "a string", int: "a whole number", dict: "a table"}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
