"""BatchNormalization put in for training, and merged again."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from onnxprune.data.sources import Request, reopened
from onnxprune.execution.inputs import runnable_feeds
from onnxprune.execution.runtime import check_threads
from onnxprune.files.model import Model
from onnxprune.graph.dims import Dims
from onnxprune.graph.normalize import normalize
from onnxprune.pipeline.manager import State, changed
from onnxprune.rewrites.agreement import difference
from onnxprune.rewrites.fold import fold
from onnxprune.rewrites.unfold import unfold
from onnxprune.text.figures import plural


@dataclass(frozen=True)
class Unfold:
    """Put BatchNormalization behind convolutions, calibrated on data; see `onnxprune.unfold`."""

    data: Request
    threads: int = 1
    on_progress: Callable[[float], None] | None = None
    """Told which part is over, 0 to 1."""

    needs: ClassVar[tuple[str, ...]] = ("model",)
    gives: ClassVar[tuple[str, ...]] = ("model", "normalized")
    drops: ClassVar[tuple[str, ...]] = ("original", "coupling", "scores", "plan", "verification", "bench")

    def check(self) -> None:
        check_threads(self.threads)

    def run(self, state: State) -> State:
        model = _normal(state)
        data = reopened(self.data, model)
        found = unfold(model, data, threads=self.threads, on_progress=self.on_progress)
        first = (batch.feeds for batch in itertools.islice(data, 1))
        error = difference(model, found.model, first, threads=self.threads)
        note = f"{plural(len(found.done), 'BatchNormalization node')} put in; outputs equal within {error:.2g}"
        return changed(state.with_model(found.model), normalized=True, notes=(note,))


@dataclass(frozen=True)
class Fold:
    """Merge BatchNormalization into the layers before it; see `onnxprune.fold`."""

    dims: Dims | None = None
    """Sizes of free dimensions, for the comparison."""
    threads: int = 1

    needs: ClassVar[tuple[str, ...]] = ("model",)
    gives: ClassVar[tuple[str, ...]] = ("model",)
    drops: ClassVar[tuple[str, ...]] = ("normalized", "coupling", "scores", "bench")

    def check(self) -> None:
        check_threads(self.threads)

    def run(self, state: State) -> State:
        model = _normal(state)
        found = fold(model)
        feeds = [runnable_feeds(model, dims=self.dims).feeds]
        error = difference(model, found.model, feeds, threads=self.threads)
        left = [f"{name} is left: {why}" for name, why in found.left.items()]
        note = f"{plural(len(found.done), 'BatchNormalization node')} merged; outputs equal within {error:.2g}"
        kept = State(found.model, original=state.original, plan=state.plan, verification=state.verification)
        return changed(kept, notes=(note, *left))


def _normal(state: State) -> Model:
    return state.model if state.normalized else normalize(state.model)
