"""One block of a network as a drawing: a box per layer, a pill per joint, lines between them.

A box says its layer's name, its width before and after, and its group, by colour and by number; what of the width is
kept is drawn below, as a bar. Frozen layers have a dashed border and say so.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxprune.report.layers import Layer
from onnxprune.report.layout import Point, laid_out
from onnxprune.report.network import Block, Place
from onnxprune.report.svg import Element, add, drawing, fitted, markup
from onnxprune.text.figures import plural, some

BOX = (136.0, 44.0)
PILL = 20.0
MARGIN = 3.0
_LETTER = 6.6
"""Width of a letter of a pill, about."""
_CHARACTERS = 17
"""Of a name that fit into a box."""
_SIGNS = {
    "Add": "+",
    "Sub": "\N{MINUS SIGN}",
    "Mul": "\N{MULTIPLICATION SIGN}",
    "Div": "÷",
    "Concat": "concat",
    "MatMul": "matmul",
}


@dataclass(frozen=True)
class Drawn:
    """A drawing and how wide it is."""

    svg: str
    width: float


def drawn(block: Block, tags: Mapping[str, str], colour: Mapping[str, int]) -> Drawn:
    """Draw it. `tags`: a short name for each group; `colour`: the number of its colour."""
    sizes = [_size(place) for place in block.places]
    layout = laid_out(block, sizes)
    width, height = layout.width + 2 * MARGIN, layout.height + 2 * MARGIN + PILL
    svg = drawing(width, height, _said(block), kind="net")
    lines = add(svg, "g", kind="edges", transform=f"translate({MARGIN} {MARGIN})")
    for path in layout.paths:
        add(lines, "path", d=_curve(path))
    if layout.centres:
        x, y = layout.centres[-1]
        add(lines, "path", d=f"M{x:.1f} {y:.1f}V{layout.height + PILL:.1f}")
    body = add(svg, "g", transform=f"translate({MARGIN} {MARGIN})")
    if layout.entry is not None:
        add(body, "circle", kind="entry", cx=layout.entry[0], cy=layout.entry[1], r=3)
    prefix = block.prefix
    for place, centre, size in zip(block.places, layout.centres, sizes, strict=True):
        if place.layer is None:
            _pill(body, place, centre, size)
        else:
            _box(body, place.layer, prefix, centre, tags, colour)
    return Drawn(markup(svg), width)


def _size(place: Place) -> tuple[float, float]:
    if place.layer is not None:
        return BOX
    return max(PILL, _LETTER * len(_sign(place)) + 14), PILL


def _sign(place: Place) -> str:
    return _SIGNS.get(place.op, place.op.lower()) if place.kind == "joint" else fitted(place.name, _CHARACTERS)


def _curve(points: Sequence[Point]) -> str:
    """Down, aside and down again, between each two points."""
    text = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x, y), (u, v) in itertools.pairwise(points):
        half = (y + v) / 2
        text += f"V{v:.1f}" if abs(x - u) < 0.5 else f"C{x:.1f} {half:.1f} {u:.1f} {half:.1f} {u:.1f} {v:.1f}"
    return text


def _pill(body: Element, place: Place, centre: Point, size: tuple[float, float]) -> None:
    (x, y), (width, height) = centre, size
    g = add(body, "g", kind=place.kind, title=f"{place.op or 'input'} {place.name}")
    add(g, "rect", x=x - width / 2, y=y - height / 2, width=width, height=height, rx=height / 2)
    add(g, "text", _sign(place), x=x, y=y + 4, text_anchor="middle")


def _box(
    body: Element, layer: Layer, prefix: str, centre: Point, tags: Mapping[str, str], colour: Mapping[str, int]
) -> None:
    width, height = BOX
    left, top = centre[0] - width / 2, centre[1] - height / 2
    whole = layer.frozen and not layer.group
    g = add(body, "g", kind="layer frozen" if whole else "layer", title=told(layer, tags))
    add(g, "rect", kind="box", x=left, y=top, width=width, height=height, rx=5)
    shade = f"g{colour[layer.group]}" if layer.group else "none"
    add(g, "rect", kind=f"stripe {shade}", x=left, y=top, width=5, height=height, rx=2)
    add(g, "text", fitted(_within(layer.label, prefix), _CHARACTERS), kind="name", x=left + 12, y=top + 16)
    add(g, "text", widths(layer), kind="width", x=left + 12, y=top + 31)
    mark = tags[layer.group] if layer.group else "frozen" if layer.frozen else ""
    add(g, "text", mark, kind="tag", x=left + width - 8, y=top + 31, text_anchor="end")
    if layer.width and layer.kept is not None:
        track = width - 20
        add(g, "rect", kind="track", x=left + 12, y=top + height - 7, width=track, height=3)
        add(g, "rect", kind=shade, x=left + 12, y=top + height - 7, width=track * layer.kept / layer.width, height=3)


def widths(layer: Layer) -> str:
    """`64 → 45`, or `64` where nothing goes."""
    if layer.width is None or layer.kept is None:
        return layer.op
    return f"{layer.width}" if layer.kept == layer.width else f"{layer.width} → {layer.kept}"


def told(layer: Layer, tags: Mapping[str, str]) -> str:
    """A layer in a sentence."""
    said = f"{layer.label}, {layer.op}"
    if layer.width is not None:
        said += f", {plural(layer.width, 'channel')}"
        said += f", {layer.kept:,} kept" if layer.kept != layer.width else ""
    if layer.group:
        said += f", group {tags[layer.group]} {layer.group}"
    return f"{said}, frozen: {layer.frozen}" if layer.frozen else said


def _within(label: str, prefix: str) -> str:
    """The name without what the whole block is called."""
    return label if label == prefix else label.removeprefix(f"{prefix}.")


def _said(block: Block) -> str:
    layers = block.layers
    listed = some([f"{layer.label} {widths(layer)}" for layer in layers], 12, "; ")
    return f"{plural(len(layers), 'layer')}: {listed}" if layers else "where paths meet"
