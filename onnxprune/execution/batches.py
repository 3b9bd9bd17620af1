"""From arrays as people have them to batches as a model takes them.

    as it was read   image (500, 1, 8, 8) float64      labels (500,)
    fitted           image (500, 1, 8, 8) float32      as the input asks for, or an error that says what it asks for
    batches of 64    64 64 64 64 64 64 64 52
    model of 64      64 64 64 64 64 64 64 52 + 12      copies of the last sample fill up what the model wants full;
                                                       `count` is 52, and nobody may count more

Where the samples of a model are not stacked, nothing can be cut or joined: each chunk that is read is a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import UnfitData
from onnxprune.execution.form import Form, fit
from onnxprune.execution.inputs import Feeds

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Batch:
    """What one run of the model takes."""

    feeds: Feeds
    labels: Array | None
    """One for each sample that counts; None: the data has none."""
    count: int
    """Samples that count."""
    spare: int = 0
    """Samples behind them that do not: copies of the last one, for a model that takes batches of one size only."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Samples as they were read."""

    arrays: Mapping[str, Array]
    labels: Array | None
    where: str
    """What errors call it."""


def fitted(form: Form, chunk: Chunk) -> Chunk:
    """The chunk with every array as its input asks for it."""
    found = Chunk(fit(form, chunk.arrays, chunk.where), chunk.labels, chunk.where)
    if chunk.labels is None:
        return found
    if not chunk.labels.ndim or len(chunk.labels) != count_of(form, found):
        raise UnfitData(f"{chunk.where}: labels of shape {chunk.labels.shape} for {count_of(form, found)} samples")
    if chunk.labels.dtype.kind not in "biuf":
        raise UnfitData(f"{chunk.where}: labels must be numbers, not {chunk.labels.dtype}")
    return found


def limited(form: Form, chunks: Iterable[Chunk], limit: int | None) -> Iterator[Chunk]:
    """The first `limit` samples; where they cannot be cut, a few more."""
    left = limit
    for chunk in chunks:
        yield _part(chunk, 0, left) if left is not None and form.stacked else chunk
        if left is not None:
            left -= count_of(form, chunk)
            if left <= 0:
                return


def batched(form: Form, chunks: Iterable[Chunk], size: int) -> Iterator[Batch]:
    """Batches of `size` samples, or of the model's own size; fewer at the end, and where shapes change on the way."""
    size = form.fixed or size
    held: list[Chunk] = []
    for chunk in chunks:
        if not form.stacked:
            yield Batch(dict(chunk.arrays), chunk.labels, count_of(form, chunk))
            continue
        if held and not _alike(held[0], chunk):
            yield _joined(form, held)
            held = []
        start, end = 0, count_of(form, chunk)
        while start < end:
            stop = min(end, start + size - sum(count_of(form, part) for part in held))
            held.append(_part(chunk, start, stop))
            start = stop
            if sum(count_of(form, part) for part in held) == size:
                yield _joined(form, held)
                held = []
    if held:
        yield _joined(form, held)


def count_of(form: Form, chunk: Chunk) -> int:
    """How many samples there are."""
    if form.place is None:
        return 1
    name, axis = form.place
    return int(chunk.arrays[name].shape[axis])


def _joined(form: Form, parts: list[Chunk]) -> Batch:
    count = sum(count_of(form, part) for part in parts)
    spare = (form.fixed or count) - count
    feeds: Feeds = {}
    for x in form.inputs:
        arrays = [part.arrays[x.name] for part in parts]
        if spare:
            arrays.append(np.repeat(arrays[-1][-1:], spare, axis=0))
        feeds[x.name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    labels = [part.labels for part in parts if part.labels is not None]
    return Batch(feeds, np.concatenate(labels) if labels else None, count, spare)


def _part(chunk: Chunk, start: int, stop: int) -> Chunk:
    arrays = {name: array[start:stop] for name, array in chunk.arrays.items()}
    return Chunk(arrays, None if chunk.labels is None else chunk.labels[start:stop], chunk.where)


def _alike(a: Chunk, b: Chunk) -> bool:
    """Whether the two can be joined."""
    return all(a.arrays[name].shape[1:] == array.shape[1:] for name, array in b.arrays.items()) and (
        (a.labels is None) == (b.labels is None)
        and (a.labels is None or b.labels is None or a.labels.shape[1:] == b.labels.shape[1:])
    )
