"""Names as they may be shown: a model's names are free text, so nothing in them may move the cursor or break a line."""

from __future__ import annotations

from itertools import pairwise

ELLIPSIS = "..."


def printable(name: str) -> str:
    """The name with everything invisible escaped."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def shorten(name: str, width: int) -> str:
    """At most `width` characters. What a path says twice goes first, then its middle: the ends tell the most.

    /stage3/stage3.1/branch2/branch2.0/Conv  ->  .../stage3.1/branch2.0/Conv  ->  stage3.1...2.0/Conv
    """
    if len(name) <= width:
        return name
    *path, last = name.split("/")
    path = [part for part, after in pairwise([*path, last]) if part and not after.startswith(f"{part}.")]
    name = "/".join([*path, last])
    if len(name) + len(ELLIPSIS) < width:
        return f"{ELLIPSIS}/{name}"
    if width <= len(ELLIPSIS):
        return name[:width]
    kept = width - len(ELLIPSIS)
    head = 2 * kept // 5  # the end says which node it is, the beginning where
    return name[:head] + ELLIPSIS + name[len(name) - (kept - head) :]
