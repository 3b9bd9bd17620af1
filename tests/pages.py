"""Reading a page strictly: every tag closed where it must be, every id once, every table and drawing with a name.

html5lib says whether it is HTML at all: it stops at the first thing that the standard calls a parse error. The rest is
what no parser asks for. (The Nu checker, which also knows what may stand in what, needs Java: CONTRIBUTING.md.)
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

import html5lib

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}
HEADS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4}


@dataclass
class Element:
    tag: str
    marks: dict[str, str]
    parent: Element | None
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, *tags: str) -> list[Element]:
        found = [self] if self.tag in tags else []
        return found + [item for child in self.children for item in child.all(*tags)]

    @property
    def inside(self) -> str:
        return self.text + "".join(child.inside for child in self.children)


class Strict(HTMLParser):
    """Builds a tree, and refuses what a browser would silently mend."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {}, None)
        self.here = self.root

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        made = Element(tag, {name: value or "" for name, value in attrs}, self.here)
        self.here.children.append(made)
        if tag not in VOID:
            self.here = made

    def handle_endtag(self, tag: str) -> None:
        assert self.here.tag == tag, f"</{tag}> closes <{self.here.tag}> (line {self.getpos()[0]})"
        assert self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        self.here.text += data


def parsed(text: str) -> Element:
    """The tree of a whole page, its rules checked."""
    assert text.startswith("<!DOCTYPE html>")
    html5lib.HTMLParser(strict=True).parse(text)
    reader = Strict()
    reader.feed(text)
    reader.close()
    assert reader.here is reader.root, f"<{reader.here.tag}> is never closed"
    check(reader.root)
    return reader.root


def check(root: Element) -> None:
    """What holds for every page: it fetches nothing, runs nothing, and can be read without seeing it."""
    assert not root.all("script", "link", "iframe", "object", "embed", "img", "form")
    everything = root.all(*{item.tag for item in _walk(root)})
    ids = [item.marks["id"] for item in everything if "id" in item.marks]
    assert len(ids) == len(set(ids))
    for item in everything:
        assert not [name for name in item.marks if name.startswith("on")], item.marks
        for name in ("href", "src", "xlink:href", "action"):
            assert item.marks.get(name, "#").startswith("#"), item.marks
        for name in ("aria-labelledby", "aria-describedby"):
            assert item.marks.get(name, ids[0]) in ids
        if item.marks.get("href", "#") != "#":
            assert item.marks["href"][1:] in ids, f"{item.marks['href']} leads nowhere"
        if item.tag in ("section", "nav"):
            assert "aria-labelledby" in item.marks or "aria-label" in item.marks
        if "tabindex" in item.marks and item.tag != "pre":
            assert item.marks.get("aria-label"), "what can be reached has to say what it is"
    (html,) = root.all("html")
    assert html.marks["lang"]
    for tag in ("h1", "main", "header", "footer"):
        assert len(root.all(tag)) == 1, tag
    assert [item.inside.strip() != "" for item in root.all("head")[0].all("title")] == [True]
    levels = [HEADS[item.tag] for item in everything if item.tag in HEADS]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels)), "headings skip no level"
    for table in root.all("table"):
        assert table.all("caption")[0].inside.strip()
        assert {cell.marks.get("scope") for cell in table.all("th")} <= {"col", "row"}
        wide = len(table.all("thead")[0].all("th"))
        assert {len(row.children) for row in table.all("tr")} == {wide}, "every row has as many cells as the head"
    for svg in root.all("svg"):
        assert svg.marks["role"] == "img"
        assert svg.marks["aria-label"].strip()
    for details in root.all("details"):
        assert details.children[0].tag == "summary"
        assert details.children[0].inside.strip()
    style = root.all("style")[0].text
    assert "url(" not in style
    assert "@import" not in style


def _walk(item: Element) -> list[Element]:
    return [item, *(each for child in item.children for each in _walk(child))]


def colours(style: str, *, dark: bool) -> dict[str, str]:
    """The style sheet's variables, in one of the two themes."""
    found = dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", style.split("@media")[0]))
    if dark:
        (block,) = re.findall(r"prefers-color-scheme: dark\) \{(.*?)\}\s*\}", style, re.DOTALL)
        found |= dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", block))
    return found


def contrast(one: str, other: str) -> float:
    """As WCAG 2.2 has it: from 1, none, to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
