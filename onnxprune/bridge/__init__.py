"""From ONNX to torch and back: a model trains again without the code that it was made with.

    module = onnxprune.to_torch("pruned.onnx")        # state_dict() keys are the initializers' names
    ...                                               # train it as any torch module
    tuned = onnxprune.from_torch(module, onto=onnxprune.load("pruned.onnx"))
    verify_torch(module, tuned).require()
    onnxprune.save(tuned, "tuned.onnx")

Models are taken in the form that `onnxprune.load` gives them; others are brought into it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxprune.bridge.untie import retied, untied
from onnxprune.errors import MissingExtra
from onnxprune.files import store
from onnxprune.files.model import Model, expect_model
from onnxprune.graph.normalize import normalize

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from onnxprune.bridge.check import Agreement
    from onnxprune.bridge.exporting import Exported, Free
    from onnxprune.bridge.which_train import Role
    from onnxprune.graph.dims import Dims

__all__ = ["export", "from_torch", "roles", "synchronise_batchnorm", "to_torch", "verify_torch"]


def to_torch(
    model: Model | str | os.PathLike[str],
    *,
    train: Sequence[str] = (),
    freeze: Sequence[str] = (),
    dtype: torch.dtype | None = None,
) -> torch.fx.GraphModule:
    """The model as a torch module, in evaluation mode.

    Inputs are given in the graph's order or by name, one output is a tensor and several are a tuple. `train` and
    `freeze` are patterns of weight names that change what `roles` decides; `dtype` is the floating type in which
    everything is held and computed, float32 where the model has half floats.
    """
    need_torch()
    from onnxprune.bridge import which_train
    from onnxprune.bridge.translate import translate

    found = untied(_model(model, "to_torch"))
    decided = which_train.decide(found, train, freeze)
    frozen = which_train.frozen_bodies(found)
    if frozen and which_train.opened(found, decided):
        frozen = frozenset()
    module = translate(found, which_train.table(decided), dtype, frozen)
    return module.eval()


def from_torch(module: torch.nn.Module, onto: Model) -> Model:
    """The model with the module's trained tensors as its weights; all else stays, to the byte.

    The module is what `to_torch` made, also inside DistributedDataParallel or torch.compile, or any other whose state
    dict has the initializers' names as keys.
    """
    need_torch()
    from onnxprune.bridge.back import write

    found = _model(onto, "from_torch")
    return retied(write(module, untied(found)), found)


def verify_torch(
    module: torch.nn.Module,
    model: Model,
    *,
    feeds: Mapping[str, NDArray[Any]] | None = None,
    dims: Dims | None = None,
    seed: int = 0,
    tolerance: float | None = None,
) -> Agreement:
    """Compare the module in evaluation mode with the model in onnxruntime; `.require()` raises where they differ."""
    need_torch()
    from onnxprune.bridge.check import compare

    return compare(module, _model(model, "verify_torch"), feeds=feeds, dims=dims, seed=seed, tolerance=tolerance)


def export(
    module: torch.nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    keep_batchnorm: bool = True,
    dynamic: Free | None = None,
    opset: int | None = None,
) -> Exported:
    """Write a torch module as an ONNX file, by `torch.onnx.export`, under the names of its parameters.

    `example_inputs` is a tensor, several, or a mapping from the names of forward's parameters. `dynamic` maps such a
    name to the axes whose length is left open and what they are called, `{"ids": {0: "batch", 1: "time"}}`; without it
    the first axis of every input is the batch. The file appears once onnxruntime says the same as the module.
    """
    need_torch()
    from onnxprune.bridge.exporting import export as write

    return write(module, example_inputs, path, keep_batchnorm=keep_batchnorm, dynamic=dynamic, opset=opset)


def roles(
    model: Model | str | os.PathLike[str], *, train: Sequence[str] = (), freeze: Sequence[str] = ()
) -> list[Role]:
    """Of every floating weight whether it trains, and why."""
    from onnxprune.bridge.which_train import decide

    return decide(untied(_model(model, "roles")), train, freeze)


def synchronise_batchnorm(module: torch.nn.Module, on: bool = True) -> int:
    """Let the batch normalisations count the batches of all processes as one; how many there are."""
    need_torch()
    from onnxprune.bridge.norm import switches

    found = switches(module)
    for each in found:
        each.synchronise = on
    return len(found)


def _model(model: Model | str | os.PathLike[str], function: str) -> Model:
    found = store.load(model) if isinstance(model, str | os.PathLike) else model
    expect_model(found, function)
    return normalize(found)


def need_torch(what: str = "this") -> None:
    """Refuse in one line where the extra is missing."""
    try:
        import torch  # noqa: F401  to see whether it is there
    except ModuleNotFoundError:
        raise MissingExtra(f"{what} needs torch, which is not installed: pip install 'onnxprune[torch]'") from None
