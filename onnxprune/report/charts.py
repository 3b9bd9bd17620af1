"""Charts whose shapes stretch with the page while their words do not: words stand beside the shapes, as text.

A chart is drawn into the unit square (x to the right, y up); where a tick, a dot or a label belongs is a share of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxprune.accuracy.curves import Curve, Sensitivity
from onnxprune.report.importance import Histogram
from onnxprune.report.layers import Layer
from onnxprune.report.pareto import LABELS, Comparison
from onnxprune.report.svg import Element, add, drawing, markup, polyline
from onnxprune.text.figures import count

W, H = 1000.0, 400.0
"""Of what is drawn; how large it gets is the page's business."""
NEAR = 0.03
"""Dots that are nearer to each other than that share one label."""

Bar = tuple[float, float, float, float]
"""Where it begins, how wide it is, and, as shares of the height, where its foot is and how high it is."""


@dataclass(frozen=True)
class Tick:
    """A label and where it belongs."""

    share: float
    text: str


@dataclass(frozen=True)
class Dot:
    """A point with a name."""

    x: float
    y: float
    label: str
    kind: str
    """A class of the style sheet."""
    title: str = ""


@dataclass(frozen=True)
class Chart:
    """Shapes, and the words around them."""

    svg: str
    x_label: str = ""
    y_label: str = ""
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    dots: tuple[Dot, ...] = ()


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from low to high."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def skyline(layers: Sequence[Layer]) -> Chart:
    """The width of each layer, in order: pale what there was, full what is left."""
    shown = [layer for layer in layers if layer.width and layer.kept is not None]
    top = max((layer.width or 0 for layer in shown), default=1)
    svg = _plane(f"width of each of {len(shown)} layers, before and after; the table of all layers has the numbers")
    marks = [value for value in ticks(0, top, 4) if value == int(value)]
    _grid(svg, [value / top for value in marks])
    step = W / max(1, len(shown))
    drawn: dict[str, list[Bar]] = {"was": [], "is": [], "frozen": []}
    for at, layer in enumerate(shown):
        widths = {"was": layer.width, "is": layer.kept} if layer.group else {"frozen": layer.width}
        for kind, width in widths.items():
            drawn[kind].append((at * step + step * 0.12, step * 0.76, 0.0, (width or 0) / top))
    _bars(svg, drawn)
    return Chart(
        markup(svg),
        x_label=f"layers 1 to {len(shown)}, in the order they run",
        y_label="channels",
        y_ticks=tuple(Tick(value / top, f"{value:,.0f}") for value in marks),
    )


def histogram(found: Histogram) -> Chart:
    """Bars of kept units on those of cut ones, and the threshold."""
    told = f"{found.removed} of them cut" if found.removed else "none of them cut"
    svg = _plane(f"importance of {found.units} units of {found.group}, {told}")
    top = max((a + b for a, b in zip(found.kept, found.cut, strict=True)), default=1) or 1
    step = W / len(found.kept)
    drawn: dict[str, list[Bar]] = {"gone": [], "stays": []}
    for at, (kept, cut) in enumerate(zip(found.kept, found.cut, strict=True)):
        drawn["gone"].append((at * step, step, 0.0, cut / top))
        drawn["stays"].append((at * step, step, cut / top, kept / top))
    _bars(svg, drawn)
    if found.threshold is not None:
        x = W * (found.threshold - found.low) / (found.high - found.low)
        add(svg, "path", kind="threshold", d=polyline([(x, 0), (x, H)]))
    return Chart(markup(svg), x_ticks=(Tick(0, f"{found.low:.3g}"), Tick(1, f"{found.high:.3g}")))


def damage(found: Sensitivity, curve: Curve, top: float) -> Chart:
    """What is lost as more of one group is cut."""
    svg = _plane(f"what cutting {curve.group} costs")
    _grid(svg, [0.0, 0.5, 1.0])
    points = [(0.0, 0.0)]
    for point in curve.points:
        lost = found.lost(point.figures)
        points.append((point.removed / curve.units, min(1.0, max(0.0, lost / top))))
    add(svg, "path", kind="line", d=polyline((W * x, H * (1 - y)) for x, y in points))
    dots = tuple(Dot(x, y, "", "small", f"{100 * x:.0f}% cut") for x, y in points[1:])
    return Chart(markup(svg), x_ticks=(Tick(0, "0%"), Tick(1, "100% cut")), dots=dots)


def pareto(found: Comparison) -> Chart:
    """Quality against cost, and a line through what none beats. Dots have the numbers of the table's rows."""
    places = {at: found.at(at) for at in found.drawn}
    (left, right), (low, high) = (_span(values) for values in zip(*places.values(), strict=True))
    svg = _plane(f"{LABELS[found.y]} against {LABELS[found.x]} of {len(places)} models; the table has the numbers")

    def unit(x: float, y: float) -> tuple[float, float]:
        return (x - left) / (right - left), (y - low) / (high - low)

    marks = [Tick(unit(left, value)[1], f"{value:g}") for value in ticks(low, high)]
    _grid(svg, [tick.share for tick in marks])
    line = sorted(unit(*places[at]) for at in found.front)
    add(svg, "path", kind="front", d=polyline((W * x, H * (1 - y)) for x, y in line))
    spots: dict[tuple[float, float], list[int]] = {}
    for at, place in places.items():
        x, y = unit(*place)
        near = next((spot for spot in spots if abs(spot[0] - x) < NEAR and abs(spot[1] - y) < NEAR), (x, y))
        spots.setdefault(near, []).append(at)
    label = {members[0]: _numbers(found, members) for members in spots.values()}
    dots = []
    for at, place in places.items():
        point, (x, y) = found.points[at], unit(*place)
        kind = " ".join([*([] if at in found.front else ["beaten"]), *(["start"] if point.original else [])])
        dots.append(Dot(x, y, label.get(at, ""), kind, f"{point.run}, {point.name}: {place[0]:.4g}, {place[1]:.4g}"))
    return Chart(
        markup(svg),
        x_label=LABELS[found.x],
        y_label=LABELS[found.y],
        x_ticks=tuple(
            Tick(unit(value, low)[0], count(value) if abs(value) >= 1000 else f"{value:g}")
            for value in ticks(left, right)
        ),
        y_ticks=tuple(marks),
        dots=tuple(dots),
    )


def _numbers(found: Comparison, members: Sequence[int]) -> str:
    """Of the models that stand in one spot; originals are no news."""
    listed = [str(at + 1) for at in members if not found.points[at].original]
    return ", ".join([*(["original"] if len(listed) < len(members) else []), *listed])


def _span(values: Sequence[float]) -> tuple[float, float]:
    """From a little below the least to a little above the largest."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _plane(title: str) -> Element:
    return drawing(W, H, title, kind="plane", stretched=True)


def _bars(svg: Element, drawn: Mapping[str, Sequence[Bar]]) -> None:
    """All bars of a kind are one path: thousands of elements would make a page large and slow."""
    for kind, bars in drawn.items():
        parts = [
            f"M{x:.6g} {H * (1 - below):.4g}v{-H * height:.4g}h{width:.4g}v{H * height:.4g}z"
            for x, width, below, height in bars
            if height
        ]
        if parts:
            add(svg, "path", kind=kind, d="".join(parts))


def _grid(svg: Element, shares: Sequence[float]) -> None:
    for share in shares:
        add(svg, "path", kind="grid", d=polyline([(0, H * (1 - share)), (W, H * (1 - share))]))
