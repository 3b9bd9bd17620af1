"""What a report is made from: the objects that analysis and pruning return, as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxprune.accuracy.curves import Sensitivity
from onnxprune.accuracy.evaluate import Evaluation
from onnxprune.analysis.coupling import Coupling
from onnxprune.checking.verify import Verification
from onnxprune.cutting.plan import Plan
from onnxprune.files.model import Model
from onnxprune.scoring.scores import Scores
from onnxprune.targets.kernels import Kernel
from onnxprune.timing.bench import BenchReport


@dataclass(frozen=True, eq=False)
class Findings:
    """One model and what was found out about it; None: not done, or not measured."""

    model: Model
    """Normalised, and before pruning."""
    coupling: Coupling
    command: str = ""
    """As it was typed, so that the page says how to make it again."""
    dims: Mapping[str, int] = field(default_factory=dict)
    """Sizes of free dimensions."""
    pruned: Model | None = None
    plan: Plan | None = None
    scores: Scores | None = None
    verification: Verification | None = None
    bench: BenchReport | None = None
    """The original, then the pruned model."""
    kept: tuple[Evaluation, Evaluation] | None = None
    """What the two do on data."""
    kernels: tuple[tuple[Kernel, ...], ...] = ()
    """Of the model, and of the pruned one."""
    sensitivity: Sensitivity | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
