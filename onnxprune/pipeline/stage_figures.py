"""What is measured of every model that a pipeline makes, held against the model that came in; measured once and kept.

prune/figures.json      {"fingerprint": ..., "figures": {"params": 95000, "speedup": 1.46, ...}}
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxprune.accuracy.evaluate import Evaluation, Reference, evaluate
from onnxprune.counting.cost import cost
from onnxprune.data.schema import Reader
from onnxprune.data.sources import Dataset, reopened
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.files.replacing import write_text
from onnxprune.files.store import load
from onnxprune.graph.normalize import normalize
from onnxprune.pipeline.fingerprints import Fingerprints
from onnxprune.pipeline.stages import INPUT, Pipeline
from onnxprune.timing.bench import bench

FILE = "figures.json"


@dataclass(frozen=True)
class Figures:
    """Of one model; None: not measured."""

    params: int
    macs: int
    bytes: int
    """Of the weights."""
    latency_ms: float | None = None
    speedup: float | None = None
    """Against the input, as in `bench`, with a 95 % interval."""
    speedup_low: float | None = None
    speedup_high: float | None = None
    verdict: str | None = None
    evaluation: Evaluation | None = None
    """On the data to measure on, the input being the original."""
    note: str | None = None
    """Why something could not be measured."""


@dataclass(frozen=True)
class _Stored:
    fingerprint: str
    figures: Figures


class Figured:
    """Measures models against the input; what of it is needed for all of them is done once."""

    def __init__(self, pipeline: Pipeline, folder: Path, prints: Fingerprints) -> None:
        self.pipeline, self.folder, self.prints = pipeline, folder, prints
        self.source = Path(pipeline.model)
        self.asked = prints.facts(pipeline.measure), dict(pipeline.dims)
        self._against: tuple[Dataset, Reference] | None = None

    def of(self, stage: str, file: Path, fingerprint: str) -> Figures:
        """The figures of the model in `file`, which a stage made."""
        kept = self.folder / ("" if stage == INPUT else stage) / FILE
        key = self.prints.combined(model=fingerprint, asked=self.asked)
        try:
            stored = Reader().read(_Stored, json.loads(kept.read_bytes()))
            if stored.fingerprint == key:
                return stored.figures
        except (OSError, ValueError, TypeError, RecursionError, UserError):
            pass  # not there, or damaged: measured anew
        figures = self._measured(normalize(load(file)), file, is_input=stage == INPUT)
        write_text(kept, json.dumps(asdict(_Stored(key, figures)), indent=2, allow_nan=False) + "\n")
        return figures

    def _measured(self, model: Model, file: Path, *, is_input: bool) -> Figures:
        measure = self.pipeline.measure
        counted = cost(model, self.pipeline.dims)
        evaluation, note = None, None
        times: dict[str, Any] = {}
        if measure.data is not None:
            evaluation = self._evaluated(model)
        if measure.seconds > 0:
            files, names = ([file], ["input"]) if is_input else ([self.source, file], ["input", "model"])
            try:
                report = bench(files, names=names, threads=measure.threads, dims=measure.dims, seconds=measure.seconds)
                row = report.rows[-1]
                keys = ("speedup", "speedup_low", "speedup_high", "verdict")
                times = {"latency_ms": row.median_ms, **{key: _finite(getattr(row, key)) for key in keys}}
            except UserError as error:
                if is_input:  # the sizes that were given, or the provider: it would not work for any of them
                    raise
                note = f"latency was not measured: {error}"
        return Figures(counted.params, counted.macs, counted.bytes, **times, evaluation=evaluation, note=note)

    def _evaluated(self, model: Model) -> Evaluation:
        measure = self.pipeline.measure
        assert measure.data is not None
        if self._against is None:
            original = normalize(load(self.source))
            data = reopened(measure.data, original)
            self._against = data, Reference(original, data, threads=measure.threads)
        data, original_outputs = self._against
        found = evaluate(model, data, original=original_outputs, metric=measure.metric, threads=measure.threads)
        return Evaluation(**{key: _finite(value) for key, value in vars(found).items()})


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
