"""Drawings as elements, so that nothing is ever pasted into markup: what a name holds cannot end a tag."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element, SubElement, tostring

from onnxprune.text.labels import printable

__all__ = ["Element", "add", "drawing", "fitted", "legible", "markup", "polyline"]

LONGEST = 400
"""Characters of one name or sentence."""


def legible(text: str) -> str:
    """What cannot be seen is spelt out, and what is endless loses its middle."""
    text = printable(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def drawing(width: float, height: float, title: str, *, kind: str = "", stretched: bool = False) -> Element:
    """An empty one with its name for those who do not see it. Stretched: it fills whatever room it gets."""
    marks = {"viewBox": f"0 0 {_number(width)} {_number(height)}", "role": "img", "aria-label": legible(title)}
    if kind:
        marks["class"] = kind
    if stretched:
        marks["preserveAspectRatio"] = "none"
    else:
        marks |= {"width": _number(width), "height": _number(height)}
    return Element("svg", marks)


def add(parent: Element, tag: str, text: str = "", *, kind: str = "", title: str = "", **marks: float | str) -> Element:
    """One element more; underscores in the names of attributes stand for dashes."""
    named = {name.replace("_", "-"): _number(value) for name, value in marks.items()}
    made = SubElement(parent, tag, {**({"class": kind} if kind else {}), **named})
    if title:
        SubElement(made, "title").text = legible(title)
    if text:
        made.text = legible(text)
    return made


def markup(drawn: Element) -> str:
    """The text, as it goes into a page."""
    return tostring(drawn, encoding="unicode", short_empty_elements=False)


def polyline(points: Iterable[tuple[float, float]]) -> str:
    """A path straight from point to point."""
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points)


def fitted(text: str, most: int) -> str:
    """At most so many characters; the end of a name says which it is."""
    text = printable(text)
    return text if len(text) <= most else "…" + text[len(text) - most + 1 :]


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{round(value, 1):g}"
