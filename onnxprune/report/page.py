"""What a page says, ready to be laid out: text, shares between 0 and 1, and drawings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from onnxprune.counting.freezes import Freeze
from onnxprune.report.charts import Chart
from onnxprune.report.importance import Histogram
from onnxprune.report.layers import Layer


@dataclass(frozen=True)
class Stat:
    """A figure to be read first."""

    value: str
    label: str


@dataclass(frozen=True)
class Measure:
    """One quantity, before and after; the shares are the lengths of its bars."""

    label: str
    before: str
    share_before: float
    after: str = ""
    """Empty: there is no after."""
    share_after: float = 0.0
    change: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether the result is what it should be."""

    ok: bool
    word: str
    text: str


@dataclass(frozen=True)
class DrawnBlock:
    """A part of the network."""

    name: str
    svg: str
    """Empty: too large to be drawn."""
    width: float
    """Of the drawing, in pixels."""
    layers: int
    repeats: tuple[str, ...]
    """Names of parts that follow and are built alike."""
    turn: tuple[int, int]
    """Of parts that repeat together, which one it is, of how many."""


@dataclass(frozen=True)
class GroupRow:
    """One set of coupled channels."""

    tag: str
    colour: int | None
    """None: it makes no layer's width."""
    name: str
    units: int
    kept: int
    members: int
    params: int
    macs: int
    macs_share: float
    inexact: bool


@dataclass(frozen=True)
class LayerRow:
    """One layer and what it costs."""

    layer: Layer
    tag: str
    colour: int | None
    macs_share: float
    """Of the work of the dearest layer before pruning; so is what is left."""
    macs_share_after: float
    ms: float | None = None
    ms_after: float | None = None
    ms_share: float = 0.0
    """Of the time of the slowest layer before pruning; so is what is left."""
    ms_share_after: float = 0.0


@dataclass(frozen=True)
class Other:
    """Time that belongs to no layer."""

    op: str
    ms: float
    ms_after: float | None


@dataclass(frozen=True)
class Shown:
    """A histogram and its drawing."""

    data: Histogram
    tag: str
    chart: Chart


@dataclass(frozen=True)
class FreezeRow:
    """One kind of reason."""

    data: Freeze
    macs_share: float


@dataclass(frozen=True)
class DamageCurve:
    """What cutting one group costs."""

    group: str
    units: int
    chart: Chart
    points: tuple[tuple[str, str], ...]
    """How much is cut, and what is lost."""


@dataclass(frozen=True)
class Damage:
    """Measured sensitivity."""

    what: str
    """What a curve shows, with its unit."""
    top: str
    """The value at the upper edge of all charts."""
    source: str
    curves: tuple[DamageCurve, ...]


@dataclass(frozen=True)
class Page:
    """Everything on it, from top to bottom."""

    kind: str
    """`Pruning report` or `Analysis`."""
    name: str
    facts: tuple[tuple[str, str], ...]
    stats: tuple[Stat, ...]
    measures: tuple[Measure, ...]
    verdict: Verdict | None
    blocks: tuple[DrawnBlock, ...]
    further_blocks: int
    """For which there was no room."""
    groups: tuple[GroupRow, ...]
    skyline: Chart
    layers: tuple[LayerRow, ...]
    others: tuple[Other, ...]
    criterion: str
    histograms: tuple[Shown, ...]
    freezes: tuple[FreezeRow, ...]
    unknown_ops: Mapping[str, int]
    damage: Damage | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    command: str
    versions: tuple[tuple[str, str], ...] = field(default=())

    @property
    def pruned(self) -> bool:
        """Whether there is an after."""
        return self.kind == PRUNING

    @cached_property
    def is_timed(self) -> bool:
        return any(row.ms is not None for row in self.layers)

    @cached_property
    def largest_group(self) -> float:
        """The share of the MACs that it holds: how long the longest bar is."""
        return max((row.macs_share for row in self.groups), default=0.0) or 1.0


PRUNING = "Pruning report"
ANALYSIS = "Analysis"
