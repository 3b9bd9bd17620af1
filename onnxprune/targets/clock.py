"""How long a plan's model takes, measured against the original in the same rounds: only that ratio is not noise."""

from __future__ import annotations

from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Plan
from onnxprune.files.model import Model
from onnxprune.graph.dims import Dims
from onnxprune.timing.bench import bench

SECONDS = 2.0
"""For one comparison, about."""


class StopWatch:
    """Measures plans of one model; asked again, it measures again, and the mean counts."""

    def __init__(self, model: Model, *, threads: int = 1, dims: Dims | None = None, provider: str = "cpu") -> None:
        self.model, self.threads, self.dims, self.provider = model, threads, dims, provider
        self._seen: dict[tuple[int, ...], list[float]] = {}

    def original_ms(self) -> float:
        """Of the model itself."""
        report = bench([self.model], threads=self.threads, dims=self.dims, provider=self.provider, seconds=SECONDS)
        return report.rows[0].median_ms

    def __call__(self, plan: Plan) -> float:
        """The pruned model's time as a fraction of the original's."""
        widths = tuple(group.removed for group in plan.groups)
        models = [self.model, apply(self.model, plan)]
        report = bench(models, threads=self.threads, dims=self.dims, provider=self.provider, seconds=SECONDS)
        seen = self._seen.setdefault(widths, [])
        seen.append(1 / report.rows[1].speedup)
        return sum(seen) / len(seen)
