"""What a pipeline has done, or would do, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnxprune.accuracy.evaluate import Evaluation
from onnxprune.cli.tables import Column, Grid, Part
from onnxprune.pipeline.manager import name_of
from onnxprune.pipeline.running import Report, Row, Todo
from onnxprune.pipeline.stages import INPUT, Pipeline
from onnxprune.text.figures import count, percent, plural, size

_JUDGED: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("Metric", "metric", lambda value: f"{value:.4g}"),
    ("Accuracy", "top1", percent),
    ("Agreement", "agreement", percent),
    ("Deviation", "deviation", lambda value: f"{value:.3g}"),
)
"""Title and field of `Evaluation`; the first of these that was measured is shown."""


def planned(asked: Pipeline, todo: Sequence[Todo]) -> dict[str, Any]:
    """For JSON: what would run."""
    stages = [
        {"name": each.stage.name, "step": name_of(each.stage.step), "start": _start(asked, each), "why": each.why}
        for each in todo
    ]
    return {"name": asked.name, "model": asked.model, "folder": asked.folder, "stages": stages}


def plan_parts(asked: Pipeline, todo: Sequence[Todo]) -> list[Part]:
    """What would run, and why."""
    columns = [Column(title, name=True) for title in ("Stage", "Pass", "From", "")]
    rows = [
        [each.stage.name, name_of(each.stage.step), _start(asked, each), f"runs: {each.why}" if each.why else "is kept"]
        for each in todo
    ]
    runs = sum(bool(each.why) for each in todo)
    return [Grid(columns, rows), "", f"{runs} of {plural(len(todo), 'stage')} would run, in {asked.folder}."]


def parts(found: Report) -> list[Part]:
    """The figures of every stage that made a model, and how long each took."""
    judged = next((each for each in _JUDGED if any(_judged(row, each[1]) is not None for row in found.stages)), None)
    kept = sum(row.kept for row in found.stages[1:])
    columns = [Column("Stage", name=True), *map(Column, ("Params", "MACs", "Weights", "Speed-up"))]
    columns += [Column(judged[0])] if judged else []
    columns += [Column("Time"), *([Column("", name=True)] if kept else [])]
    rows = []
    for row in found.stages:
        cells = [row.name, *_counted(row)]
        if judged is not None:
            value = _judged(row, judged[1])
            cells.append("" if value is None else judged[2](value))
        cells.append("" if row.name == INPUT else f"{row.seconds:.1f} s")
        rows.append([*cells, *(["kept" if row.kept and row.name != INPUT else ""] if kept else [])])
    said = plural(len(found.stages) - 1, "stage") + (f", {kept} of them done before" if kept else "")
    return [Grid(columns, rows), "", f"{said}. Results are in {found.folder}."]


def _counted(row: Row) -> list[str]:
    figures = row.figures
    if figures is None:
        return [""] * 4
    faster = figures.speedup if figures.verdict != "reference" else None
    # a number whose interval holds 1 would look like a result
    unsure = "?" if figures.verdict == "too noisy to tell" else ""
    return [count(figures.params), count(figures.macs), size(figures.bytes), f"{unsure}{faster:.2f}x" if faster else ""]


def _judged(row: Row, name: str) -> float | None:
    found: Evaluation | None = row.figures.evaluation if row.figures is not None else None
    value: float | None = getattr(found, name, None)
    return value


def _start(asked: Pipeline, todo: Todo) -> str:
    before = asked.before(todo.stage)
    return before.name if before else INPUT
