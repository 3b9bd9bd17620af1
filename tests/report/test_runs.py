"""Runs are read back as they were written, by whatever command, and the front is the one that paper gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pages
import pytest

from onnxprune.errors import UserError
from onnxprune.report import comparison, pareto_plot
from onnxprune.report.pareto import compare
from onnxprune.report.runs import Point, read_runs


def pruning(ms: float, speedup: float, top1: float, **more: Any) -> dict[str, Any]:
    side = {"params": 1000, "macs": 5000, "bytes": 4000, "latency_ms": ms, "data": {"top1": 0.9, "agreement": 1.0}}
    after = {**side, "params": 400, "latency_ms": 99.0, "data": {"top1": top1, "agreement": 0.8}}
    run = {"command": "prune", "before": side, "after": after, "speedup": speedup}
    return {**run, "verification": {"deviation": 0.5}, **more}


def written(path: Path, data: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), "utf-8")
    return path


def test_pruning(tmp_path: Path) -> None:
    original, pruned = read_runs([written(tmp_path / "half.json", pruning(4.0, 2.0, 0.8))])
    assert (original.run, original.name, original.original) == ("half", "original", True)
    assert (pruned.name, pruned.original) == ("pruned", False)
    assert pruned.figures == {
        "params": 400,
        "macs": 5000,
        "bytes": 4000,
        "latency": 2.0,  # by the speed-up, as `prune` says it
        "speedup": 2.0,
        "accuracy": 0.8,
        "agreement": 0.8,
        "deviation": 0.5,
    }
    assert original.figures["deviation"] == 0.0


def test_bench_and_its_settings(tmp_path: Path) -> None:
    row = {"name": "a.onnx", "params": 10, "file_bytes": 99, "median_ms": 2.5, "speedup": 1.0}
    one = {"command": "bench", "rows": [row, {**row, "name": "b.onnx"}], "threads": 1}
    assert [(p.name, p.original) for p in read_runs([written(tmp_path / "b.json", one)])] == [
        ("a.onnx", True),
        ("b.onnx", False),
    ]
    assert "bytes" not in read_runs([tmp_path / "b.json"])[0].figures, "a file's size is not that of its weights"
    many = {"command": "bench", "settings": [{**one, "threads": n, "dims": {"batch": n}} for n in (1, 2)]}
    names = [p.name for p in read_runs([written(tmp_path / "many.json", many)])]
    assert names[0] == "a.onnx (threads=1, batch=1)"
    assert len(set(names)) == 4


def test_pipelines(tmp_path: Path) -> None:
    figures = {"params": 10, "macs": 20, "bytes": 40, "latency_ms": 2.0, "evaluation": {"samples": 4, "top1": 0.5}}
    stages = [
        {"name": "input", "figures": figures},
        {"name": "scores", "figures": None},
        {"name": "few", "figures": {**figures, "speedup": 1.5, "evaluation": None}},
    ]
    for name in ("one", "two"):
        written(tmp_path / "runs" / name / "summary.json", {"name": "pipeline", "stages": stages})
    found = read_runs([tmp_path / "runs/one", tmp_path / "runs/two/summary.json"])
    assert [(p.run, p.name, p.original) for p in found] == [
        ("one", "input", True),
        ("one", "few", False),
        ("two", "input", True),
        ("two", "few", False),
    ]
    assert found[0].figures["speedup"] == 1.0
    assert "accuracy" not in found[1].figures
    assert found[1].figures["latency"] == pytest.approx(2.0 / 1.5), "by the speed-up, not the stage's own 2.0"


def test_names_differ(tmp_path: Path) -> None:
    files = [written(tmp_path / folder / "run.json", pruning(1, 1, 1)) for folder in ("a", "b")]
    assert {p.run for p in read_runs(files)} == {"a/run", "b/run"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "a run must be an object"),
        ({"command": "analyze"}, "neither what prune"),
        ({"before": [], "after": {}}, "before must be an object"),
        ({"before": {"params": "x"}, "after": {}}, "before.params must be a number"),
        ({"stages": 3}, "stages must be a list"),
        ({"stages": [{"figures": None}]}, "holds no model"),
        ({"command": "bench", "rows": [{"median_ms": 1}]}, r"rows\[0\].name must be a string"),
        ({**pruning(1, 1, 1), "speedup": True}, "speedup must be a number"),
        (pruning(1, 1, 1, verification=[1]), "verification must be an object"),
    ],
)
def test_files_of_others(tmp_path: Path, data: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_runs([written(tmp_path / "x.json", data)])


def test_mistakes(tmp_path: Path) -> None:
    file = written(tmp_path / "x.json", pruning(1, 1, 1))
    mistakes = (([tmp_path], "no summary.json"), ([file, file], "given twice"), ([tmp_path / "no"], "cannot read"))
    for paths, said in mistakes:
        with pytest.raises(UserError, match=said):
            read_runs(paths)
    file.write_text("[" * 100_000)
    with pytest.raises(UserError, match="too deeply"):
        read_runs([file])


def point(run: str, original: bool = False, **figures: float) -> Point:
    return Point(run, "original" if original else "pruned", original, figures)


PLANE = [
    point("a", True, latency=4.0, accuracy=0.90),
    point("a", latency=2.0, accuracy=0.88),
    point("b", latency=2.0, accuracy=0.87),  # beaten by a
    point("c", latency=1.0, accuracy=0.70),
    point("d", latency=1.0, accuracy=0.70),  # as good as c
    point("e", latency=3.0, accuracy=0.88),  # beaten by a
    point("f", latency=9.0),
]


def test_front() -> None:
    found = compare(PLANE)
    assert (found.x, found.y) == ("latency", "accuracy")
    assert found.front == {0, 1, 3, 4}
    assert found.drawn == (0, 1, 2, 3, 4, 5)
    assert found.notes == ("1 of 7 models lack latency or accuracy and are only in the table",)
    turned = compare([point("a", speedup=2, deviation=0.1), point("b", speedup=3, deviation=0.1)], "speedup")
    assert turned.front == {1}, "more speed and less deviation are better"


def test_times_of_unequal_machines_are_not_compared() -> None:
    points = [
        point("a", True, latency=4.0, speedup=1, accuracy=0.9),
        point("a", latency=3.9, speedup=1.03, accuracy=0.8),
        point("b", True, latency=5.0, speedup=1, accuracy=0.9),
        point("b", latency=4.0, speedup=1.25, accuracy=0.8),
    ]
    found = compare(points)
    assert found.x == "speedup"
    assert found.front == {0, 2, 3}
    assert "its own original" in found.notes[0]
    asked = compare(points, "latency")
    assert (asked.x, asked.front) == ("latency", {0, 1})
    assert "--x speedup" in asked.notes[0]


def test_what_there_is_decides_the_plane() -> None:
    assert (compare([point("a", macs=1, agreement=0.5)]).x, compare([point("a", macs=1)]).y) == ("macs", "")
    for x, said in (("time", "no figure of a run"), ("bytes", "none of the runs measured bytes")):
        with pytest.raises(UserError, match=said):
            compare(PLANE, x)
    with pytest.raises(UserError, match="both latency: name what a model costs and how good it is"):
        compare(PLANE, "latency", "latency")


def test_drawings() -> None:
    found = compare(PLANE)
    axes = pareto_plot.figure(found).axes[0]
    (front,) = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert front.get_xydata().tolist() == [[1, 70], [1, 70], [2, 88], [4, 90]]
    assert axes.get_xlabel() == "latency in ms"
    root = pages.parsed(comparison.page(found, ["compare", "<b>"]))
    spans = [(item.marks.get("class", ""), item) for item in root.all("span")]
    assert [item.inside for kind, item in spans if kind == "dot-label"] == ["original", "2", "3", "4, 5", "6"]
    dots = [item for kind, item in spans if kind.split()[:1] == ["dot"]]
    assert len(dots) == 6
    assert [("beaten" in d.marks["class"], "start" in d.marks["class"]) for d in dots][:3] == [
        (False, True),
        (False, False),
        (True, False),
    ]
    assert "onnxprune compare '<b>'" in root.all("pre")[0].inside
    beaten = [row.children[-1].inside for row in root.all("tr")[1:]]
    assert beaten == ["no", "no", "yes", "no", "no", "yes", ""]
