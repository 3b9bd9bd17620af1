"""Where a model's time goes, by kernel and by group, and what one channel of each group costs.

The figures of a group say what one unit less saves at the model's present widths: time from `latency`, work and weights
exactly. Divided by each other they tell which channels are dear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnxprune.analysis.coupling import Coupling
from onnxprune.counting.macs import macs
from onnxprune.counting.meter import Meter
from onnxprune.files.model import Model
from onnxprune.graph.dims import Dims
from onnxprune.selection.alignment import measured
from onnxprune.selection.select import Field, block, least_kept
from onnxprune.targets.costs import terms_of
from onnxprune.targets.kernels import Kernel, fused
from onnxprune.targets.latency import latency_of
from onnxprune.targets.terms import Widths
from onnxprune.text.shown import Shown
from onnxprune.timing.bench import bench

MIN_KEEP = 0.1
"""Of every group, in the models that are timed."""
SECONDS = 2.0
"""For the time of the whole."""


@dataclass(frozen=True)
class KernelTime:
    """One kernel, as onnxruntime runs it."""

    name: str
    op: str
    microseconds: float
    macs: int
    """Of the file's nodes that it stands for."""
    groups: tuple[str, ...]
    """Whose channels it reads or makes."""


@dataclass(frozen=True)
class GroupCost:
    """What one unit of a group costs."""

    name: str
    units: int
    block: int
    """Of how many units it should keep a multiple."""
    microseconds: float
    macs: float
    params: float
    activation: float
    """Elements that multiplying nodes write."""


@dataclass(frozen=True)
class Profile(Shown):
    """Of one model on one machine."""

    milliseconds: float
    """Of a whole run, the median."""
    kernels: tuple[KernelTime, ...]
    groups: tuple[GroupCost, ...]
    blocks: Mapping[str, int]
    """What this machine likes: channels of convolutions, of matrix products."""
    threads: int
    dims: Mapping[str, int]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def profile(
    model: Model,
    coupling: Coupling,
    *,
    threads: int = 1,
    dims: Dims | None = None,
    on_progress: Callable[[str, float], None] | None = None,
) -> Profile:
    """Time it, unless that was done before; the time of the whole is always fresh."""
    progress = on_progress or (lambda stage, part: None)
    progress("widths", 0.0)
    liked = measured(model, threads=threads)
    groups = tuple(group for group in coupling.groups if group.size > 1)
    blocks = {group.name: block(group, liked) for group in groups}
    floors = {group.name: least_kept(group.size, MIN_KEEP, blocks[group.name]) for group in groups}
    meter = Meter(model, coupling, dims)
    field = Field(groups, {}, blocks, floors)
    latency = latency_of(
        model, coupling, field, meter, threads=threads, dims=dims, on_progress=lambda part: progress("kernels", part)
    )
    progress("whole", 0.0)
    whole = bench([model], threads=threads, dims=dims, seconds=SECONDS)
    widths = latency.terms.widths
    none = widths.array({})
    counted = {kind: terms_of(kind, model, meter, widths).saved(none) for kind in ("macs", "params", "activation")}
    saved = latency.terms.saved(none)
    place = {name: index for index, name in enumerate(widths.groups)}
    costs = [
        GroupCost(
            group.name,
            group.size,
            blocks[group.name],
            float(saved[place[group.name]]),
            *(float(counted[kind][place[group.name]]) for kind in ("macs", "params", "activation")),
        )
        for group in groups
    ]
    return Profile(
        whole.rows[0].median_ms,
        _kernels(model, latency.kernels, coupling, meter, widths),
        tuple(costs),
        {"conv": liked.conv, "matmul": liked.matmul},
        threads,
        whole.dims,
        (*liked.notes, *latency.notes),
    )


def _kernels(
    model: Model, found: tuple[Kernel, ...], coupling: Coupling, meter: Meter, widths: Widths
) -> tuple[KernelTime, ...]:
    work = _work(model, found, meter)
    owners: dict[str, dict[str, None]] = {}
    for group in coupling.groups:
        for slot in group.slots:
            owners.setdefault(slot.tensor, {})[group.name] = None
    rows = []
    for kernel in found:
        touched = [name for tensor in (kernel.reads, kernel.makes) if tensor for name in owners.get(tensor, ())]
        rows.append(
            KernelTime(
                kernel.name, kernel.op, kernel.microseconds, work.get(kernel.name, 0), tuple(dict.fromkeys(touched))
            )
        )
    return tuple(rows)


def _work(model: Model, found: tuple[Kernel, ...], meter: Meter) -> dict[str, int]:
    """Kernel -> the work of the nodes that were fused into it."""
    part = fused(model, found)
    work: dict[str, int] = {}
    for node in model.graph.node:
        count, made = macs(node, meter.shapes), next(filter(None, node.output), "")
        if count and made in part:
            work[part[made]] = work.get(part[made], 0) + count
    return work
