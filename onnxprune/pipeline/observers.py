"""Observers that measure: how fast the model is after each pass that makes one."""

from __future__ import annotations

from onnxprune.files.model import Model
from onnxprune.graph.dims import Dims
from onnxprune.machine.providers import CPU, resolve_provider
from onnxprune.pipeline.manager import Observer, Pass, State, name_of
from onnxprune.timing.bench import BenchReport, bench, check_options


class Benchmarks(Observer):
    """Times the model after every pass that gives one, against the model that came in."""

    def __init__(
        self,
        *,
        threads: int = 1,
        dims: Dims | None = None,
        provider: str = CPU,
        runs: int | None = None,
        warmup: int = 3,
        seconds: float = 5.0,
    ) -> None:
        check_options(threads, warmup, seconds, runs)
        self.threads, self.dims, self.provider = threads, dims, resolve_provider(provider)
        self.runs, self.warmup, self.seconds = runs, warmup, seconds
        self.reports: dict[str, BenchReport] = {}
        """Of the latest run, by the name of the pass; the second Apply is `Apply (2)`. `input` is what came in."""
        self._input: Model | None = None
        self._left: State | None = None

    def before(self, step: Pass, state: State) -> None:
        if state is not self._left:  # no pass has left it: a run begins
            self._input, self.reports = state.model, {}

    def after(self, step: Pass, state: State, seconds: float) -> None:
        self._left = state
        if "model" not in step.gives or self._input is None:
            return
        name, count = name_of(step), 1
        while name in self.reports:
            count += 1
            name = f"{name_of(step)} ({count})"
        self.reports[name] = bench(
            [self._input, state.model],
            names=["input", name],
            threads=self.threads,
            dims=self.dims,
            provider=self.provider,
            runs=self.runs,
            warmup=self.warmup,
            seconds=self.seconds,
        )
