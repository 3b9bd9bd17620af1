"""A model in other number formats, made by onnxruntime's own tools so that their speed can be measured.

    fp32   the file as it is
    fp16   half floats inside, inputs and outputs as before
    int8   8 bits: products with constant weights rounded at run time (dynamic), or whole stretches of the graph with
           ranges from one random input (static, QDQ)

Of int8, onnxruntime's advice is followed: static where convolutions do at least half of the work, for its dynamic
convolution is several times slower than the float one, and on every provider but the CPU, since QDQ is the form that
these read; dynamic elsewhere. No weight was calibrated for and nothing is compared: such a file shows how fast the
format is, and says nothing of accuracy.

The tools run in a process of their own (`converting`): they print, log, change `sys.path`, leave files behind when they
fail, and a file that makes one of them crash must not end the measurement.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx

from onnxprune.counting.cost import concrete
from onnxprune.counting.macs import macs
from onnxprune.errors import UserError
from onnxprune.execution.inputs import Feeds
from onnxprune.files.model import Model
from onnxprune.files.store import SINGLE_FILE_LIMIT, load, save
from onnxprune.graph.dims import inputs_of
from onnxprune.machine.providers import CPU
from onnxprune.text.names import suggest

PLAIN = "fp32"
VARIANTS = (PLAIN, "fp16", "int8")
_CONVOLUTIONS = {"Conv", "ConvTranspose", "FusedConv"}
_SAID_WHY = 3
"""Exit code of a conversion that has printed why it cannot be done."""


def check_variant(name: str) -> None:
    """Refuse a variant that there is not."""
    if name not in VARIANTS:
        raise UserError(f"unknown variant {name!r}{suggest(name, VARIANTS)}; there are {', '.join(VARIANTS)}")


def make_variant(variant: str, model: Model, target: Path, *, feeds: Feeds, provider: str) -> None:
    """Write `model` as that variant; a `UserError` says in one line why it cannot be made.

    Intermediate files lie in the target's folder, which should be a temporary one.
    """
    form = int8_form(model, provider) if variant == "int8" else variant
    # what the CPU is best at; TensorRT takes nothing but symmetric numbers
    convert(model, target, form, [feeds], what=variant, symmetric=provider != CPU)


def convert(
    model: Model,
    target: Path,
    form: str,
    batches: Iterable[Feeds],
    *,
    what: str,
    symmetric: bool = False,
    per_channel: bool = False,
) -> None:
    """Write `model` as `fp16`, or in 8 bits: `dynamic`, or `static` with the ranges that occur on the batches.

    `what` is how errors call it.
    """
    if model.nbytes > SINGLE_FILE_LIMIT:
        raise UserError(f"its weights take {model.nbytes / 1e9:.1f} GB, and {what} is made of models up to 2 GB")
    source = target.with_suffix(".source.onnx")
    stored: list[Path] = []
    inputs: list[str] = []
    try:
        save(_plain(model), source)
        for feeds in batches:
            stored.append(target.with_suffix(f".{len(stored)}.npz"))
            inputs = list(feeds)
            np.savez(stored[-1], allow_pickle=False, **{f"input{i}": array for i, array in enumerate(feeds.values())})
        job = {
            "form": form,
            "source": str(source),
            "target": str(target),
            "feeds": [str(file) for file in stored],
            "inputs": inputs,
            "symmetric": symmetric,
            "per_channel": per_channel,
        }
        # -P: a file called numpy.py in the current folder must not be imported
        command = [sys.executable, "-P", "-m", "onnxprune.timing.converting", json.dumps(job)]
        scratch = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(target.parent))
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **scratch})
    finally:
        for file in (source, *stored):
            file.unlink(missing_ok=True)
    if done.returncode == _SAID_WHY:
        raise UserError(done.stdout.splitlines()[-1])
    if done.returncode != 0:
        raise UserError(f"the process that makes {what} ended with code {done.returncode}")
    if _declared(load(target)) != _declared(model):  # then it could not be run at the same sizes
        raise UserError("onnxruntime's tool declares other inputs than the model does")


def int8_form(model: Model, provider: str) -> str:
    """`static` or `dynamic`."""
    if provider != CPU:
        return "static"
    shapes, _ = concrete(model)
    work = [(node.op_type in _CONVOLUTIONS, macs(node, shapes) or 0) for node in model.graph.node]
    convolved = sum(count for is_convolution, count in work if is_convolution)
    return "static" if 0 < sum(count for _, count in work) <= 2 * convolved else "dynamic"


def _declared(model: Model) -> dict[str, tuple[int, tuple[int | str, ...]]]:
    return {x.name: (x.dtype, x.shape) for x in inputs_of(model)}


def _plain(model: Model) -> Model:
    """In one file, without what the tools stumble over: weights that are inputs too, or whose shapes are declared."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    proto.ir_version = max(proto.ir_version, 4)  # before, every weight had to be an input
    for values in (proto.graph.input, proto.graph.value_info):
        kept = [value for value in values if value.name not in model.weights]
        del values[:]
        values.extend(kept)
    return model.replace(proto=proto, external=False)
