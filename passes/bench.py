"""Time the model, against the original where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from onnxprune.pipeline.manager import State, changed
from onnxprune.timing.bench import bench, check_options


@dataclass(frozen=True)
class Bench:
    """Interleaved runs in onnxruntime."""

    threads: int = 1
    dims: Mapping[str, int] | None = None
    provider: str = "CPUExecutionProvider"
    runs: int | None = None
    warmup: int = 3
    seconds: float = 5.0

    needs: ClassVar[tuple[str, ...]] = ("model",)
    gives: ClassVar[tuple[str, ...]] = ("bench",)
    drops: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        check_options(self.threads, self.warmup, self.seconds, self.runs)

    def run(self, state: State) -> State:
        pairs = [("original", state.original), ("pruned" if state.original else "model", state.model)]
        named = [(name, model) for name, model in pairs if model is not None]
        options = {item.name: getattr(self, item.name) for item in fields(self)}
        report = bench([model for _, model in named], names=[name for name, _ in named], **options)
        return changed(state, bench=report)
