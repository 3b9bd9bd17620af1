"""A name that is not there is an error that lists what may have been meant, never a silent nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """The end of an error line: `; did you mean 'a' or 'b'?`, or nothing where no known name is near."""
    names = list(dict.fromkeys(known))
    folded: dict[str, str] = {}
    for candidate in names:
        folded.setdefault(candidate.casefold(), candidate)
    needle = name.casefold().strip("*")
    near = [folded[match] for match in difflib.get_close_matches(needle, folded, n=limit, cutoff=0.5)]
    # Node names are paths: "conv1" is far from "/layer1/layer1.0/conv1/Conv" by edit distance, yet clearly meant.
    near += [candidate for candidate in names if needle and needle in candidate.casefold() and candidate not in near]
    if not near:
        return ""
    return f"; did you mean {' or '.join(repr(match) for match in near[:limit])}?"
