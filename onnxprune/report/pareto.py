"""Which of several models are worth having: those that no other beats in both what they cost and how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxprune.errors import UserError
from onnxprune.report.runs import COSTS, FIGURES, QUALITIES, Point

LABELS = {
    "latency": "latency in ms",
    "macs": "MACs",
    "params": "parameters",
    "bytes": "bytes",
    "speedup": "speed-up",
    "accuracy": "accuracy in %",
    "metric": "metric",
    "agreement": "agreement with the original in %",
    "deviation": "deviation from the original",
}
SCALES = {"accuracy": 100.0, "agreement": 100.0}
"""How drawings and axes count."""
_MORE = {"speedup", "accuracy", "metric", "agreement"}
_APART = 1.1
"""The same original may not take so many times longer in another run."""


@dataclass(frozen=True)
class Comparison:
    """Points in a plane, and those of them that none beats."""

    points: tuple[Point, ...]
    """All of them, also those that lack a figure of the plane."""
    x: str
    """What a model costs."""
    y: str
    """How good it is; empty where no run measured that."""
    front: frozenset[int]
    """Indices into `points`."""
    notes: tuple[str, ...]

    @property
    def drawn(self) -> tuple[int, ...]:
        """Indices of the points that have both figures."""
        return tuple(at for at, point in enumerate(self.points) if {self.x, self.y} <= point.figures.keys())

    def at(self, index: int) -> tuple[float, float]:
        """Where a point stands, as axes count."""
        figures = self.points[index].figures
        return figures[self.x] * SCALES.get(self.x, 1.0), figures[self.y] * SCALES.get(self.y, 1.0)


def compare(points: Sequence[Point], x: str | None = None, y: str | None = None) -> Comparison:
    """Choose the plane, unless it is named, so that as many points as possible stand in it; and find the front."""
    for axis in filter(None, (x, y)):
        if axis not in FIGURES:
            raise UserError(f"{axis!r} is no figure of a run (there are: {', '.join(FIGURES)})")
        if not any(axis in point.figures for point in points):
            raise UserError(f"none of the runs measured {axis}")
    if x is not None and x == y:
        raise UserError(f"--x and --y are both {x}: name what a model costs and how good it is")
    costs = tuple("speedup" if name == "latency" and _uneven(points) else name for name in COSTS)
    planes = [(a, b) for b in ([y] if y else QUALITIES) for a in ([x] if x else costs)]
    counts = [sum({a, b} <= point.figures.keys() for point in points) for a, b in planes]
    best = max(counts)
    a, b = planes[counts.index(best)] if best else (x or _commonest(points), "")
    found = Comparison(tuple(points), a, b, frozenset(), ())
    return Comparison(found.points, a, b, _front(found), _notes(found, asked=x))


def _uneven(points: Sequence[Point]) -> bool:
    """Whether the originals' times differ so much that times of different runs do not compare."""
    times = [point.figures["latency"] for point in points if point.original and "latency" in point.figures]
    return len(times) > 1 and max(times) > _APART * min(times)


def _commonest(points: Sequence[Point]) -> str:
    return max(COSTS, key=lambda name: sum(name in point.figures for point in points))


def _front(found: Comparison) -> frozenset[int]:
    if not found.y:
        return frozenset()
    worth = {at: tuple(_worth(name, found.points[at]) for name in (found.x, found.y)) for at in found.drawn}
    return frozenset(
        at
        for at, own in worth.items()
        if not any(other != own and all(a >= b for a, b in zip(other, own, strict=True)) for other in worth.values())
    )


def _worth(name: str, point: Point) -> float:
    value = point.figures[name]
    return value if name in _MORE else -value


def _notes(found: Comparison, asked: str | None) -> tuple[str, ...]:
    notes = []
    if not found.y:
        notes.append("no run says how good its models are (prune with --data, or a pipeline that measures)")
    elif len(found.drawn) < len(found.points):
        missing = len(found.points) - len(found.drawn)
        notes.append(f"{missing} of {len(found.points)} models lack {found.x} or {found.y} and are only in the table")
    if _uneven(found.points) and found.x in ("latency", "speedup"):
        said = "the originals of the runs took unequal times: other models, or a machine that was not equally fast"
        if asked is None:
            notes.append(f"{said}; so each model is held against its own original")
        elif asked == "latency":
            notes.append(f"{said}; --x speedup holds each against its own")
    return tuple(notes)
