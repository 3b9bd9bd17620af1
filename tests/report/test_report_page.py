"""What the page says, that it is sound HTML, that nothing in a name becomes markup, and that it can be read."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import html5lib
import numpy as np
import onnx
import pages
import pytest
from building import Net
from oracle import prepared

import onnxprune
from onnxprune import report
from onnxprune.accuracy.curves import Curve, Point, Sensitivity
from onnxprune.accuracy.evaluate import Evaluation
from onnxprune.errors import UserError
from onnxprune.report import Findings, Page, gather, render
from onnxprune.report.charts import ticks
from onnxprune.report.importance import histograms, removed_units
from onnxprune.report.layers import layers_of
from onnxprune.report.times import shared_out
from onnxprune.targets.kernels import Kernel
from onnxprune.timing.bench import BenchReport, BenchRow

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x07{{ 7*7 }}&amp;</style>'
STYLE = (Path(report.__file__).parent / "style.css").read_text("utf-8")


def network(evil: str = "") -> onnx.ModelProto:
    """Two convolutions and a head; with a name that is meant to be run."""
    n = Net()
    x = n.op("Relu", n.conv(n.image(1, 3, 8, 8), 16, 3, name=f"first{evil}"), name=f"act{evil}")
    x = n.op("Relu", n.conv(x, 8, 3, name=f"second{evil}"))
    x = n.op("Flatten", n.op("GlobalAveragePool", x, name="pool"), name="flatten")
    n.output(n.gemm(x, 5, name=f"head{evil}"))
    proto = n.proto()
    proto.producer_name = f"maker{evil}"
    return proto


def row(name: str, ms: float) -> BenchRow:
    return BenchRow(name, ms, ms, ms, 4 / ms, 1, 1, 1, 1, None, {}, ms, 1, 1, 1.5, 2.5, "faster")


def findings(evil: str = "", **changes: object) -> Findings:
    model = prepared(network(evil)).replace(path=Path(f"net{evil.replace('/', '')}.onnx"))
    coupling = onnxprune.analyze(model)
    scores = onnxprune.score(model, coupling)
    plan = onnxprune.select(coupling, scores, ratio=0.5)
    pruned = onnxprune.apply(model, plan)
    first = coupling.groups[0].name
    curve = Curve(first, 16, (Point(0.5, 8, Evaluation(10, top1=0.7)),))
    kept = (Evaluation(10, top1=0.9, agreement=1.0), Evaluation(10, top1=0.8, agreement=0.85))
    found = {
        "model": model,
        "coupling": coupling,
        "command": f"onnxprune prune {evil}",
        "pruned": pruned,
        "plan": plan,
        "scores": scores,
        "verification": onnxprune.verify(model, pruned, plan),
        "bench": BenchReport((row("a", 4.0), row("b", 2.0)), 9, 1, "cpu", {}, "1"),
        "kept": kept,
        "sensitivity": Sensitivity("", "l1", 0, "mean", "mean", "", f"data{evil}", kept[0], (curve,)),
        "notes": (f"a note {evil}",),
        "warnings": (f"a warning {evil}",),
    }
    return Findings(**{**found, **changes})  # type: ignore[arg-type]


def analysis(found: Findings) -> Findings:
    return Findings(found.model, found.coupling, found.command)


@pytest.fixture(scope="module")
def page() -> Page:
    return gather(findings())


def test_figures(page: Page) -> None:
    assert [(stat.value, stat.label) for stat in page.stats[2:]] == [
        ("2.00\N{MULTIPLICATION SIGN}", "as fast"),
        ("80.0%", "accuracy, \N{MINUS SIGN}10.0 points"),
    ]
    measures = {row.label: row for row in page.measures}
    # first 16x3x9+16, second 8x16x9+8, head 5x8+5; after pruning 8, 4
    assert measures["parameters"].before == "1.65 k"
    assert measures["parameters"].after == "541"
    assert measures["parameters"].share_after == pytest.approx(541 / 1653)
    assert measures["MACs"].share_after == pytest.approx((8 * 27 * 64 + 4 * 72 * 64 + 20) / (16 * 27 * 64 + 73728 + 40))
    assert (measures["accuracy"].share_before, measures["accuracy"].share_after) == (0.9, 0.8)
    assert measures["agreement"].share_after == 0.85
    assert page.verdict is not None
    assert page.verdict.word == "Verified"
    assert [(group.tag, group.units, group.kept) for group in page.groups] == [("G1", 16, 8), ("G2", 8, 4)]
    assert [(item.layer.label, item.tag) for item in page.layers] == [("first", "G1"), ("second", "G2"), ("head", "")]
    assert page.layers[1].macs_share == 1.0
    assert page.layers[1].macs_share_after == 0.25
    assert [(item.data.code, item.data.channels) for item in page.freezes] == [("graph-output", 5)]
    assert page.damage is not None
    assert page.damage.curves[0].points == (("50.0%", "20"),)


def test_histograms_and_the_threshold() -> None:
    found = findings()
    assert found.scores is not None
    assert found.plan is not None
    shown = {item.group: item for item in histograms(found.coupling, found.scores, found.plan)}
    values = np.sort(found.scores.by_group["first"])
    assert shown["first"].threshold == pytest.approx((values[7] + values[8]) / 2)
    assert (sum(shown["first"].kept), sum(shown["first"].cut), shown["first"].removed) == (8, 8, 8)
    lowest = np.sort(np.argsort(found.scores.by_group["first"])[:8])
    assert removed_units(found.coupling, found.plan)["first"].tolist() == lowest.tolist()
    upside_down = onnxprune.score(found.model, found.coupling, "random", seed=3)
    other = {item.group: item for item in histograms(found.coupling, upside_down, found.plan)}
    assert other["first"].threshold is None, "what went is not what this criterion rates lowest"


def test_units_that_went_in_an_earlier_step_have_no_score() -> None:
    found = findings()
    assert found.scores is not None
    assert found.plan is not None
    gone = removed_units(found.coupling, found.plan)
    known = {name: np.array(values, float) for name, values in found.scores.by_group.items()}
    known["first"][gone["first"][:3]] = -np.inf
    known["second"][:] = -np.inf
    scores = replace(found.scores, by_group=known)
    (shown,) = histograms(found.coupling, scores, found.plan)
    assert (shown.group, shown.removed, shown.earlier) == ("first", 8, 3)
    assert (sum(shown.kept), sum(shown.cut)) == (8, 5)
    assert np.isfinite([shown.low, shown.high, shown.threshold]).all()
    text = pages.parsed(render(gather(replace(found, scores=scores)))).inside
    assert "3 of them in earlier steps" in text
    assert "inf" not in text.replace("information", "")


def test_without_layers_nothing_is_drawn() -> None:
    net = Net()
    net.output(net.op("Relu", net.image(1, 3, 8, 8)))
    model = prepared(net.proto())
    text = pages.parsed(render(gather(Findings(model, onnxprune.analyze(model))))).inside
    assert "there is nothing to draw" in text
    assert "dearest" not in text


def test_what_would_go_while_nothing_is_decided() -> None:
    found = findings()
    assert found.scores is not None
    shown = histograms(found.coupling, found.scores, None)
    assert [(item.group, item.units, item.removed) for item in shown] == [("first", 16, 0), ("second", 8, 0)]
    for item, lowest in zip(shown, (5, 2), strict=True):  # 30 % of 16, of 8
        values = found.scores.by_group[item.group]
        assert item.threshold is not None
        assert int((values < item.threshold).sum()) == lowest
    text = render(gather(Findings(found.model, found.coupling, scores=found.scores)))
    assert "the lowest 30% lie below" in pages.parsed(text).inside
    assert text.count("threshold") == 3, "two lines and their rule"


def test_large_networks_have_pages_of_a_bounded_size() -> None:
    from dataclasses import replace

    page = gather(findings())
    many = replace(
        page, layers=page.layers * 1000, groups=page.groups * 1000, histograms=page.histograms * 1000, further_blocks=7
    )
    text = render(many)
    assert len(text) < 3_000_000
    for said in (
        "<caption>The first 1,000 of 3,000 layers</caption>",
        "<caption>The first 1,000 of 2,000 groups, in the order of the graph</caption>",
        "The charts of 1,800 groups are left out, for want of room.",
        "7 further parts not drawn, for want of room.",
    ):
        assert said in text


def test_time_goes_to_layers_and_the_rest_by_operator() -> None:
    found = findings()
    layers = layers_of(found.model, found.coupling, onnxprune.cost(found.model), None, None)
    outputs = {node.name: node.output[0] for node in found.model.graph.node}
    relu = found.model.graph.node[1].output[0]
    kernels = [
        Kernel("k0", "Conv", 300.0, "image", relu),
        Kernel("k1", "ReorderOutput", 50.0, None, None),
        Kernel("k3", "Conv", 200.0, relu, outputs["second"]),
        Kernel("k2", "Gemm", 100.0, outputs["pool"], outputs["head"]),
    ]
    by_node, others = shared_out(found.model, kernels, layers)
    assert by_node == pytest.approx({"first": 0.3, "second": 0.2, "head": 0.1})
    assert others == pytest.approx({"ReorderOutput": 0.05})
    timed = gather(findings(kernels=(tuple(kernels), tuple(kernels))))
    assert [item.ms_share for item in timed.layers] == pytest.approx([1.0, 2 / 3, 1 / 3])
    assert timed.is_timed


@pytest.mark.parametrize("evil", ["", HOSTILE])
def test_pages_are_sound(evil: str) -> None:
    found = findings(evil)
    for each in (found, analysis(found)):
        root = pages.parsed(render(gather(each)))
        assert root.all("h1")[0].inside.startswith("net")
        assert [item.inside.strip() for item in root.all("nav")[0].all("a")][:2] == ["Summary", "Network"]
        assert len(root.all("svg")) >= 2


def test_names_stay_names() -> None:
    text = render(gather(findings(HOSTILE)))
    root = pages.parsed(text)
    assert "<script" not in text
    assert "onerror=alert(2)&gt;" in text
    assert "\u202e" not in text
    assert "\x07" not in text
    assert "{{ 7*7 }}" in root.inside, "no name is a template"
    assert "&amp;amp;" in text
    assert len(root.all("style")) == 1
    assert root.all("meta")[1].marks["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_endless_names_are_shortened() -> None:
    plain, long = (len(render(gather(findings(evil)))) for evil in ("", "x" * 100_000))
    assert long < plain + 200_000


@pytest.mark.parametrize("dark", [False, True])
def test_contrast(dark: bool) -> None:
    found = pages.colours(STYLE, dark=dark)
    assert len(found) == 21
    for text in ("ink", "soft", "accent", "good", "open"):
        for ground in ("paper", "panel"):
            assert pages.contrast(found[text], found[ground]) >= 4.5, (text, ground)
    for shape in ("was", "is", "edge", "frozen", *(f"c{i}" for i in range(8))):
        for ground in ("paper", "panel"):
            assert pages.contrast(found[shape], found[ground]) >= 3.0, (shape, ground)


def test_contrast_of_the_extremes() -> None:
    assert pages.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert pages.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize(
    "broken",
    ["<p>", "<div></p></div>", '<i id="a"></i><i id="a"></i>', "<script></script>", "&nosuch;", "<i></i id=a>", "<td>"],
)
def test_the_reader_sees(page: Page, broken: str) -> None:
    with pytest.raises((AssertionError, html5lib.html5parser.ParseError)):
        pages.parsed(render(page).replace("</main>", f"{broken}</main>"))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 2048, [0, 500, 1000, 1500, 2000]), (3, 3, [3]), (0.97, 1.0, None)],
)
def test_ticks_are_round(low: float, high: float, expected: list[float] | None) -> None:
    found = ticks(low, high)
    assert all(low <= value <= high for value in found)
    if expected is not None:
        assert found == pytest.approx(expected)
    assert 1 <= len(found) <= 7


def test_without_jinja2(monkeypatch: pytest.MonkeyPatch, page: Page) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    for attempt in (report.check, lambda: render(page)):
        with pytest.raises(UserError, match=r"^a report needs jinja2: pip install 'onnxprune\[report\]'$"):
            attempt()
