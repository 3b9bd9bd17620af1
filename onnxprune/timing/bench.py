"""Latency, memory and size of models against the first of them.

Every model is measured from a file, a `Model` in memory from a temporary one: two sessions that got their weights in
different ways would not be optimised alike. Inputs are made before the clock starts, outputs are not copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.counting.cost import params
from onnxprune.errors import NotRunnable, UserError
from onnxprune.execution.inputs import Feeds, caller, runnable_together
from onnxprune.execution.runtime import check_threads
from onnxprune.files.model import Model
from onnxprune.files.model_files import as_files, titles_of
from onnxprune.files.regions import Region
from onnxprune.files.store import load
from onnxprune.graph.dims import Dims
from onnxprune.machine.peak import peak_memory
from onnxprune.machine.providers import CPU, resolve_provider, with_cpu
from onnxprune.text.shown import Shown
from onnxprune.timing.batch_size import samples
from onnxprune.timing.rounds import time_rounds
from onnxprune.timing.verdict import Verdict, median_interval, verdict

Progress = Callable[[str, float], None]
"""Called with what is being done (`load`, `time` or `memory`) and which part of that is over, 0 to 1."""


@dataclass(frozen=True)
class BenchRow:
    """One model's figures."""

    name: str
    median_ms: float
    """Per call, over the rounds."""
    p10_ms: float
    p90_ms: float
    speedup: float
    """Against the first model: the median of the rounds' ratios."""
    speedup_p10: float
    speedup_p90: float
    params: int
    file_bytes: int
    """The model file and its external data."""
    peak_memory: int | None
    """Bytes resident at most in a process that only opens and runs this model (see `peak`); None: not measured."""
    inputs: Mapping[str, tuple[int, ...]]
    """Shapes of the inputs it ran on."""
    p99_ms: float
    batch: int
    """Samples per call: the size of the free batch dimension; 1 where there is none."""
    throughput: float
    """Samples per second at the median."""
    speedup_low: float
    """With `speedup_high` a 95 % confidence interval of the median ratio (see `verdict`); 0 below six rounds."""
    speedup_high: float
    """Infinite below six rounds."""
    verdict: Verdict
    """Against the first model, which is the reference itself."""

    def against(self, first: BenchRow) -> float:
        """Milliseconds as long as the first model takes its median: what fits the speed-up.

        The quotient of two medians says something else on a machine whose speed changes on the way, and what stands on
        one screen must not contradict itself.
        """
        return first.median_ms / self.speedup


@dataclass(frozen=True)
class BenchReport(Shown):
    """What was measured, and how."""

    rows: tuple[BenchRow, ...]
    rounds: int
    threads: int
    """0: as many as onnxruntime likes."""
    provider: str
    dims: Mapping[str, int]
    """How the free dimensions of the inputs were bound."""
    onnxruntime: str
    """Its version."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: null is an end that the interval does not have."""
        rows = [{key: None if value == math.inf else value for key, value in asdict(row).items()} for row in self.rows]
        return {**asdict(self), "rows": rows}


@dataclass(frozen=True)
class _Contestant:
    """A model that has run once."""

    name: str
    path: Path
    model: Model
    feeds: Feeds
    call: Callable[[], object]


def bench(
    models: Sequence[str | Path | Model],
    *,
    names: Sequence[str] | None = None,
    threads: int = 1,
    dims: Dims | None = None,
    provider: str = CPU,
    runs: int | None = None,
    warmup: int = 3,
    seconds: float = 5.0,
    feeds: Feeds | None = None,
    seed: int = 0,
    measure_memory: bool = False,
    on_progress: Progress | None = None,
) -> BenchReport:
    """Time the models against each other: `runs` rounds, or as many as fit into `seconds`, but at least six."""
    if not models or isinstance(models, str | Path | Model):
        raise UserError("nothing to measure: give a list of at least one model")
    if names is not None and len(names) != len(models):
        raise UserError(f"there are {len(models)} models, but {len(names)} names")
    check_options(threads, warmup, seconds, runs)
    import onnxruntime

    provider = resolve_provider(provider)
    progress = on_progress or (lambda stage, part: None)
    with as_files(models) as paths:
        loaded = [load(path) for path in paths]
        titles = list(names) if names is not None else titles_of(models)
        sessions = [
            _session(path, title, threads=threads, provider=provider) for path, title in zip(paths, titles, strict=True)
        ]
        chosen: dict[str, int] = {}
        fed = [feeds] * len(paths) if feeds is not None else []
        if feeds is None:
            pairs = list(zip(loaded, sessions, strict=True))
            for found in runnable_together(pairs, names=titles, dims=dims, seed=seed):
                chosen |= found.dims
                fed.append(found.feeds)
        field = [
            _Contestant(title, path, model, arrays, _started(session, arrays, title))
            for title, path, model, arrays, session in zip(titles, paths, loaded, fed, sessions, strict=True)
        ]
        progress("load", 1.0)
        times = time_rounds(
            [each.call for each in field],
            runs=runs,
            warmup=warmup,
            seconds=seconds,
            on_progress=lambda part: progress("time", part),
        )
        rows = []
        for index, each in enumerate(field):
            peak = None
            if measure_memory:
                peak = peak_memory(each.path, each.feeds, threads=threads, providers=with_cpu(provider))
                progress("memory", (index + 1) / len(field))
            rows.append(_row(each, times[:, index], None if index == 0 else times[:, 0], peak))
    return BenchReport(tuple(rows), len(times), threads, provider, chosen, onnxruntime.__version__)


def check_options(threads: int, warmup: int, seconds: float, runs: int | None) -> None:
    """Refuse what cannot be, before any work is done."""
    check_threads(threads)
    if warmup < 0 or seconds < 0 or (runs is not None and runs < 1):
        raise UserError("warm-up and seconds cannot be negative, and there must be at least one run")


def _session(path: Path, title: str, *, threads: int, provider: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # else the threads of the model that has just run go on spinning while the next one is being timed
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=with_cpu(provider))
    except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
        raise NotRunnable(f"{title}: onnxruntime does not accept the model: {_line(error)}") from None
    if session.get_providers()[0] != provider:
        raise UserError(f"{provider} is installed but does not start on this machine; use another provider")
    return session


def _started(session: Any, feeds: Feeds, title: str) -> Callable[[], object]:
    """A call that has worked once."""
    try:
        call = caller(session, feeds)
        call()
    except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
        raise NotRunnable(f"{title}: onnxruntime cannot run the model: {_line(error)}") from None
    return call


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _row(each: _Contestant, own: NDArray[np.float64], first: NDArray[np.float64] | None, peak: int | None) -> BenchRow:
    """`first`: the times of the reference; None for the reference itself."""
    low, middle, high, highest = (float(x) for x in np.percentile(own * 1e3, (10, 50, 90, 99)))
    ratios = np.ones(len(own)) if first is None else first / own
    slow, typical, fast = (float(x) for x in np.percentile(ratios, (10, 50, 90)))
    least, most = (1.0, 1.0) if first is None else median_interval(ratios)
    sources = (weight.source for weight in each.model.weights.values())
    files = {each.path.absolute(), *(source.file.path for source in sources if isinstance(source, Region))}
    batch = samples(each.model, each.feeds)
    return BenchRow(
        name=each.name,
        median_ms=middle,
        p10_ms=low,
        p90_ms=high,
        speedup=typical,
        speedup_p10=slow,
        speedup_p90=fast,
        params=params(each.model),
        file_bytes=sum(file.stat().st_size for file in files),
        peak_memory=peak,
        inputs={name: tuple(array.shape) for name, array in each.feeds.items()},
        p99_ms=highest,
        batch=batch,
        throughput=batch / middle * 1e3,
        speedup_low=least,
        speedup_high=most,
        verdict="reference" if first is None else verdict(least, most),
    )
