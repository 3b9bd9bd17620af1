"""Names as they may be shown: a model's names are free text, so nothing in them may move the cursor or break a line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, takewhile

ELLIPSIS = "..."


def printable(name: str) -> str:
    """The name with everything invisible escaped."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def shorten(names: Sequence[str], width: int) -> list[str]:
    """At most `width` characters each, and as many of them distinct as can be.

    What a path says twice goes first, then what all long ones begin with, then the middle, where it tells them least
    apart:

    /stage3/stage3.1/branch2/branch2.0/Conv  ->  .../stage3.1/branch2.0/Conv  ->  stage3.1...2.0/Conv
    """
    paths = {name: _said_once(name) for name in names if len(name) > width}
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*(path[:-1] for path in paths.values()), strict=False))
    begin = len(list(same)) if len(paths) > 1 else 0
    long = {name: "/".join(path[begin:]) for name, path in paths.items()}
    fitted = max(
        ({name: _fitted(text, width, head) for name, text in long.items()} for head in _HEADS),
        key=lambda found: len(set(found.values())),
    )
    return [fitted.get(name, name) for name in names]


_HEADS = (0.4, 0.2, 0.6, 0.8, 0.0)
"""Shares of the room that the beginning may get, the first choice first: the end says which node it is."""


def _said_once(name: str) -> list[str]:
    *path, last = name.split("/")
    return [*(part for part, after in pairwise([*path, last]) if part and not after.startswith(f"{part}.")), last]


def _fitted(text: str, width: int, head: float) -> str:
    if len(text) + len(ELLIPSIS) < width:
        return f"{ELLIPSIS}/{text}"
    if width <= len(ELLIPSIS):
        return text[:width]
    kept = width - len(ELLIPSIS)
    first = int(head * kept)
    return text[:first] + ELLIPSIS + text[len(text) - (kept - first) :]
