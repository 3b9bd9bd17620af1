"""A model says the same as the module that it was written from, or it is not written.

Both run on the same seeded inputs, the module in evaluation mode, onnxruntime without its optimisations; the largest
difference counts relative to the largest value of an output.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from onnxprune.bridge import weights
from onnxprune.bridge.back import unwrapped
from onnxprune.bridge.translate import origin_of
from onnxprune.errors import UserError, VerificationError
from onnxprune.execution.inputs import runnable_feeds
from onnxprune.execution.runtime import run, session
from onnxprune.files.model import Model
from onnxprune.graph.dims import Dims

TOLERANCE = 1e-4
ROUNDING_TOLERANCE = 5e-2
"""Where the model rounds to half floats and the module does not, or both to whole numbers and not always the same."""
SMALL = 1e-2
"""Outputs that are all smaller are compared as if this were the largest: a sigmoid's 1e-6 is known to 1e-7 at best."""


@dataclass(frozen=True)
class Agreement:
    """How far a module and a model are apart."""

    errors: Mapping[str, float]
    """Of each output: the largest difference, relative to its largest value."""
    tolerance: float

    @property
    def error(self) -> float:
        return max(self.errors.values(), default=0.0)

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # False for NaN

    def require(self) -> None:
        """Raise where they differ."""
        if not self.passed:
            name = max(self.errors, key=lambda key: np.nan_to_num(self.errors[key], nan=np.inf))
            raise VerificationError(
                f"the model differs from the torch module: output {name!r} by {self.errors[name]:.2g} relative "
                f"(allowed: {self.tolerance:.0e}); nothing was written"
            )


def compare(
    module: nn.Module,
    model: Model,
    *,
    feeds: Mapping[str, NDArray[Any]] | None = None,
    dims: Dims | None = None,
    seed: int = 0,
    tolerance: float | None = None,
) -> Agreement:
    """Run both on the same inputs; without `feeds` on random ones."""
    ours = session(model, optimize=False)
    feeds = runnable_feeds(model, ours, dims=dims, seed=seed).feeds if feeds is None else feeds
    theirs = run(ours, feeds)
    made = outputs(module, model, feeds)
    allowed = tolerance if tolerance is not None else ROUNDING_TOLERANCE if _rounds(model) else TOLERANCE
    return Agreement({name: distance(made[name], theirs[name]) for name in theirs}, allowed)


def outputs(module: nn.Module, model: Model, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """What the module makes of the inputs, by the model's output names, in evaluation mode."""
    inner = unwrapped(module)
    origin = origin_of(inner)
    order = origin.inputs if origin is not None else tuple(value.name for value in model.graph.input)
    names = origin.outputs if origin is not None else tuple(value.name for value in model.graph.output)
    place = next((each.device for each in (*inner.parameters(), *inner.buffers())), torch.device("cpu"))
    with evaluating(inner), torch.no_grad():
        made = inner(*(weights.from_array(feeds[name]).to(place) for name in order))
    made = (made,) if isinstance(made, torch.Tensor) else tuple(made)
    if len(made) != len(names):
        raise UserError(f"the module has {len(made)} outputs, the model {len(names)}: they do not belong together")
    return {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, made, strict=True)}


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode; afterwards every part is as it was."""
    was = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, training in was.items():
            each.training = training


def distance(a: Any, b: Any) -> float:
    """The largest difference, relative to the largest value; infinite where shapes differ."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        return float("inf")
    if not a.size:
        return 0.0
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # infinities and NaN in the same places agree
    gap = np.where(same, 0.0, np.abs(np.where(same, 0.0, a) - np.where(same, 0.0, b)))
    finite = np.abs(b[np.isfinite(b)])
    return float(gap.max() / max(finite.max(initial=0.0), SMALL))


def _rounds(model: Model) -> bool:
    half = any(weight.dtype in _HALVES for weight in model.weights.values())
    return half or any("Quantize" in node.op_type or "QLinear" in node.op_type for node in model.graph.node)


_HALVES = frozenset([onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16])
