"""A model in 8 bits or half floats, made by onnxruntime's own tools and held against what it was made of.

    int8           weights and what flows between them in 8 bits (QDQ), with the ranges that occur on calibration data
    int8-dynamic   matrix products in 8 bits, rounded at run time: needs no data, and leaves convolutions alone
    fp16           half floats inside, inputs and outputs as before

Rounding is no cut: nothing can be proved of it. So both models run on the same data, and how far the outputs are apart
is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnxprune.accuracy.evaluate import Evaluation, Reference, evaluate
from onnxprune.data.sources import Dataset
from onnxprune.errors import UserError
from onnxprune.execution.inputs import Feeds
from onnxprune.execution.runtime import session
from onnxprune.files.model import Model, expect_model
from onnxprune.files.scratch_folder import scratch_folder
from onnxprune.files.store import load
from onnxprune.files.tensors import Tensor
from onnxprune.text.names import suggest
from onnxprune.timing.variants import convert

FORMATS = {"int8": "static", "int8-dynamic": "dynamic", "fp16": "fp16"}


@dataclass(frozen=True, eq=False)
class Quantized:
    """What was made."""

    model: Model
    evaluation: Evaluation
    """On the data, the model before being the original."""


def check_format(to: str) -> None:
    """Refuse a format that there is not."""
    if to not in FORMATS:
        raise UserError(f"a model is quantised to {', '.join(FORMATS)}, not to {to!r}{suggest(to, FORMATS)}")


def quantize(model: Model, data: Dataset, to: str = "int8", *, per_channel: bool = True, threads: int = 1) -> Quantized:
    """The model in another number format. `per_channel`: each channel of a weight has a scale of its own."""
    expect_model(model, "quantize")
    check_format(to)
    batches: Iterable[Feeds] = (batch.feeds for batch in data) if FORMATS[to] == "static" else ()
    with scratch_folder() as scratch:
        target = scratch / "model.onnx"
        try:
            convert(model, target, FORMATS[to], batches, what=to, per_channel=per_channel)
            made = _held(load(target))
            session(made)  # the tools may write what onnxruntime then refuses
        except UserError as error:
            raise UserError(f"cannot be made {to}: {error}") from None
    reference = Reference(model, data, threads=threads)
    return Quantized(made, evaluate(made, data, original=reference, threads=threads))


def _held(model: Model) -> Model:
    """The same in memory: its file is about to go."""
    weights = {name: Tensor.of_proto(weight.to_proto()) for name, weight in model.weights.items()}
    return model.replace(weights=weights, path=None, external=False, files=frozenset())
