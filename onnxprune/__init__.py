"""onnxprune: structured pruning of ONNX graphs, after training.

import onnxprune

model = onnxprune.load("model.onnx")
coupling = onnxprune.analyze(model)
plan = onnxprune.select(coupling, onnxprune.score(model, coupling, "l2"), ratio=0.5)
pruned = onnxprune.apply(model, plan)
onnxprune.verify(model, pruned, plan).require()
onnxprune.save(pruned, "pruned.onnx")
"""

from __future__ import annotations

import os

from onnxprune.accuracy.curves import Sensitivity
from onnxprune.accuracy.curves_json import load as load_sensitivity
from onnxprune.accuracy.damage import rescored
from onnxprune.accuracy.evaluate import Evaluation, Reference, evaluate
from onnxprune.accuracy.sensitivity import sensitivity
from onnxprune.analysis.analyze import analyze
from onnxprune.analysis.coupling import Coupling, Group, Reason, Slot
from onnxprune.bridge import export, from_torch, to_torch
from onnxprune.checking.verify import Verification, verify
from onnxprune.counting.cost import cost
from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Plan
from onnxprune.cutting.plan_json import load as load_plan
from onnxprune.cutting.plan_json import save as save_plan
from onnxprune.data.preprocess import Preprocess
from onnxprune.data.sources import Dataset, open_data
from onnxprune.errors import UserError, VerificationError
from onnxprune.files import store
from onnxprune.files.model import Model
from onnxprune.graph.normalize import normalize, restore
from onnxprune.pipeline.manager import Observer, PassManager, State
from onnxprune.pipeline.running import Report, run_pipeline
from onnxprune.pipeline.stages import Measure, Pipeline, Stage
from onnxprune.repair.compensate import compensate
from onnxprune.repair.layer_errors import layer_errors
from onnxprune.repair.reestimate import reestimate
from onnxprune.rewrites.fold import fold
from onnxprune.rewrites.unfold import unfold
from onnxprune.scoring.criteria import criterion
from onnxprune.scoring.scores import score
from onnxprune.selection.select import select
from onnxprune.targets.profile import profile
from onnxprune.timing.bench import bench
from onnxprune.training import Recipe, finetune
from onnxprune.version import __version__

__all__ = [
    "Coupling",
    "Dataset",
    "Evaluation",
    "Group",
    "Measure",
    "Model",
    "Observer",
    "PassManager",
    "Pipeline",
    "Plan",
    "Preprocess",
    "Reason",
    "Recipe",
    "Reference",
    "Report",
    "Sensitivity",
    "Slot",
    "Stage",
    "State",
    "UserError",
    "Verification",
    "VerificationError",
    "__version__",
    "analyze",
    "apply",
    "bench",
    "compensate",
    "cost",
    "criterion",
    "evaluate",
    "export",
    "finetune",
    "fold",
    "from_torch",
    "layer_errors",
    "load",
    "load_plan",
    "load_sensitivity",
    "normalize",
    "open_data",
    "profile",
    "reestimate",
    "rescored",
    "run_pipeline",
    "save",
    "save_plan",
    "score",
    "select",
    "sensitivity",
    "to_torch",
    "unfold",
    "verify",
]


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model file, lazily, in the form that the other functions expect."""
    return normalize(store.load(path))


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model atomically, its weights beside it where they came from there or are too big for one file."""
    store.save(restore(model), path)
