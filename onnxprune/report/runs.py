"""What runs came to, read back from what they wrote, so that they can be held against each other.

    prune.json, apply.json   what `onnxprune prune --json` prints: the original and the result
    bench.json               what `onnxprune bench --json` prints, or --save writes: a point for each model
    runs/name/               the folder of a pipeline, or its summary.json: a point for each stage that made a model

A file may come from anybody, so whatever it holds is what was expected, or an error that says where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from onnxprune.errors import UserError
from onnxprune.text.json_reader import items, number, parsed, read_text, string, wrong

SUMMARY = "summary.json"
COSTS = ("latency", "macs", "params", "bytes")
"""Less is better: milliseconds, and what is counted."""
QUALITIES = ("accuracy", "metric", "agreement", "deviation")
"""More is better, but for the deviation."""
FIGURES = (*COSTS, "speedup", *QUALITIES)
MOST = 1 << 26
"""Bytes of a file that is read."""


@dataclass(frozen=True)
class Point:
    """One model."""

    run: str
    name: str
    original: bool
    """It is what the others of its run were made of."""
    figures: Mapping[str, float]
    """By name, as in `FIGURES`; what was not measured is not there."""


def read_runs(paths: Sequence[str | Path]) -> list[Point]:
    """All points of all runs. Runs of the same name are told apart by the folders before it."""
    files = [_file(Path(path)) for path in paths]
    for file in files:
        if files.count(file) > 1:
            raise UserError(f"{str(file)!r} is given twice")
    names = _names(files)
    found = []
    for file, name in zip(files, names, strict=True):
        points = parsed(read_text(file, "run"), str(file), "run", partial(_points, run=name))
        if not points:
            raise UserError(f"{str(file)!r} holds no model that was measured")
        found += points
    return found


def _file(path: Path) -> Path:
    try:
        file = path / SUMMARY if path.is_dir() else path
        large = file.is_file() and file.stat().st_size > MOST
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the run {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
    if path.is_dir() and not file.exists():
        raise UserError(f"{str(path)!r} is no run: it has no {SUMMARY}; give the folder of a pipeline or a JSON file")
    if large:
        raise UserError(f"{str(file)!r} is too large to be a run")
    return file


def _names(files: Sequence[Path]) -> list[str]:
    """As short as they can be while they differ."""
    parts = [[*file.parts[:-1], *([] if file.name == SUMMARY else [file.stem])] or ["run"] for file in files]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(file) for file in files]


def _points(data: object, run: str) -> list[Point]:
    if not isinstance(data, dict):
        raise wrong("a run", "an object", data)
    if "stages" in data:
        return _pipeline(data, run)
    if data.get("command") == "bench":
        return _bench(data, run)
    if "before" in data and "after" in data:
        return _pruning(data, run)
    raise UserError("it is neither what prune, apply or bench print with --json nor the summary of a pipeline")


def _pruning(data: dict[str, Any], run: str) -> list[Point]:
    before, after = _side(data["before"], "before"), _side(data["after"], "after")
    speedup = data.get("speedup")
    if speedup is not None:
        before["speedup"], after["speedup"] = 1.0, number(speedup, "speedup")
        _time_by_speedup(after, before)
    deviation = _table(data.get("verification"), "verification").get("deviation")
    if deviation is not None and "deviation" not in after:
        before["deviation"], after["deviation"] = 0.0, number(deviation, "verification.deviation")
    return [Point(run, "original", True, before), Point(run, "pruned", False, after)]


def _side(data: object, where: str) -> dict[str, float]:
    table = _table(data, where)
    found = _numbers(table, where, {"params": "params", "macs": "macs", "bytes": "bytes", "latency_ms": "latency"})
    return found | _evaluation(table.get("data"), f"{where}.data")


def _bench(data: dict[str, Any], run: str) -> list[Point]:
    settings = items(data["settings"], "settings", _table) if "settings" in data else [data]
    found = []
    for setting in settings:
        where = _setting(setting) if len(settings) > 1 else ""
        for index, row in enumerate(items(setting.get("rows"), "rows", _table)):
            name = string(row.get("name"), f"rows[{index}].name")
            keys = {"params": "params", "median_ms": "latency", "speedup": "speedup"}  # its bytes are the file's
            found.append(Point(run, name + where, index == 0, _numbers(row, f"rows[{index}]", keys)))
    return found


def _setting(data: Mapping[str, Any]) -> str:
    """What tells one setting of a sweep from the others."""
    parts = [f"{name}={data[name]}" for name in ("provider", "threads") if name in data]
    dims = data.get("dims")
    parts += [f"{name}={size}" for name, size in dims.items()] if isinstance(dims, dict) else []
    return f" ({', '.join(parts)})" if parts else ""


def _pipeline(data: dict[str, Any], run: str) -> list[Point]:
    found: list[Point] = []
    keys = {"params": "params", "macs": "macs", "bytes": "bytes", "latency_ms": "latency", "speedup": "speedup"}
    for index, stage in enumerate(items(data["stages"], "stages", _table)):
        where = f"stages[{index}]"
        if stage.get("figures") is None:
            continue  # a stage that made no model
        figures = _table(stage["figures"], f"{where}.figures")
        numbers = _numbers(figures, f"{where}.figures", keys)
        numbers |= _evaluation(figures.get("evaluation"), f"{where}.figures.evaluation")
        if index == 0 and "latency" in numbers:
            numbers["speedup"] = 1.0
        elif found:
            _time_by_speedup(numbers, found[0].figures)
        found.append(Point(run, string(stage.get("name"), f"{where}.name"), index == 0, numbers))
    return found


def _time_by_speedup(figures: dict[str, float], original: Mapping[str, float]) -> None:
    """Only the speed-up was measured in turns with the original, so that the time is told by it, as `prune` does."""
    if "latency" in original and figures.get("speedup", 0.0) > 0:
        figures["latency"] = original["latency"] / figures["speedup"]


def _evaluation(data: object, where: str) -> dict[str, float]:
    if data is None:
        return {}
    keys = {"top1": "accuracy", "metric": "metric", "agreement": "agreement", "deviation": "deviation"}
    return _numbers(_table(data, where), where, keys)


def _numbers(data: Mapping[str, Any], where: str, keys: Mapping[str, str]) -> dict[str, float]:
    return {name: number(data[key], f"{where}.{key}") for key, name in keys.items() if data.get(key) is not None}


def _table(data: object, where: str) -> dict[str, Any]:
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise wrong(where, "an object", data)
    return data
