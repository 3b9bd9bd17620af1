"""The page that `analyze --html` and `prune --report` write: what it needs of a run is kept as the run goes by."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxprune.accuracy import curves_json
from onnxprune.accuracy.curves import Sensitivity
from onnxprune.analysis.coupling import Coupling
from onnxprune.cli.outcome import Outcome
from onnxprune.cli.progress import Activity
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.files.replacing import write_text
from onnxprune.pipeline.manager import Observer, Pass, State
from onnxprune.report import Findings, gather, render
from onnxprune.report.times import timed
from onnxprune.scoring.scores import Scores, score
from onnxprune.targets.kernels import Kernel

Kernels = tuple[tuple[Kernel, ...], ...]


class Witness(Observer):
    """Remembers what later passes forget."""

    def __init__(self) -> None:
        self.original: Model | None = None
        self.coupling: Coupling | None = None
        self.scores: Scores | None = None
        self.pruned: Model | None = None

    def after(self, step: Pass, state: State, seconds: float) -> None:
        self.coupling = state.coupling or self.coupling
        self.scores = state.scores or self.scores
        if state.original is not None:
            self.original, self.pruned = state.original, state.model


def write_analysis(path: Path, args: Namespace, model: Model, coupling: Coupling, dims: Mapping[str, int]) -> list[str]:
    """The page about a model; notes on what it had to leave out."""
    kernels, notes = _timed([model], 1, dims)
    try:
        scores = score(model, coupling)
    except UserError as error:
        scores, notes = None, [*notes, f"the importance of channels is missing: {error}"]
    found = Findings(
        model,
        coupling,
        _command(args),
        dims,
        scores=scores,
        kernels=kernels,
        sensitivity=sensitivity(args),
        notes=tuple(notes),
    )
    write_text(path, render(gather(found)))
    return notes


def write_report(path: Path, args: Namespace, seen: Witness, outcome: Outcome, activity: Activity) -> list[str]:
    """The page about a pruning run; notes on what it had to leave out."""
    assert seen.original is not None
    assert seen.pruned is not None
    assert seen.coupling is not None
    kernels: Kernels = ()
    notes: list[str] = []
    if outcome.bench is not None:
        activity.step("timing the kernels")
        kernels, notes = _timed([seen.original, seen.pruned], args.threads, outcome.bench.dims)
    activity.step("drawing")
    found = Findings(
        model=seen.original,
        coupling=seen.coupling,
        command=_command(args),
        dims=outcome.before.dims,
        pruned=seen.pruned,
        plan=outcome.plan,
        scores=seen.scores,
        verification=outcome.verification,
        bench=outcome.bench,
        kept=outcome.kept,
        kernels=kernels,
        sensitivity=sensitivity(args),
        notes=(*outcome.notes, *outcome.verification.notes, *notes),
        warnings=tuple(outcome.warnings),
    )
    write_text(path, render(gather(found)))
    return notes


def sensitivity(args: Namespace) -> Sensitivity | None:
    """The curves that were measured, if a file of them was named."""
    return curves_json.load(args.sensitivity) if args.sensitivity else None


def _timed(models: Sequence[Model], threads: int, dims: Mapping[str, int]) -> tuple[Kernels, list[str]]:
    """The kernels of each; a model that does not run here is still worth a page."""
    try:
        return timed(models, threads=threads, dims=dims), []
    except UserError as error:
        return (), [f"the time of layers is missing: {error}"]


def _command(args: Namespace) -> str:
    return shlex.join(["onnxprune", *args.typed])
