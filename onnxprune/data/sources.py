"""Data from what people have: one word says where it is, and every pass over it gives the same batches.

    photos/, photos.zip      images, in class folders or not                        images
    x.npy, x.npz, parts/     arrays, or a folder of such files                      arrays
    mine:batches             a Python function that yields batches, called anew for every pass
    random, random:256       numbers that the model runs on, the same for the same seed
    synthetic:256            likewise, but images are as smooth as photographs are

Nothing is held but the batch in work, so a set may be of any size. Data that differs from one pass to the next (of a
loader that shuffles) would make every comparison wrong, so it is noticed and refused.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onnxprune.data import synthetic
from onnxprune.data.arrays import LABELS, array_files, is_array
from onnxprune.data.images import ImageFiles, image_files, is_image
from onnxprune.data.preprocess import Preprocess
from onnxprune.errors import UnfitData, UserError
from onnxprune.execution.batches import Batch, Chunk, batched, fitted, limited
from onnxprune.execution.form import Form, form_of, missing
from onnxprune.execution.inputs import random_feeds, runnable_feeds
from onnxprune.files.model import Model, expect_model
from onnxprune.graph.dims import Dims
from onnxprune.text.functions import function_of, is_function_name, theirs
from onnxprune.text.kinds import is_whole

__all__ = ["Batch", "Dataset", "Preprocess", "Request", "open_data"]

RANDOM = 64
"""Samples of `random` without a number."""
MOST_RANDOM = 1 << 20
_GENERATED = re.compile(r"(random|synthetic)(?::(\d{1,9}))?")


@dataclass(frozen=True)
class Request:
    """Which data, as it was asked for: enough to open it again somewhere else."""

    spec: str
    """A path, `module:function`, `random[:N]` or `synthetic[:N]`."""
    preprocess: Preprocess | None = None
    """For images."""
    limit: int | None = None
    """At most so many samples, at even distances where their number is known."""
    batch: int = 32
    """Samples per run, where the model leaves that open."""
    seed: int = 0
    """For `random`."""
    dims: tuple[tuple[str, int], ...] = ()
    """Sizes of free dimensions."""

    def __post_init__(self) -> None:
        for name, number, least in (("limit", self.limit, 1), ("batch", self.batch, 1), ("seed", self.seed, 0)):
            if not (number is None and name == "limit") and not (is_whole(number) and number >= least):
                raise UserError(f"{name} must be a whole number, {least} or more, not {number!r}")


def holds_images(spec: str) -> bool:
    """Whether it is a folder or an archive that images are looked for in."""
    path = Path(spec)
    try:
        return path.suffix.lower() == ".zip" if not path.is_dir() else not any(map(is_array, path.iterdir()))
    except (OSError, ValueError):
        return False


def is_generated(spec: str) -> bool:
    """Whether it reads like `random:256` or `synthetic`: such data lies nowhere."""
    return _GENERATED.fullmatch(spec) is not None


class Source(Protocol):
    """Where samples come from."""

    @property
    def limit(self) -> int | None:
        """At most so many are taken."""

    @property
    def samples(self) -> int | None:
        """How many there are to read, if that is known."""

    @property
    def classes(self) -> int:
        """How many class folders there are, if there are any."""

    def notes(self) -> list[str]:
        """What to know, once they have been read."""

    def chunks(self, size: int) -> Iterator[Chunk]:
        """From the first to the last, about `size` at a time; each call begins anew."""


class Dataset:
    """Batches for one model; every pass over it gives the same."""

    def __init__(self, request: Request, form: Form, source: Source, hold: int = 0) -> None:
        self.request, self.form, self.source, self._hold = request, form, source, hold
        self._seen: tuple[int, str] | None = None
        self._held: list[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._held is not None:
            yield from self._held
            return
        held: list[Batch] = []
        room = self._hold
        where, size = repr(self.request.spec), self.form.fixed or self.request.batch
        count, labelled = 0, None
        digest = hashlib.blake2b(digest_size=16)
        chunks = (fitted(self.form, chunk) for chunk in self.source.chunks(size))
        for batch in batched(self.form, limited(self.form, chunks, self.source.limit), size):
            if labelled not in (None, batch.labels is not None):
                raise UnfitData(f"{where} has labels for a part of its samples only")
            labelled = batch.labels is not None
            count += batch.count
            for array in (*batch.feeds.values(), *([batch.labels] if batch.labels is not None else [])):
                digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
                room -= array.nbytes
            if room > 0:
                held.append(batch)
            else:
                held.clear()
            yield batch
        found = (count, digest.hexdigest())
        if not count:
            raise UnfitData("; ".join([f"{where} holds no samples", *self.notes]))
        if self._seen not in (None, found):
            raise UnfitData(f"{where} gives other data each time; it must give the same (no shuffling, a fixed seed)")
        self._seen = found
        self._held = held if room > 0 else None

    @property
    def samples(self) -> int | None:
        """How many there are, as far as that is known."""
        return self._seen[0] if self._seen else self.source.samples

    @property
    def classes(self) -> int:
        """How many class folders there are; 0 where labels come from elsewhere."""
        return self.source.classes

    @property
    def digest(self) -> str:
        """What tells this data from other data; one pass is made to find out, if there was none."""
        if self._seen is None:
            for _ in self:
                pass
        assert self._seen is not None
        return self._seen[1]

    @property
    def notes(self) -> list[str]:
        """What to know; complete after a pass."""
        return self.source.notes()

    @property
    def troubles(self) -> tuple[str, ...]:
        """What to know of data that somebody has: what of it was not read, say."""
        return () if is_generated(self.request.spec) else tuple(self.notes)


def open_data(
    spec: str | os.PathLike[str],
    model: Model,
    *,
    preprocess: Preprocess | None = None,
    limit: int | None = None,
    batch: int = 32,
    seed: int = 0,
    dims: Dims | None = None,
) -> Dataset:
    """Data for a model: a path, `module:function`, `random[:N]`, `synthetic[:N]`. Each iteration reads anew."""
    expect_model(model, "open_data")
    bound = tuple((dims or {}).items())
    return reopened(Request(os.fspath(spec), preprocess, limit, batch, seed, bound), model)


def reopened(request: Request, model: Model, *, hold: int = 0) -> Dataset:
    """The data of a request, here; kept in memory after the first pass where it takes less than `hold` bytes."""
    form = form_of(model, dict(request.dims))
    source = _random(request, model) or _files(request, form) or _calls(request, form)
    if source is None:
        raise UnfitData(
            f"there is no {request.spec!r}: data is a file or folder (images, .npy, .npz), module:function, or random:N"
        )
    if request.preprocess not in (None, Preprocess()) and not isinstance(source, ImageFiles):
        raise UnfitData(f"mean, std, size, layout and color are for images, and {request.spec!r} are none")
    return Dataset(request, form, source, hold)


def _files(request: Request, form: Form) -> Source | None:
    path = Path(request.spec)
    try:
        if not path.exists():
            return None
        if path.is_dir():
            arrays = any(map(is_array, path.iterdir()))
            if arrays and any(is_image(item.name) for item in path.iterdir()):
                raise UnfitData(f"{request.spec!r} holds both images and arrays: put them into folders of their own")
        else:
            arrays = is_array(path)
            if not arrays and path.suffix.lower() != ".zip":
                raise UnfitData(f"{request.spec!r} is neither .npy nor .npz, and no folder or .zip of images")
        if arrays:
            return array_files(path, form, request.limit)
        return image_files(path, form, request.preprocess or Preprocess(), request.limit)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise UnfitData(f"cannot read {request.spec!r}: {getattr(error, 'strerror', None) or error}") from None


@dataclass(frozen=True, eq=False)
class Random:
    """A source of samples: numbers."""

    model: Model
    limit: int
    seed: int
    sizes: Dims
    smooth: bool
    """Inputs that look like images get what looks like images."""
    classes: int = 0

    @property
    def samples(self) -> int | None:
        return self.limit

    def notes(self) -> list[str]:
        return ["the data is random: the figures compare models, and say nothing of how good any of them is"]

    def chunks(self, size: int) -> Iterator[Chunk]:
        for i in range(self.limit):  # more than enough: each holds a sample at least
            seed = self.seed * MOST_RANDOM + i
            feeds = random_feeds(self.model, dims=self.sizes, seed=seed)
            if self.smooth:
                rng = np.random.default_rng([seed, 1])
                feeds = {name: _smooth(array, rng) for name, array in feeds.items()}
            yield Chunk(feeds, None, "random data")


def _smooth(array: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    is_float = array.dtype.kind == "f"
    return (
        synthetic.images(array.shape, rng).astype(array.dtype)
        if is_float and synthetic.is_image(array.shape)
        else array
    )


def _random(request: Request, model: Model) -> Source | None:
    found = _GENERATED.fullmatch(request.spec)
    if found is None:
        return None
    count = int(found[2] or RANDOM)
    if not 0 < count <= MOST_RANDOM:
        raise UserError(f"{request.spec!r}: the number of samples must be 1 to {MOST_RANDOM}")
    count = min(count, request.limit or count)
    runnable = runnable_feeds(model, dims=dict(request.dims), seed=request.seed, batch=min(count, request.batch))
    return Random(model, count, request.seed, runnable.dims, found[1] == "synthetic")


@dataclass(frozen=True)
class Calls:
    """A source of samples: what a function of the user's yields."""

    form: Form
    name: str
    limit: int | None
    samples: None = None
    classes: int = 0

    def notes(self) -> list[str]:
        return []

    def chunks(self, size: int) -> Iterator[Chunk]:
        with theirs(self.name):
            made = function_of(self.name)()
        if not isinstance(made, Iterable) and not hasattr(made, "__getitem__"):
            raise UnfitData(f"{self.name!r} gives {type(made).__name__}, which holds no batches: it must yield them")
        with theirs(self.name):
            batches = iter(made)
        for number in itertools.count():
            with theirs(self.name):
                try:
                    item = next(batches)
                except StopIteration:
                    return
                chunk = self._chunk(item, f"batch {number} of {self.name!r}")
            yield chunk

    def _chunk(self, item: Any, where: str) -> Chunk:
        feeds, labels = item if isinstance(item, tuple | list) and len(item) == 2 else (item, None)
        if not isinstance(feeds, Mapping):
            feeds = {self.form.only(where).name: feeds}
        inputs = [x.name for x in self.form.inputs]
        if labels is None:
            labels = next((feeds[name] for name in LABELS if name in feeds and name not in inputs), None)
        for name in inputs:
            if name not in feeds:
                raise missing(self.form, name, list(map(str, feeds)), where)
        arrays = {name: np.asarray(feeds[name]) for name in inputs}
        return Chunk(arrays, None if labels is None else np.asarray(labels), where)


def _calls(request: Request, form: Form) -> Source | None:
    if not is_function_name(request.spec):
        return None
    function_of(request.spec)  # a wrong name is refused now, not after the model was measured
    return Calls(form, request.spec, request.limit)
