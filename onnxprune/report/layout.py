"""Where things stand: a layered drawing, from top to bottom.

Every place gets the rank after all that lead to it. An edge over several ranks passes each of the ranks between in a
lane of its own, which all edges from the same place share. Within a rank places are ordered by the middle of their
neighbours, then moved as near to that middle as the room allows; both a few times, down and up.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnxprune.report.network import Block, ranks

SWEEPS = 4
LANE = 8.0
"""Width of an edge that passes a rank."""
GAP = 12.0
"""Between neighbours in a rank."""
RISE = 24.0
"""Between ranks."""

Size = tuple[float, float]
Point = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """Centres of the places, and for each edge the points that it passes."""

    width: float
    height: float
    centres: tuple[Point, ...]
    entry: Point | None
    """Where edges from the block before come in."""
    paths: tuple[tuple[Point, ...], ...]


@dataclass
class _Spot:
    """A place, the entry, or a lane through a rank."""

    rank: int
    width: float
    height: float
    x: float = 0.0


def laid_out(block: Block, sizes: Sequence[Size]) -> Layout:
    """Put everything where it belongs. `sizes`: width and height of each place."""
    entered = any(a < 0 for a, _ in block.edges)
    shift = 1 if entered else 0
    spots = [_Spot(rank + shift, *size) for rank, size in zip(ranks(block), sizes, strict=True)]
    entry = len(spots)
    if entered:
        spots.append(_Spot(0, LANE, LANE))
    edges = [(a if a >= 0 else entry, b) for a, b in block.edges]
    ways = _ways(spots, edges)
    links = list(dict.fromkeys(pair for way in ways for pair in itertools.pairwise(way)))
    rows = _rows(spots)
    _order(rows, links)
    _spread(rows, spots, links)
    left = min((spot.x - spot.width / 2 for spot in spots), default=0.0)
    heights = [max(spots[at].height for at in row) for row in rows]
    middles, y = [], 0.0
    for height in heights:
        middles.append(y + height / 2)
        y += height + RISE
    points = [(spot.x - left, middles[spot.rank]) for spot in spots]
    return Layout(
        width=max((spot.x + spot.width / 2 for spot in spots), default=0.0) - left,
        height=y - RISE if rows else 0.0,
        centres=tuple(points[: len(block.places)]),
        entry=points[entry] if entered else None,
        paths=tuple(tuple(points[at] for at in way) for way in ways),
    )


def _ways(spots: list[_Spot], edges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """For each edge all that it passes; lanes are added to the spots."""
    lanes: dict[tuple[int, int], int] = {}
    ways = []
    for a, b in edges:
        way = [a]
        for rank in range(spots[a].rank + 1, spots[b].rank):
            if (a, rank) not in lanes:
                lanes[a, rank] = len(spots)
                spots.append(_Spot(rank, LANE, 0.0))
            way.append(lanes[a, rank])
        ways.append([*way, b])
    return ways


def _rows(spots: Sequence[_Spot]) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(max((spot.rank for spot in spots), default=-1) + 1)]
    for at, spot in enumerate(spots):
        rows[spot.rank].append(at)
    return rows


def _order(rows: list[list[int]], links: Sequence[tuple[int, int]]) -> None:
    above, below = _neighbours(links)
    for sweep in range(2 * SWEEPS):
        near, walk = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        turn = {at: place for row in rows for place, at in enumerate(row)}
        for row in walk:
            row.sort(key=_middle(near, turn))
            turn.update((at, place) for place, at in enumerate(row))


def _spread(rows: Sequence[Sequence[int]], spots: Sequence[_Spot], links: Sequence[tuple[int, int]]) -> None:
    above, below = _neighbours(links)
    for row in rows:
        _place(row, spots, [0.0] * len(row))
    for sweep in range(2 * SWEEPS + 1):
        near, walk = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        for row in walk:
            middle = _middle(near, {at: spots[at].x for at in range(len(spots))})
            _place(row, spots, [middle(at) for at in row])


def _place(row: Sequence[int], spots: Sequence[_Spot], wanted: Sequence[float]) -> None:
    """As near to what is wanted as order and room allow: halfway between pushing to the right and to the left."""
    apart = [(spots[a].width + spots[b].width) / 2 + GAP for a, b in itertools.pairwise(row)]
    right, left = list(wanted), list(wanted)
    for i, room in enumerate(apart):
        right[i + 1] = max(right[i + 1], right[i] + room)
    for i in range(len(apart) - 1, -1, -1):
        left[i] = min(left[i], left[i + 1] - apart[i])
    for at, a, b in zip(row, right, left, strict=True):
        spots[at].x = (a + b) / 2


def _neighbours(links: Sequence[tuple[int, int]]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    above: dict[int, list[int]] = {}
    below: dict[int, list[int]] = {}
    for a, b in links:
        above.setdefault(b, []).append(a)
        below.setdefault(a, []).append(b)
    return above, below


def _middle(near: Mapping[int, Sequence[int]], where: Mapping[int, float]) -> Callable[[int], float]:
    """The mean of the neighbours' places; its own, where there are none."""

    def middle(at: int) -> float:
        found = [where[other] for other in near.get(at, ())]
        return sum(found) / len(found) if found else where[at]

    return middle
