"""A model of a graph's latency in the widths of its groups, measured in place.

The model is pruned at a dozen random widths, all groups at once, and onnxruntime's profiler tells what each kernel then
took: with the fusions, layouts and caches of the real run. So every kernel is seen at a dozen combinations of what it
reads and writes, and its time is fitted by a + b u + c v + d u v (see `terms`), no coefficient negative. Summed up,
they are good enough to rank; what is claimed in the end is always measured on whole models. A kernel is found again in
another run by what it is, reads and makes: onnxruntime numbers the names of what it inserts differently each time.

    conv     d u v mostly       depthwise, element-wise     c v          reorder     c v
    matmul   d u v              attention by heads          c v          overhead    a

Widths are drawn in whole blocks: others would run other kernels. The result is kept per machine and graph.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxprune.analysis.coupling import Coupling
from onnxprune.counting.meter import Meter
from onnxprune.cutting.apply import apply
from onnxprune.errors import UserError
from onnxprune.execution.inputs import Feeds, runnable_feeds
from onnxprune.execution.runtime import session
from onnxprune.files.model import Model
from onnxprune.graph.dims import Dims, candidates, inputs_of
from onnxprune.machine.measured import Machine, remembered
from onnxprune.scoring.scores import Scores
from onnxprune.selection.select import Field, plan_of
from onnxprune.targets.kernels import Kernel, kernels
from onnxprune.targets.terms import Floats, Term, Terms, Widths, fitted
from onnxprune.text.kinds import is_number

PROBES = 12
LEVELS = (1.0, 0.75, 0.5, 0.25)
"""Parts of its units that a group may keep in a probe."""

LONG = 3.6e9
"""Microseconds: no run takes an hour."""
FAR = 10.0
"""How many times more or less a fit may say than was measured."""

Progress = Callable[[float], None]
Key = tuple[str, str | None, str | None, int]
"""What tells a kernel from others: operator, what it reads and makes, and how many such came before it."""


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
    sizes = candidates(inputs_of(model, dims), dims)[0]
    stored = remembered(
        "latency",
        Machine.this(threads=threads, provider=provider),
        lambda: _measured(model, found, widths, threads, provider, dims, on_progress or (lambda part: None)),
        of={
            "model": fingerprint(model),
            "dims": {name: int(size) for name, size in sizes.items()},
            "blocks": dict(found.blocks),
        },
        valid=_valid,
    )
    terms = [Term(**term) for term in stored.value["terms"]]
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
    seen: list[tuple[Floats, dict[Key, float]]] = [(widths.array({}), _by_key(base))]
    for number, removed in enumerate(_probes(found)):
        on_progress((number + 1) / (PROBES + 1))
        times = _probe(model, found, removed, feeds, threads, provider)
        if times:
            seen.append((widths.array(removed), times))
    ratios = np.stack([widths.ratios(removed) for removed, _ in seen])
    terms = []
    for kernel, key in zip(base, _by_key(base), strict=True):
        reads = kernel.reads if kernel.reads is not None else kernel.makes
        rows = [row for row, (_, times) in enumerate(seen) if key in times]
        values = np.array([seen[row][1][key] for row in rows])
        u, v = (ratios[rows, widths.index(tensor)] for tensor in (reads, kernel.makes))
        terms.append(Term(kernel.name, reads, kernel.makes, fitted(u, v, values)))
    return {"terms": [asdict(term) for term in terms], "kernels": [asdict(kernel) for kernel in base]}


def _by_key(found: Iterable[Kernel]) -> dict[Key, float]:
    seen: Counter[tuple[str, str | None, str | None]] = Counter()
    times: dict[Key, float] = {}
    for kernel in found:
        what = (kernel.op, kernel.reads, kernel.makes)
        times[*what, seen[what]] = kernel.microseconds
        seen[what] += 1
    return times


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
) -> dict[Key, float]:
    """The kernels' microseconds at these widths; nothing where the model does not run at them."""
    order = {group.name: np.arange(group.size, dtype=np.float64) for group in found.groups}
    try:
        pruned = apply(model, plan_of(found, Scores("probe", order, {}), removed, {}))
        return _by_key(kernels(pruned, feeds, threads=threads, provider=provider))
    except UserError:
        return {}


def _valid(value: Any) -> bool:
    listed = [Kernel(**kernel) for kernel in value["kernels"]]
    terms = [Term(**term) for term in value["terms"]]
    numbers = [kernel.microseconds for kernel in listed] + [x for term in terms for x in term.coefficients]
    names = [name for kernel in listed for name in (kernel.name, kernel.op)] + [term.name for term in terms]
    tensors = [name for kernel in listed for name in (kernel.reads, kernel.makes)]
    tensors += [name for term in terms for name in (term.u, term.v)]
    whole = sum(float(kernel.microseconds) for kernel in listed)
    # at full width all ratios are 1: the fit adds up to about what was measured, or it is of something else
    fit = sum(float(x) for term in terms for x in term.coefficients)
    return (
        len(terms) == len(listed)
        and all(is_number(x) and 0 <= float(x) < math.inf for x in numbers)
        and all(len(term.coefficients) == 4 for term in terms)
        and 0 < whole <= LONG
        and whole / FAR < fit < whole * FAR
        and all(isinstance(name, str) for name in names)
        and all(name is None or isinstance(name, str) for name in tensors)
    )
