"""Is a pruned file its original with the missing channels set to zero? Asked of two files, whoever pruned.

Nobody has to say what was cut: pruning copies, so every entry of a pruned weight is found again in the original, and
its place there tells which positions stayed.

    original            pruned          stayed: rows 0 2, columns 1 2
    .1 .2 .3            .2 .3
    .4 .5 .6            .8 .9           proof: original[rows][:, columns] is the pruned weight, to the bit
    .7 .8 .9

All other positions are set to zero, but for variances, which divide; and both files run on the same random inputs.
Weights that are no copies (some tool scaled or solved them) cannot be asked like that, and then that is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[Any]
SAMPLES = 64
"""Entries of a slice that are asked where they came from; equal numbers elsewhere are outvoted."""
LEAST_MOVED = 1e-4
"""Masking that changes less than that proves nothing."""


@dataclass(frozen=True)
class Answer:
    """What the comparison found."""

    error: float
    """Largest difference, relative to the largest output."""
    moved: float
    """The same between the original and the masked original."""


class Incomparable(Exception):
    """Why the two files cannot be asked."""


def stayed(original: Array, pruned: Array) -> list[Array]:
    """For each axis the positions that the pruned weight was copied from."""
    if original.ndim != pruned.ndim or any(a < b for a, b in zip(original.shape, pruned.shape, strict=True)):
        raise Incomparable(f"of shape {original.shape} there, {pruned.shape} here")
    order = np.argsort(original, axis=None, kind="stable")
    values = original.ravel()[order]
    chosen = []
    for axis, (before, after) in enumerate(zip(original.shape, pruned.shape, strict=True)):
        if before == after:
            chosen.append(np.arange(before))
            continue
        slices = np.moveaxis(pruned, axis, 0).reshape(after, -1)
        asked = slices[:, np.linspace(0, slices.shape[1] - 1, SAMPLES).astype(int)]
        found = np.minimum(np.searchsorted(values, asked), values.size - 1)
        places = np.unravel_index(order[found], original.shape)[axis]
        chosen.append(np.array([np.bincount(row, minlength=before).argmax() for row in places]))
    if not np.array_equal(original[np.ix_(*chosen)], pruned):
        raise Incomparable("its weights are no copies of the original's")
    return chosen


def zeroed(original: Array, pruned: Array, groups: int) -> Array:
    """The original with zeros at what is not in the pruned weight; every group may have kept other inputs."""
    result = np.zeros_like(original)
    pairs = zip(np.split(result, groups), np.split(original, groups), np.split(pruned, groups), strict=True)
    for blank, before, after in pairs:
        blank[np.ix_(*stayed(before, after))] = after
    return result


def masked(original: onnx.ModelProto, pruned: onnx.ModelProto) -> onnx.ModelProto:
    """The original with everything set to zero that the pruned file lacks."""
    here = {weight.name: weight for weight in pruned.graph.initializer}
    groups = _groups(pruned)
    whole = _groups(original)
    divisors = {node.input[4] for node in original.graph.node if node.op_type == "BatchNormalization"}
    result = onnx.ModelProto()
    result.CopyFrom(original)
    changed = 0
    for weight in result.graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT or weight.name not in here or weight.name in divisors:
            continue
        before, after = numpy_helper.to_array(weight), numpy_helper.to_array(here[weight.name])
        if before.shape == after.shape:
            continue
        count = groups.get(weight.name, 1)
        try:
            blank = zeroed(before, after, count if count == whole.get(weight.name, 1) else 1)
        except Incomparable as reason:
            raise Incomparable(f"{weight.name}: {reason}") from None
        weight.CopyFrom(numpy_helper.from_array(blank, weight.name))
        changed += 1
    if not changed:
        raise Incomparable("nothing was cut")
    return result


def compare(original: Path, pruned: Path, *, seed: int = 0) -> Answer:
    """Run the three of them: the original, the masked original, and what is left."""
    files = onnx.load(str(original)), onnx.load(str(pruned))
    blank = masked(*files)
    feeds = _inputs(files[0], np.random.default_rng(seed))
    whole, wanted, found = (_run(model, feeds) for model in (files[0], blank, files[1]))
    moved = _distance(whole, wanted)
    if moved < LEAST_MOVED:
        raise Incomparable(f"masking moves the outputs by {moved:.0e} only")
    return Answer(_distance(wanted, found), moved)


def _groups(model: onnx.ModelProto) -> dict[str, int]:
    """Of the convolutions that have some, by their weights; where each channel is one, a row says it all."""
    found = {}
    for node in model.graph.node:
        count = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        if node.op_type == "Conv" and count > 1:
            found[node.input[1]] = count
    depths = {weight.name: weight.dims[1] for weight in model.graph.initializer if weight.name in found}
    return {name: count for name, count in found.items() if depths.get(name, 1) > 1}


def _inputs(model: onnx.ModelProto, rng: np.random.Generator) -> dict[str, Array]:
    weights = {weight.name for weight in model.graph.initializer}
    found = {}
    for value in model.graph.input:
        if value.name not in weights:
            shape = [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim]
            found[value.name] = rng.standard_normal(shape, np.float32)
    return found


def _run(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, feeds)]


def _distance(wanted: list[Array], found: list[Array]) -> float:
    """Of the output that is farthest off."""
    if [a.shape for a in wanted] != [b.shape for b in found]:
        raise Incomparable("its outputs have other shapes")
    pairs = zip(wanted, found, strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) for a, b in pairs)
