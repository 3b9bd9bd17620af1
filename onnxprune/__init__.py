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

from onnxprune import store
from onnxprune.analyze import analyze
from onnxprune.apply import apply
from onnxprune.bench import bench
from onnxprune.bridge import export, from_torch, to_torch
from onnxprune.compensate import compensate
from onnxprune.cost import cost
from onnxprune.coupling import Coupling, Group, Reason, Slot
from onnxprune.criteria import criterion
from onnxprune.curves import Sensitivity
from onnxprune.curves_json import load as load_sensitivity
from onnxprune.damage import rescored
from onnxprune.data import Dataset, open_data
from onnxprune.errors import UserError, VerificationError
from onnxprune.evaluate import Evaluation, Reference, evaluate
from onnxprune.fold import fold
from onnxprune.layer_errors import layer_errors
from onnxprune.model import Model
from onnxprune.normalize import normalize, restore
from onnxprune.pipeline import Observer, PassManager, State
from onnxprune.plan import Plan
from onnxprune.plan_json import load as load_plan
from onnxprune.plan_json import save as save_plan
from onnxprune.preprocess import Preprocess
from onnxprune.profile import profile
from onnxprune.reestimate import reestimate
from onnxprune.running import Report, run_pipeline
from onnxprune.scores import score
from onnxprune.select import select
from onnxprune.sensitivity import sensitivity
from onnxprune.stages import Measure, Pipeline, Stage
from onnxprune.training import Recipe, finetune
from onnxprune.unfold import unfold
from onnxprune.verify import Verification, verify
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
