"""Sequences are lists of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from onnxprune.bridge.registry import Step, op

_split: Any = torch.split


@op("SequenceConstruct")
def construct(s: Step) -> fx.Node:
    return s.emit(listed, *s.tensors())


def listed(*items: Tensor) -> list[Tensor]:
    return list(items)


@op("SequenceEmpty")
def empty(s: Step) -> fx.Node:
    return s.emit(listed)


@op("SequenceInsert", sizes=(2,))
def insert(s: Step) -> fx.Node:
    return s.emit(inserted, s.tensor(0), s.tensor(1), s.numbers(2))


def inserted(items: Sequence[Tensor], item: Tensor, at: int | None) -> list[Tensor]:
    at = len(items) if at is None else at
    return [*items[:at], item, *items[at:]]


@op("SequenceAt", sizes=(1,))
def item_at(s: Step) -> fx.Node:
    return s.emit(chosen, s.tensor(0), s.numbers(1))


def chosen(items: Sequence[Tensor], at: int) -> Tensor:
    return items[at]


@op("SplitToSequence", sizes=(1,))
def split_to_sequence(s: Step) -> fx.Node:
    return s.emit(separated, s.tensor(0), s.numbers(1), s.attr("axis", 0), bool(s.attr("keepdims", 1)))


def separated(x: Tensor, sizes: int | Sequence[int] | None, axis: int, keep: bool) -> list[Tensor]:
    if sizes is None:
        return list(_split(x, 1, axis)) if keep else list(x.unbind(axis))
    return list(_split(x, sizes if isinstance(sizes, int) else list(sizes), axis))


@op("ConcatFromSequence")
def concat_from_sequence(s: Step) -> fx.Node:
    return s.emit(joined, s.tensor(0), s.attr("axis"), bool(s.attr("new_axis", 0)))


def joined(items: Sequence[Tensor], axis: int, new: bool) -> Tensor:
    return torch.stack(list(items), axis) if new else torch.cat(list(items), axis)
