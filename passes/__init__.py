"""The passes, thin over the core's functions: `from onnxprune.passes import Normalize, Analyze, ...`."""

from onnxprune.passes.analyze import Analyze
from onnxprune.passes.apply import Apply
from onnxprune.passes.bench import Bench
from onnxprune.passes.choose import Choose
from onnxprune.passes.compensate import Compensate, Reestimate
from onnxprune.passes.finetune import Finetune
from onnxprune.passes.load_plan import LoadPlan
from onnxprune.passes.normalize import Normalize
from onnxprune.passes.pipeline_file import passes_by_name, read_pipeline
from onnxprune.passes.prune import Prune
from onnxprune.passes.quantize import Quantize
from onnxprune.passes.save import Save
from onnxprune.passes.score import Score
from onnxprune.passes.select import Select
from onnxprune.passes.spare import Spare
from onnxprune.passes.steps import Steps
from onnxprune.passes.unfold import Fold, Unfold
from onnxprune.passes.verify import Verify

__all__ = [
    "Analyze",
    "Apply",
    "Bench",
    "Choose",
    "Compensate",
    "Finetune",
    "Fold",
    "LoadPlan",
    "Normalize",
    "Prune",
    "Quantize",
    "Reestimate",
    "Save",
    "Score",
    "Select",
    "Spare",
    "Steps",
    "Unfold",
    "Verify",
    "passes_by_name",
    "read_pipeline",
]
