"""The page in a real browser, on a phone and a desktop, in both themes and on paper; skipped where there is none.

What is asserted is what can be measured: nothing sticks out, nothing is fetched, all text can be told from what lies
behind it, and the keyboard reaches what a finger can.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import axe_core_python
import browser
import pytest
from nets import mobilenet
from oracle import prepared

import onnxprune
from onnxprune.report import Findings, comparison, gather, render
from onnxprune.report.pareto import compare
from onnxprune.report.runs import Point

pytestmark = [
    pytest.mark.skipif(browser.found() is None, reason="no Chromium here: apt-get install chromium, or set CHROMIUM"),
    pytest.mark.xdist_group("browser"),
]

CONTRASTS = """
(() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const found = parts(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const bad = [];
  let seen = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.getClientRects().length || element.closest('title')) continue;
    const style = getComputedStyle(element), drawn = element.closest('svg');
    const box = drawn && element.parentElement.querySelector('.box, rect');
    const one = light(parts(drawn ? style.fill : style.color));
    const two = light(box ? parts(getComputedStyle(box).fill) : behind(element));
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    seen += 1;
    if (ratio < 4.5) bad.push([element.outerHTML.slice(0, 120), ratio]);
  }
  return [seen, bad];
})()
"""
OUTSIDE = """
[...document.querySelectorAll('svg.net g.layer')].filter(g => {
  const box = g.querySelector('.box').getBoundingClientRect();
  return [...g.querySelectorAll('text')].some(text => {
    const at = text.getBoundingClientRect();
    return at.left < box.left || at.right > box.right + 1 || at.top < box.top || at.bottom > box.bottom;
  });
}).map(g => g.textContent)
"""


AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text("utf-8")
FLAWS = """
(async () => {
  document.querySelectorAll('details').forEach(details => details.open = true);
  const found = await axe.run(document, {resultTypes: ['violations']});
  return [found.passes.map(rule => rule.id),
    found.violations.map(rule => [rule.id, rule.nodes.map(node => node.html.slice(0, 120))])];
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network with depthwise convolutions, a gate and a shortcut."""
    model = prepared(mobilenet())
    coupling = onnxprune.analyze(model)
    scores = onnxprune.score(model, coupling)
    plan = onnxprune.select(coupling, scores, ratio=0.5)
    pruned = onnxprune.apply(model, plan)
    checked = onnxprune.verify(model, pruned, plan)
    path = tmp_path_factory.mktemp("page") / "page.html"
    found = Findings(model, coupling, "onnxprune prune", pruned=pruned, plan=plan, scores=scores, verification=checked)
    path.write_text(render(gather(found)), "utf-8")
    return path


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    points = [
        Point(f"runs/{at}", "model", at % 2 == 0, {"macs": 1e9 / (at + 1), "accuracy": 1 - at / 9}) for at in range(6)
    ]
    path = tmp_path_factory.mktemp("compared") / "compare.html"
    path.write_text(comparison.page(compare(points), ["compare", "runs"]), "utf-8")
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Tab]:
    with browser.tab(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_and_can_be_read(tab: browser.Tab, page: Path, width: int, dark: bool) -> None:
    tab.open(page, width=width, dark=dark)
    assert tab.value("document.documentElement.scrollWidth") <= width
    ground = tab.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    seen, bad = tab.value(CONTRASTS)
    assert seen > 100
    assert bad == []
    assert tab.value("document.querySelectorAll('svg.net g.layer').length") >= 7
    assert tab.value(OUTSIDE) == []
    asked = [
        event["params"]["request"]["url"] for event in tab.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert asked == [page.resolve().as_uri()], "nothing is fetched"
    assert [event for event in tab.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")] == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_comparison_fits_and_can_be_read(tab: browser.Tab, compared: Path, dark: bool) -> None:
    tab.open(compared, width=390, dark=dark)
    assert tab.value("document.documentElement.scrollWidth") <= 390
    seen, bad = tab.value(CONTRASTS)
    assert seen > 40
    assert bad == []
    assert tab.value("document.querySelectorAll('.dot').length") == 6


def test_the_guard_sees(tab: browser.Tab, page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    text = page.read_text("utf-8").replace("--soft: #57606a", "--soft: #aaaaaa")
    broken.write_text(text.replace("<main", '<img src="x.png" style="width:2000px;height:1px"><main'), "utf-8")
    tab.open(broken, width=390)
    assert tab.value("document.documentElement.scrollWidth") > 390
    assert len(tab.value(CONTRASTS)[1]) > 10
    tab.value("new Promise(done => setTimeout(done, 50))")
    assert [event for event in tab.events if event["method"] == "Log.entryAdded"], "what the page forbids is reported"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_no_flaw(tab: browser.Tab, page: Path, compared: Path, width: int, dark: bool) -> None:
    """All its rules, those of WCAG A and AA and the advice, with everything unfolded."""
    for path in (page, compared):
        tab.open(path, width=width, dark=dark)
        tab.value(f"{AXE}; 0")
        passed, flaws = tab.value(FLAWS)
        assert flaws == []
        assert {"color-contrast", "html-has-lang", "region"} <= {*passed}


def test_axe_sees(tab: browser.Tab, page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    text = page.read_text("utf-8").replace("--soft: #57606a", "--soft: #aaaaaa").replace('lang="en"', "")
    broken.write_text(text.replace("<main", '<img src="x.png"><main'), "utf-8")
    tab.open(broken)
    tab.value(f"{AXE}; 0")
    assert {"color-contrast", "html-has-lang", "image-alt"} <= {rule for rule, _ in tab.value(FLAWS)[1]}


def test_keyboard(tab: browser.Tab, page: Path) -> None:
    tab.open(page, width=390)
    reached = []
    for _ in range(100):
        for kind in ("keyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        here = tab.value("[document.activeElement.tagName, document.activeElement.getAttribute('href')]")
        if here[0] == "BODY" or (reached and here == reached[0]):
            break
        reached.append(here)
    assert reached[0] == ["A", "#content"], "the way past the navigation comes first"
    assert [href for tag, href in reached if tag == "A"][1:3] == ["#summary", "#network"]
    assert {"A", "DIV", "SUMMARY", "PRE"} <= {tag for tag, _ in reached}
    assert len(reached) == tab.value("document.querySelectorAll('a, summary, [tabindex]').length")


def test_what_is_read_aloud(tab: browser.Tab, page: Path) -> None:
    tab.open(page)
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    roles: dict[str, list[str]] = {}
    for node in nodes:
        if not node.get("ignored"):
            roles.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert len(roles["main"]) == len(roles["navigation"]) == 1
    for role in ("image", "table", "region", "heading", "navigation"):
        assert roles[role], role
        assert all(name.strip() for name in roles[role]), role


def test_on_paper(tab: browser.Tab, page: Path) -> None:
    tab.open(page, media="print", dark=True)
    assert tab.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert tab.pdf().startswith(b"%PDF")
