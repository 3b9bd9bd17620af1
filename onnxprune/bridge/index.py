"""Looking up and putting in. ONNX counts negative positions from the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from onnxprune.bridge.registry import Step, op


def positive(index: Tensor, length: int) -> Tensor:
    index = index.to(torch.int64)
    return torch.where(index < 0, index + length, index)


@op("Gather")
def gather(s: Step) -> fx.Node:
    axis, known = s.attr("axis", 0), s.array(1)
    if known is not None and known.size and known.min() >= 0:
        if known.ndim == 0:
            return s.emit(torch.select, s.tensor(0), axis, int(known))
        return s.emit(picked, s.tensor(0), s.tensor(1), axis)
    return s.emit(gathered, s.tensor(0), s.tensor(1), axis)


def gathered(x: Tensor, index: Tensor, axis: int) -> Tensor:
    return picked(x, positive(index, x.shape[axis]), axis)


def picked(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """For positions that are not negative."""
    if axis == 0 and x.dim() == 2 and x.is_floating_point():
        return F.embedding(index, x)
    axis = axis + x.dim() if axis < 0 else axis
    found = x.index_select(axis, index.reshape(-1))
    return found.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


@op("GatherElements")
def gather_elements(s: Step) -> fx.Node:
    return s.emit(elements, s.tensor(0), s.tensor(1), s.attr("axis", 0))


def elements(x: Tensor, index: Tensor, axis: int) -> Tensor:
    return x.gather(axis, positive(index, x.shape[axis]))


@op("GatherND")
def gather_nd(s: Step) -> fx.Node:
    return s.emit(gathered_nd, s.tensor(0), s.tensor(1), s.attr("batch_dims", 0))


def gathered_nd(x: Tensor, index: Tensor, batch: int) -> Tensor:
    return x[_coordinates(x, index, batch)]


def _coordinates(x: Tensor, index: Tensor, batch: int = 0) -> tuple[Tensor, ...]:
    """The last axis of the index taken apart, and every batch axis looking at itself."""
    rank = index.dim() - 1
    own = []
    for axis in range(batch):
        shape = [-1 if i == axis else 1 for i in range(rank)]
        own.append(torch.arange(x.shape[axis], device=x.device).reshape(shape))
    depth = index.shape[-1]
    return (*own, *(positive(index[..., i], x.shape[batch + i]) for i in range(depth)))


@op("ScatterND")
def scatter_nd(s: Step) -> fx.Node:
    return s.emit(scattered_nd, s.tensor(0), s.tensor(1), s.tensor(2), s.attr("reduction", "none"))


def scattered_nd(x: Tensor, index: Tensor, updates: Tensor, reduction: str) -> Tensor:
    updates = updates.to(x.dtype)
    at = _coordinates(x, index)
    if reduction in ("none", "add"):
        return x.index_put(at, updates, accumulate=reduction == "add")
    depth, lengths = index.shape[-1], x.shape
    flat = torch.zeros_like(at[0])
    for place, length in zip(at, lengths, strict=False):
        flat = flat * length + place
    rows = x.reshape(-1, *lengths[depth:])
    size = rows[0].numel()
    inner = torch.arange(size, device=x.device)
    places = (flat.reshape(-1, 1) * size + inner).reshape(-1)
    names = {"mul": "prod", "max": "amax", "min": "amin"}
    out = rows.reshape(-1).scatter_reduce(0, places, updates.reshape(-1), names[reduction])
    return out.reshape(x.shape)


@op("ScatterElements", "Scatter")
def scatter_elements(s: Step) -> fx.Node:
    reduction = s.attr("reduction", "none")
    return s.emit(scattered, s.tensor(0), s.tensor(1), s.tensor(2), s.attr("axis", 0), reduction)


def scattered(x: Tensor, index: Tensor, updates: Tensor, axis: int, reduction: str) -> Tensor:
    index, updates = positive(index, x.shape[axis]), updates.to(x.dtype)
    if reduction == "none":
        return x.scatter(axis, index, updates)
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return x.scatter_reduce(axis, index, updates, names[reduction])


@op("OneHot", sizes=(1,))
def one_hot(s: Step) -> fx.Node:
    depth = s.numbers(1)
    depth = depth[0] if isinstance(depth, list) else depth
    return s.emit(hot, s.tensor(0), depth, s.tensor(2), s.attr("axis", -1))


def hot(index: Tensor, depth: Any, values: Tensor, axis: int) -> Tensor:
    """Off where the index lies outside, negative ones counted from the end."""
    depth = depth[0] if isinstance(depth, list) else depth
    index = torch.where(index < 0, index + depth, index).to(torch.int64)
    on = index.unsqueeze(-1) == torch.arange(int(depth), device=index.device)
    out = torch.where(on, values[1], values[0])
    return out.movedim(-1, axis if axis >= 0 else axis + out.dim())


@op("NonZero")
def non_zero(s: Step) -> fx.Node:
    return s.emit(places, s.tensor(0))


def places(x: Tensor) -> Tensor:
    return torch.nonzero(x).t()


@op("Compress", sizes=(1,))
def compress(s: Step) -> fx.Node:
    return s.emit(compressed, s.tensor(0), s.numbers(1), s.attr("axis"))


def compressed(x: Tensor, keep: Sequence[bool], axis: int | None) -> Tensor:
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    chosen = torch.tensor([i for i, flag in enumerate(keep) if flag], dtype=torch.int64, device=x.device)
    return x.index_select(axis, chosen)


@op("ReverseSequence")
def reverse_sequence(s: Step) -> fx.Node:
    return s.emit(backwards, s.tensor(0), s.tensor(1), s.attr("time_axis", 0), s.attr("batch_axis", 1))


def backwards(x: Tensor, lengths: Tensor, time: int, batch: int) -> Tensor:
    """The first so many steps of each sequence in reverse, the others as they are."""
    steps = torch.arange(x.shape[time], device=x.device)
    ends = lengths.to(torch.int64).unsqueeze(1)
    at = torch.where(steps < ends, ends - 1 - steps, steps)  # (batch, time)
    y = x.movedim((batch, time), (0, 1))
    at = at.reshape(*at.shape, *[1] * (y.dim() - 2)).expand(y.shape)
    return y.gather(1, at).movedim((0, 1), (batch, time))
