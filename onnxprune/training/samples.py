"""Samples in any order: what training asks of data beyond what measuring does.

    the order of an epoch   a permutation drawn from (seed, epoch), hence the same after a restart
    step k of 2 processes   [ k*2b ... k*2b+b | k*2b+b ... (k+1)*2b ]     one draw for all, each takes its part
    the rest at the end     left out of that epoch, so that all steps and all processes weigh the same

Images are decoded once and kept as bytes where they fit `HELD`, else each is decoded when its turn comes, ahead of the
training, by threads. Arrays are kept likewise; what does not fit is read from front to back in every epoch and shuffled
within a window of that size.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune.data.arrays import spread
from onnxprune.data.images import ImageFiles
from onnxprune.data.preprocess import Preprocess
from onnxprune.data.sources import Dataset
from onnxprune.errors import UserError

Array = NDArray[Any]
Indices = NDArray[np.int64]

HELD = 2 << 30
"""Bytes of data that are kept in memory."""
_AHEAD = 4
"""Images decoded before their turn, per thread."""
_PART = 64
"""Images between two reports of progress."""


@dataclass(frozen=True, eq=False)
class Raw:
    """Samples as they are kept: inputs in the model's order, or pixels, and labels."""

    arrays: tuple[Array, ...]
    labels: Array | None

    def __len__(self) -> int:
        return len(self.arrays[0])

    def taken(self, chosen: Indices | slice) -> Raw:
        return Raw(tuple(array[chosen] for array in self.arrays), None if self.labels is None else self.labels[chosen])


class Samples(Protocol):
    """What training reads."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def labelled(self) -> bool:
        """Whether they have labels."""

    @property
    def pixels(self) -> Preprocess | None:
        """How bytes (samples, height, width, channels) become the only input; None: arrays are inputs as they are."""

    @property
    def digest(self) -> str:
        """What tells this data from other data."""

    def shuffled(self, rng: np.random.Generator, size: int, part: slice) -> Iterator[Raw]:
        """All samples in a random order, `size` at a time without the rest; of each such batch this part."""

    def ordered(self, size: int) -> Iterator[Raw]:
        """All samples as they lie."""


@dataclass(frozen=True, eq=False)
class Held:
    """Samples in memory."""

    raw: Raw
    pixels: Preprocess | None = None

    @property
    def count(self) -> int:
        return len(self.raw)

    @property
    def labelled(self) -> bool:
        return self.raw.labels is not None

    @property
    def digest(self) -> str:
        found = hashlib.blake2b(repr(self.pixels).encode(), digest_size=16)
        for array in (*self.raw.arrays, *([] if self.raw.labels is None else [self.raw.labels])):
            found.update(f"{array.dtype}{array.shape}".encode())
            found.update(np.ascontiguousarray(array).view(np.uint8).data)
        return found.hexdigest()

    def shuffled(self, rng: np.random.Generator, size: int, part: slice) -> Iterator[Raw]:
        return (self.raw.taken(chosen[part]) for chosen in _drawn(rng, self.count, size))

    def ordered(self, size: int) -> Iterator[Raw]:
        return (self.raw.taken(slice(start, start + size)) for start in range(0, self.count, size))


@dataclass(frozen=True, eq=False)
class Decoded:
    """Images, each decoded anew when its turn comes; where one cannot be read, training takes another of its batch."""

    source: ImageFiles

    @property
    def count(self) -> int:
        return self.source.samples

    @property
    def labelled(self) -> bool:
        return self.source.labels is not None

    @property
    def pixels(self) -> Preprocess:
        return self.source.how

    @property
    def digest(self) -> str:
        said = repr((self.source.how, self.source.limit, self.source.labels, self.source.images))
        return hashlib.blake2b(said.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()

    def shuffled(self, rng: np.random.Generator, size: int, part: slice) -> Iterator[Raw]:
        for raw, count in self._read(chosen[part] for chosen in _drawn(rng, self.count, size)):
            yield raw.taken(np.arange(count) % len(raw))  # all steps are equally large

    def ordered(self, size: int) -> Iterator[Raw]:
        starts = range(0, self.count, size)
        return (raw for raw, _ in self._read(np.arange(start, min(start + size, self.count)) for start in starts))

    def _read(self, batches: Iterable[Indices]) -> Iterator[tuple[Raw, int]]:
        """What can be read of each batch, and how many there should be."""
        places = np.array(spread(len(self.source.images), self.source.limit))
        labels = None if self.source.labels is None else np.array(self.source.labels)
        for chosen, images in _decoded(self.source, (places[chosen] for chosen in batches)):
            good = [place for place, image in enumerate(images) if image is not None]
            pixels = [image for image in images if image is not None]
            if not good:
                raise UserError("; ".join(["a whole batch of images cannot be read", *self.source.notes()]))
            yield Raw((np.stack(pixels),), None if labels is None else labels[chosen[good]]), len(chosen)


@dataclass(frozen=True, eq=False)
class Streamed:
    """Data that is read from front to back, and shuffled within a window."""

    data: Dataset
    count: int
    labelled: bool
    window: int
    """Samples."""
    pixels: None = None

    @property
    def digest(self) -> str:
        return self.data.digest

    def shuffled(self, rng: np.random.Generator, size: int, part: slice) -> Iterator[Raw]:
        for window in _regrouped(self.ordered(size), max(1, self.window // size) * size):
            if len(window) >= size or self.count < size:
                yield from (window.taken(chosen[part]) for chosen in _drawn(rng, len(window), size))

    def ordered(self, size: int) -> Iterator[Raw]:
        return _regrouped((_raw(self.data, batch) for batch in self.data), size)


def samples_of(
    data: Dataset, *, hold: int = HELD, on_progress: Callable[[float], None] | None = None
) -> tuple[Samples, list[str]]:
    """The samples of a data set, in memory where they fit, and what to know about them."""
    if not data.form.stacked:
        raise UserError(
            f"training takes batches along the first axis of every input, and this model's lie elsewhere: {data.form}"
        )
    if isinstance(data.source, ImageFiles):
        return _images(data.source, hold, on_progress)
    return _arrays(data, hold), data.notes


def _images(source: ImageFiles, hold: int, on_progress: Callable[[float], None] | None) -> tuple[Samples, list[str]]:
    how = source.how
    if how.size is None:
        raise UserError("images are trained on in batches of one size, which this model leaves open: give --size")
    channels = 1 if how.color == "gray" else 3
    if source.samples * how.size[0] * how.size[1] * channels > hold:
        note = f"{source.samples:,} images do not fit {hold / 2**30:g} GiB; they are decoded in every epoch"
        return Decoded(source), [*source.notes(), note]
    pixels = np.empty((source.samples, *how.size, channels), np.uint8)
    places: list[int] = []
    chosen = np.array(spread(len(source.images), source.limit))
    parts = (chosen[start : start + _PART] for start in range(0, len(chosen), _PART))
    for number, (part, images) in enumerate(_decoded(source, parts)):
        for place, image in zip(part, images, strict=True):
            if image is not None:
                pixels[len(places)] = image
                places.append(int(place))
        if on_progress is not None:
            on_progress(min(1.0, (number + 1) * _PART / source.samples))
    if not places:
        raise UserError("; ".join([f"{str(source.root)!r} holds no image that can be read", *source.notes()]))
    labels = None if source.labels is None else np.array(source.labels)[places]
    return Held(Raw((pixels[: len(places)],), labels), how), source.notes()


def _arrays(data: Dataset, hold: int) -> Samples:
    """One pass over all of it finds out whether it fits."""
    kept: list[Raw] | None = []
    room, count, labelled, shapes = hold, 0, False, None
    for batch in data:
        raw = _raw(data, batch)
        count += len(raw)
        labelled = raw.labels is not None
        found = [array.shape[1:] for array in raw.arrays]
        if shapes not in (None, found):
            raise UserError(
                f"{data.request.spec!r} holds samples of shapes {shapes} and {found}, and training shuffles them into "
                "batches: pad or cut them to one"
            )
        shapes = found
        room -= sum(array.nbytes for array in raw.arrays)
        if room < 0:
            kept = None
        elif kept is not None:
            kept.append(raw)
    if kept is None:
        window = max(1, int(hold / max(1, (hold - room) / count)))
        return Streamed(data, count, labelled, window)
    return Held(_joined(kept))


def _raw(data: Dataset, batch: Any) -> Raw:
    """Without the copies that fill up the last batch."""
    arrays = tuple(batch.feeds[x.name][: batch.count] for x in data.form.inputs)
    return Raw(arrays, batch.labels)


def _joined(parts: list[Raw]) -> Raw:
    if len(parts) == 1:
        return parts[0]
    arrays = tuple(np.concatenate(arrays) for arrays in zip(*(part.arrays for part in parts), strict=True))
    labels = [part.labels for part in parts if part.labels is not None]
    return Raw(arrays, np.concatenate(labels) if labels else None)


def _drawn(rng: np.random.Generator, count: int, size: int) -> Iterator[Indices]:
    """Batches of a permutation; of too few samples one batch is made by taking some of them again."""
    order = rng.permutation(count)
    if count < size:
        order = np.resize(order, size)
    return (order[start : start + size] for start in range(0, len(order) - size + 1, size))


def _regrouped(parts: Iterable[Raw], size: int) -> Iterator[Raw]:
    """The same samples, `size` at a time; fewer at the end."""
    held: list[Raw] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) < size:
            continue
        whole = _joined(held)
        full = len(whole) // size * size
        yield from (whole.taken(slice(start, start + size)) for start in range(0, full, size))
        held = [whole.taken(slice(full, None))] if full < len(whole) else []
    if held:
        yield _joined(held)


def _decoded(
    source: ImageFiles, batches: Iterable[Indices]
) -> Iterator[tuple[Indices, list[NDArray[np.uint8] | None]]]:
    """Images in order, while threads decode the next ones."""
    waiting: deque[tuple[Indices, list[Future[Array | None]]]] = deque()
    with source.opened() as archive, ThreadPoolExecutor(_threads()) as pool:
        for chosen in batches:
            waiting.append((chosen, [pool.submit(source.pixels, int(i), archive) for i in chosen]))
            while len(waiting) > 1 and sum(len(futures) for _, futures in waiting) > _AHEAD * _threads():
                done, futures = waiting.popleft()
                yield done, [future.result() for future in futures]
        for done, futures in waiting:
            yield done, [future.result() for future in futures]


def _threads() -> int:
    return min(32, os.cpu_count() or 1)
