"""One layer's new weights: rows of what it reads and of what it should make are gathered, and the system is solved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.analysis.coupling import Indices
from onnxprune.execution.walk import Walk
from onnxprune.files.tensors import Tensor
from onnxprune.repair.least_squares import Evidence, evidence, solved
from onnxprune.repair.linear_layers import Layer, Matrices, Rows, matrices, rows_for, stored
from onnxprune.repair.rectified import Hidden, Shown

Array = NDArray[Any]
Lost = Mapping[tuple[str, int], Indices]
"""For each tensor and axis the positions that went."""
Wanted = tuple[Array, Array | None]
"""What should come out, and what will be added to what the layer makes of it."""

APART = 4
"""One of so many rows is kept apart to choose the ridge."""
VISIBLE = 1e-6
"""An error below this share of what is wanted need not be hidden."""


@dataclass(frozen=True)
class Fit:
    """What became of one layer."""

    layer: str
    before: float
    """Error of its outputs against the original's, relative to their power, on rows kept apart."""
    after: float


def left(walk: Walk, tensor: str, lost: Lost) -> Iterator[Array]:
    """A tensor of the original at the positions that are left, batch by batch."""
    for array in walk.numbers(tensor):
        for axis in range(array.ndim):
            if (tensor, axis) in lost:
                array = np.delete(array, lost[tensor, axis], axis)
        yield array


def fit_layer(
    layer: Layer,
    weights: Mapping[str, Tensor],
    reads: Iterable[Array],
    wanted: Iterable[Wanted],
    counts: Sequence[int],
    *,
    seed: int,
    shown: Shown | None = None,
) -> tuple[Fit, dict[str, Tensor]] | None:
    """The layer's new weights and how they fit; None where it makes other outputs than those that are wanted."""
    gathered = _gather(layer, weights[layer.weight].shape, reads, wanted, counts, seed, shown)
    if gathered is None:
        return None
    now = matrices(layer, weights)
    fit, check, hidden = gathered
    biased = layer.bias is not None
    found = solved(fit, check, now.weight, now.bias, biased=biased, free=now.free)
    said = Fit(layer.node.name or layer.y, found.before, found.after)
    if not found.after < found.before:
        return said, {}
    weight, bias = found.weight, found.bias
    if hidden is not None and found.after > VISIBLE:
        weight, bias = hidden.refined(weight, bias, biased=biased)
        weight = np.where(now.free[..., None], weight, found.weight)
    tensors = stored(layer, Matrices(weight, bias, now.factor), weights)
    if not all(np.isfinite(tensor.array()).all() for tensor in tensors.values()):
        return Fit(said.layer, said.before, said.before), {}
    return said, tensors


def _gather(
    layer: Layer,
    shape: tuple[int, ...],
    reads: Iterable[Array],
    wanted: Iterable[Wanted],
    counts: Sequence[int],
    seed: int,
    shown: Shown | None,
) -> tuple[Evidence, Evidence, Hidden | None] | None:
    """Rows to solve the layer from, rows to check it with, and both once more where a part of them is hidden."""
    features = layer.features(shape)
    most = -(-rows_for(features) // len(counts))
    rng = np.random.default_rng(seed)
    hidden = Hidden(shown) if shown is not None else None
    fit: Evidence | None = None
    for x, (y, z), share in zip(reads, wanted, _shares(counts), strict=True):
        if layer.makes(x.shape, shape) != y.shape:
            return None
        rows = Rows(layer, y.shape, most, rng)
        read, made = rows.read(x, shape), rows.made(y)
        if read.shape[2] != features:
            return None
        added = rows.made(np.broadcast_to(z, y.shape)) if z is not None else None
        to_make = made if added is None else made - added
        if fit is None:
            fit, check = (evidence(read, made, rows=read.shape[1] * len(counts)) for _ in range(2))
        apart = int(read.shape[1] * share)
        fit.add(read[:, apart:], to_make[:, apart:])
        check.add(read[:, :apart], to_make[:, :apart])
        if hidden is not None:
            hidden.add(read, made, added, apart=apart, parts=len(counts))
    assert fit is not None, "there is a batch"
    return fit, check, hidden


def _shares(counts: Sequence[int]) -> list[float]:
    """Of each batch, the share of rows that is kept apart: a part of each, or some batches where these are small."""
    if max(counts) >= APART or len(counts) < APART:
        return [1 / APART] * len(counts)
    return [1.0 if index % APART == 0 else 0.0 for index in range(len(counts))]
