"""What results look like in a notebook: small sound tables, in which names stay names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np
import pages
import pytest
from matplotlib.figure import Figure
from nets import resnet
from oracle import prepared

import onnxprune
from onnxprune.accuracy import curves_plot
from onnxprune.accuracy.curves import Curve, Point, Sensitivity
from onnxprune.accuracy.evaluate import Evaluation
from onnxprune.checking.verify import Verification
from onnxprune.cutting.plan import Cut, GroupSummary, Plan, SlotRef
from onnxprune.pipeline.running import Report, Row
from onnxprune.pipeline.stage_figures import Figures
from onnxprune.report import notebook
from onnxprune.targets.profile import KernelTime, Profile
from onnxprune.timing.bench import BenchReport, BenchRow
from onnxprune.timing.sweep import Measured, Setting, Sweep

EVIL = '<img src=x onerror="alert(1)">\u202e'


def cells(result: object) -> tuple[str, list[list[str]]]:
    """Caption and rows, the head first, as a browser would read them."""
    text = result._repr_html_()  # type: ignore[attr-defined]
    reader = pages.Strict()
    reader.feed(text)
    reader.close()
    assert reader.here is reader.root
    (table,) = reader.root.children
    assert not table.all("img", "script")
    rows = [[cell.inside for cell in row.children] for row in table.all("tr")]
    return table.all("caption")[0].inside, rows


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    model = prepared(resnet())
    coupling = onnxprune.analyze(model)
    plan = onnxprune.select(coupling, onnxprune.score(model, coupling), ratio=0.5)
    return {"model": model, "coupling": coupling, "plan": plan}


def test_coupling_and_plan(made: dict[str, Any]) -> None:
    caption, rows = cells(made["coupling"])
    assert caption.startswith("4 groups of coupled channels, 36 units; 5 channels frozen")
    assert rows[0] == ["group", "units", "members", "operators", ""]
    assert {row[0]: row[1] for row in rows[1:]} == {g.name: str(g.size) for g in made["coupling"].groups}
    caption, rows = cells(made["plan"])
    assert caption == "18 units of 36 go, from 4 of 4 groups"
    assert [row[1:] for row in rows[1:]] == [[str(n), str(n // 2), str(n // 2)] for n in (8, 6, 10, 12)]
    scores = onnxprune.score(made["model"], made["coupling"], "l1")
    caption, rows = cells(scores)
    assert caption == "scores of 4 groups by l1, to be compared within a group; the lowest go first"
    first = made["coupling"].groups[0].name
    assert rows[1] == [first, "8", *(f"{of(scores.by_group[first]):.3g}" for of in (np.min, np.median, np.max))]
    unknown = replace(made["coupling"], unknown_ops={f"my::{EVIL}": 2})
    assert cells(unknown)[0].endswith("(2x)")
    bare = Plan((Cut("g", (0, 2), (SlotRef("w", 0, 4),)),))
    assert cells(bare) == ("1 cut", [["group", "units", "removed"], ["g", "", "2 positions"]])


def test_figures(made: dict[str, Any]) -> None:
    caption, rows = cells(Verification("numeric", True, 4e-7, 0.9, 0.75, notes=(f"a {EVIL}",)))
    assert caption == "verification (numeric): passed"
    assert rows[1] == ["error against the masked original", "4e-07", "at most 1e-05"]
    assert rows[-1][0] == "note"
    row = BenchRow(EVIL, 2.0, 1.5, 3.0, 1.25, 1, 1, 1, 4000, None, {}, 4.0, 1, 500.0, 1, 1, "faster")
    caption, rows = cells(BenchReport((row,), 9, 2, "CPU", {"batch": 4}, "1"))
    assert caption == "9 rounds on CPU, 2 threads, batch=4"
    assert rows[1] == [EVIL.replace("\u202e", "\\u202e"), "2.00 ms", "1.50 ms to 3.00 ms", "1.25", "faster", "4.00 kB"]
    one = BenchReport((row,), 9, 2, "CPU", {"batch": 4}, "1")
    setting = Setting(provider="cpu", batch=4, threads=2)
    caption, rows = cells(Sweep((Measured(setting, one, (), ()),) * 2))
    assert caption == "2 settings, the models of each measured in turns"
    assert rows[2][1:] == ["CPU", "2", "batch=4", "2.00 ms", "1.25", "faster"]
    assert cells(Evaluation(50, top1=0.9, cosine=0.5)) == (
        "on 50 samples",
        [["", ""], ["accuracy", "90.0%"], ["cosine", "0.5"]],
    )
    assert cells(onnxprune.cost(made["model"]))[1][1][0] == "parameters"
    assert "opset 17" in cells(made["model"])[0]


def test_measurements() -> None:
    kernels = (KernelTime("slow", "Conv", 50.0, 2000, ("g",)), KernelTime("slower", "Conv", 70.0, 0, ()))
    caption, rows = cells(Profile(0.2, kernels, (), {}, 1, {}, ()))
    assert caption == "0.200 ms a run; the slowest of 2 kernels"
    assert [row[0] for row in rows[1:]] == ["slower", "slow"]
    curves = tuple(
        Curve(name, 8, (Point(0.5, 4, Evaluation(9, top1=top1)),)) for name, top1 in (("a", 0.8), ("b", 0.1))
    )
    found = Sensitivity("", "l1", 0, "mean", "mean", "", "x.npz", Evaluation(9, top1=0.9), curves)
    assert cells(found)[1] == [["group", "units", "50.0%"], ["b", "8", "0.8"], ["a", "8", "0.1"]]


def test_pipelines() -> None:
    figures = Figures(1000, 2000, 4000, speedup=1.5, evaluation=Evaluation(9, top1=0.5))
    stages = tuple(Row(name, "", "", False, 1.0, made, (), (), {}) for name, made in (("a", figures), ("b", None)))
    caption, rows = cells(Report("p", "m.onnx", "runs/p", False, 2.0, stages))
    assert caption == "p: 2 stages in 2.0 s, not over"
    assert rows[1:] == [["a", "1.00 k", "2.00 k", "1.50", "50.0%", "1.0 s"], ["b", "", "", "", "", "1.0 s"]]


def test_tables_stay_small() -> None:
    groups = tuple(GroupSummary(f"{i}" + "x" * 5000, 4, 1) for i in range(1000))
    text = Plan((), groups)._repr_html_()
    assert len(text) < 10_000
    assert "and 980 more" in text


def test_what_has_no_table_is_said() -> None:
    with pytest.raises(TypeError, match="no table of int"):
        notebook.html(3)


def test_graph_and_plots_are_what_their_libraries_know(made: dict[str, Any]) -> None:
    graph = made["coupling"].graph
    assert type(graph) is nx.Graph
    assert ("stem.conv.weight", 0) in graph
    curves = (Curve("a", 8, (Point(0.5, 4, Evaluation(9, top1=0.5)),)),)
    found = Sensitivity("", "l1", 0, "mean", "mean", "", "x.npz", Evaluation(9, top1=0.9), curves)
    assert isinstance(curves_plot.figure(found), Figure)
