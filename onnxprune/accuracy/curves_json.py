"""The file of a sensitivity measurement: what is read back equals what was written, but for what JSON cannot hold.

    {
      "version": 1,
      "model": "5f0c…", "criterion": "l1", "seed": 0, "reduce": "mean", "normalize": "mean",
      "data": {"spec": "val/", "digest": "91ab…"},
      "baseline": {"samples": 500, "top1": 0.992, ...},
      "groups": [
        {"name": "stem.0", "units": 16, "points": [
          {"ratio": 0.25, "removed": 4, "samples": 500, "top1": 0.99, "agreement": 0.994, ...},
    ...

A line per point. Figures that there are none of are left out, and so are infinite ones, as sqnr_db of equal outputs is.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxprune.accuracy.curves import Curve, Point, Sensitivity
from onnxprune.accuracy.evaluate import Evaluation
from onnxprune.errors import UserError
from onnxprune.files.replacing import write_text
from onnxprune.text.json_reader import check_version, fields, items, number, parsed, read_text, string, whole

VERSION = 1
_SHARES = ("top1", "top5", "agreement")
FIGURES = (*_SHARES, "deviation", "cosine", "sqnr_db")
"""Of an evaluation, those that are kept."""
_HOW = ("criterion", "seed", "reduce", "normalize")


def save(found: Sensitivity, path: str | Path) -> None:
    """Write the file; it appears complete or not at all."""
    write_text(Path(path), to_json(found))


def load(path: str | Path) -> Sensitivity:
    """Read a file."""
    return parsed(read_text(path, "sensitivity file"), str(path), "sensitivity file", _found)


def to_json(found: Sensitivity) -> str:
    """The text of the file."""
    head = {"version": VERSION, "model": found.model, **{name: getattr(found, name) for name in _HOW}}
    head["data"] = {"spec": found.spec, "digest": found.data}
    lines = [f"  {_line(key)}: {_line(value)}," for key, value in head.items()]
    lines.append(f'  "baseline": {_line(figures_of(found.baseline))},')
    groups = []
    for curve in found.curves:
        points = [{"ratio": p.ratio, "removed": p.removed, **figures_of(p.figures)} for p in curve.points]
        text = ",\n".join(f"      {_line(point)}" for point in points)
        groups.append(f'    {{"name": {_line(curve.group)}, "units": {curve.units}, "points": [\n{text}\n    ]}}')
    listed = ",\n".join(groups)
    return "\n".join(["{", *lines, f'  "groups": [\n{listed}\n  ]' if groups else '  "groups": []', "}"]) + "\n"


def figures_of(found: Evaluation) -> dict[str, Any]:
    """The figures that there are."""
    values = {name: getattr(found, name) for name in FIGURES}
    return {"samples": found.samples, **{k: v for k, v in values.items() if v is not None and math.isfinite(v)}}


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _found(data: object) -> Sensitivity:
    check_version(data, VERSION, "sensitivity")
    found = fields(data, "the file", ("version", "model", *_HOW, "data", "baseline", "groups"))
    source = fields(found["data"], "data", ("spec", "digest"))
    curves = tuple(items(found["groups"], "groups", _curve))
    for name, count in Counter(curve.group for curve in curves).items():
        if count > 1:
            raise UserError(f"groups: {name!r} occurs twice")
    return Sensitivity(
        model=string(found["model"], "model"),
        criterion=string(found["criterion"], "criterion"),
        seed=whole(found["seed"], "seed"),
        reduce=string(found["reduce"], "reduce"),
        normalize=string(found["normalize"], "normalize"),
        data=string(source["digest"], "data.digest"),
        spec=string(source["spec"], "data.spec"),
        baseline=_figures(fields(found["baseline"], "baseline", ("samples",), FIGURES), "baseline"),
        curves=curves,
    )


def _curve(data: object, where: str) -> Curve:
    found = fields(data, where, ("name", "units", "points"))
    units = whole(found["units"], f"{where}.units")
    points = tuple(items(found["points"], f"{where}.points", _point))
    for point in points:
        if not 0 < point.removed < units:
            raise UserError(f"{where}: {point.removed} of {units} units cannot be removed")
    return Curve(string(found["name"], f"{where}.name"), units, points)


def _point(data: object, where: str) -> Point:
    found = fields(data, where, ("ratio", "removed", "samples"), FIGURES)
    ratio = number(found["ratio"], f"{where}.ratio")
    if not 0 < ratio < 1:
        raise UserError(f"{where}.ratio must lie between 0 and 1, not {ratio}")
    return Point(ratio, whole(found["removed"], f"{where}.removed"), _figures(found, where))


def _figures(found: dict[str, Any], where: str) -> Evaluation:
    values = {name: number(found[name], f"{where}.{name}") for name in FIGURES if name in found}
    for name in _SHARES:
        if not 0 <= values.get(name, 0) <= 1:
            raise UserError(f"{where}.{name} must be 0 to 1, not {values[name]}")
    if values.get("deviation", 0) < 0:
        raise UserError(f"{where}.deviation must be 0 or more, not {values['deviation']}")
    return replace(Evaluation(whole(found["samples"], f"{where}.samples")), **values)  # type: ignore[arg-type]  # floats
