"""A model of a graph's latency in the widths of its groups, measured in place.

The model is pruned at a dozen random widths, all groups at once, and onnxruntime's profiler tells what each kernel then
took: with the fusions, layouts and caches of the real run. So every kernel is seen at a dozen combinations of what it
reads and writes, and its time is fitted by a + b u + c v + d u v (see `terms`), no coefficient negative. Summed up,
they are good enough to rank; what is claimed in the end is always measured on whole models.

    conv     d u v mostly       depthwise, element-wise     c v          reorder     c v
    matmul   d u v              attention by heads          c v          overhead    a

Widths are drawn in whole blocks: others would run other kernels. The result is kept per machine and graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxprune.apply import apply
from onnxprune.coupling import Coupling
from onnxprune.dims import Dims
from onnxprune.errors import UserError
from onnxprune.inputs import Feeds, runnable_feeds
from onnxprune.kernels import Kernel, kernels
from onnxprune.measured import Machine, remembered
from onnxprune.meter import Meter
from onnxprune.model import Model
from onnxprune.runtime import session
from onnxprune.scores import Scores
from onnxprune.select import Field, plan_of
from onnxprune.terms import Floats, Term, Terms, Widths, fitted

PROBES = 12
LEVELS = (1.0, 0.75, 0.5, 0.25)
"""Parts of its units that a group may keep in a probe."""

Progress = Callable[[float], None]


@dataclass(frozen=True, eq=False)
class Latency:
    """What was found out about one model on one machine."""

    terms: Terms
    """In microseconds; a term's name is its kernel's."""
    kernels: tuple[Kernel, ...]
    """Of the whole model."""
    notes: tuple[str, ...] = ()
    fresh: bool = False
    """Measured just now, not read from an earlier time."""


def latency_of(
    model: Model,
    coupling: Coupling,
    found: Field,
    meter: Meter,
    *,
    threads: int = 1,
    provider: str = "CPUExecutionProvider",
    dims: Dims | None = None,
    on_progress: Progress | None = None,
) -> Latency:
    """The model's latency by width; measured unless that was done before."""
    widths = Widths(coupling, meter.shapes)
    stored = remembered(
        "latency",
        Machine.this(threads=threads, provider=provider),
        lambda: _measured(model, found, widths, threads, provider, dims, on_progress or (lambda part: None)),
        of={"model": fingerprint(model), "dims": dict(meter.dims), "blocks": dict(found.blocks)},
        valid=_valid,
    )
    terms = [Term(t["name"], t["u"], t["v"], tuple(t["coefficients"])) for t in stored.value["terms"]]
    listed = tuple(Kernel(**kernel) for kernel in stored.value["kernels"])
    return Latency(Terms(widths, terms), listed, stored.notes, stored.fresh)


def fingerprint(model: Model) -> str:
    """Of the graph and the shapes of its weights, whatever they hold: a finetuned model takes as long."""
    digest = hashlib.sha256(model.proto.graph.SerializeToString(deterministic=True))
    for name, weight in model.weights.items():
        digest.update(f"{name} {weight.dtype} {weight.shape}".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:16]


def _measured(
    model: Model,
    found: Field,
    widths: Widths,
    threads: int,
    provider: str,
    dims: Dims | None,
    on_progress: Progress,
) -> dict[str, Any]:
    feeds = runnable_feeds(model, session(model, threads=threads), dims=dims).feeds
    base = kernels(model, feeds, threads=threads, provider=provider)
    seen: list[tuple[Floats, dict[str, float]]] = [(widths.array({}), {k.name: k.microseconds for k in base})]
    for number, removed in enumerate(_probes(found)):
        on_progress((number + 1) / (PROBES + 1))
        times = _probe(model, found, removed, feeds, threads, provider)
        if times:
            seen.append((widths.array(removed), times))
    ratios = np.stack([widths.ratios(removed) for removed, _ in seen])
    terms = []
    for kernel in base:
        reads = kernel.reads if kernel.reads is not None else kernel.makes
        rows = [row for row, (_, times) in enumerate(seen) if kernel.name in times]
        values = np.array([seen[row][1][kernel.name] for row in rows])
        u, v = (ratios[rows, widths.index(tensor)] for tensor in (reads, kernel.makes))
        terms.append(Term(kernel.name, reads, kernel.makes, fitted(u, v, values)))
    return {"terms": [asdict(term) for term in terms], "kernels": [asdict(kernel) for kernel in base]}


def _probes(found: Field) -> list[dict[str, int]]:
    """Units to remove: all groups alike, then each at random, such that whole blocks stay."""
    rng = np.random.default_rng(0)
    draws = [[level] * len(found.groups) for level in LEVELS[1:]]
    draws += [list(rng.choice(LEVELS, len(found.groups))) for _ in range(PROBES - len(draws))]
    wanted = [
        {group.name: round((1 - kept) * group.size) for group, kept in zip(found.groups, draw, strict=True)}
        for draw in draws
    ]
    counts = [found.counts(each) for each in wanted]
    return [each for index, each in enumerate(counts) if any(each.values()) and each not in counts[:index]]


def _probe(
    model: Model, found: Field, removed: Mapping[str, int], feeds: Feeds, threads: int, provider: str
) -> dict[str, float]:
    """Kernel -> microseconds at these widths; nothing where the model does not run at them."""
    order = {group.name: np.arange(group.size, dtype=np.float64) for group in found.groups}
    try:
        pruned = apply(model, plan_of(found, Scores("probe", order, {}), removed, {}))
        timed = kernels(pruned, feeds, threads=threads, provider=provider, trace=False)
    except UserError:
        return {}
    return {kernel.name: kernel.microseconds for kernel in timed}


def _valid(value: Any) -> bool:
    return all(len(term["coefficients"]) == 4 and {"name", "u", "v"} <= set(term) for term in value["terms"]) and all(
        isinstance(Kernel(**kernel), Kernel) for kernel in value["kernels"]
    )
