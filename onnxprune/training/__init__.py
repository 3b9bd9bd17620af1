"""Training pruned models: an engine of small files that trains any torch module, and the way there and back from ONNX.

    tuned = onnxprune.finetune(pruned, data, val=val, teacher=original, recipe=onnxprune.Recipe(epochs=3))
    onnxprune.save(tuned.model, "tuned.onnx")

    trained = onnxprune.training.loop.train(module, samples, recipe=recipe)      # any module, no ONNX in sight

Everything but `recipe.py` and `scratch.py` needs torch (the extra `torch`); nothing in the core imports it by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.bridge import need_torch
from onnxprune.data.sources import Dataset
from onnxprune.errors import UserError
from onnxprune.files.model import Model, expect_model
from onnxprune.training.recipe import Recipe

if TYPE_CHECKING:
    from onnxprune.training.log import Epoch
    from onnxprune.training.loop import Moment
    from onnxprune.training.tune import Tuned

__all__ = ["Recipe", "finetune"]


def finetune(
    model: Model,
    data: Dataset,
    *,
    val: Dataset | None = None,
    teacher: Model | None = None,
    recipe: Recipe | None = None,
    from_scratch: bool = False,
    train: Sequence[str] = (),
    freeze: Sequence[str] = (),
    device: str = "auto",
    folder: str | Path | None = None,
    tensorboard: bool = False,
    bench: bool = False,
    on_doing: Callable[[str, float | None], None] | None = None,
    on_step: Callable[[Moment], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Tuned:
    """Train a model on data, and give back a model that onnxruntime agrees about with torch.

    With `val` the best epoch by validation is chosen. A `teacher` (the original) is learned from beside the labels, or
    instead of them where there are none. `train` and `freeze` are patterns of weight names, see `to_torch`. `folder`
    keeps a checkpoint of every epoch; with the same one a stopped run goes on. `from_scratch` forgets the weights.
    """
    for name, each in (("finetune", model), *([("teacher", teacher)] if teacher is not None else [])):
        expect_model(each, name)
    for name, given in (("data", data), *([("val", val)] if val is not None else [])):
        if not isinstance(given, Dataset):
            raise UserError(f"{name} is what onnxprune.open_data(path, model) returns, not {type(given).__name__}")
    need_torch("training")
    from onnxprune.training.tune import Job, tune

    job = Job(
        model=model,
        data=data,
        val=val,
        teacher=teacher,
        recipe=recipe or Recipe(),
        from_scratch=from_scratch,
        train=tuple(train),
        freeze=tuple(freeze),
        device=device,
        folder=None if folder is None else Path(folder),
        tensorboard=tensorboard,
        bench=bench,
        on_doing=on_doing,
        on_step=on_step,
        on_epoch=on_epoch,
        on_note=on_note,
    )
    return tune(job)
