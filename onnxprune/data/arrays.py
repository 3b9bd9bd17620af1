"""Arrays in files: `.npy`, `.npz`, or a folder of those, read row by row from front to back.

    calib/a.npz   image (300, 3, 224, 224)   labels (300,)      headers are read at once, rows when their turn comes,
    calib/b.npz   image (200, 3, 224, 224)   labels (200,)      also out of compressed files

So memory holds a batch, not a file. Of 500 samples and a limit of 100, every fifth is taken: the order in which people
store samples is seldom chance. Nothing is unpickled, and what a file says of its size is checked before it is believed.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnxprune.errors import UnfitData
from onnxprune.execution.batches import Chunk
from onnxprune.execution.form import Form, missing
from onnxprune.execution.inputs import LARGEST

Array = NDArray[Any]

SUFFIXES = (".npy", ".npz")
LABELS = ("labels", "label", "y")
"""What an array of labels may be called, unless an input is."""


@dataclass(frozen=True)
class Stored:
    """An array of which only the header was read."""

    path: Path
    member: str
    """Its file within an archive; empty: the file is the array."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    columns: bool
    """Stored column by column, so that rows cannot be read one after the other."""
    start: int
    """Where the data begins."""

    def __str__(self) -> str:
        return f"{str(self.path)!r}" + (f" ({self.member.removesuffix('.npy')!r})" if self.member else "")


@dataclass(frozen=True)
class File:
    """The arrays of a file that are used."""

    path: Path
    feeds: dict[str, Stored]
    labels: Stored | None
    unused: tuple[str, ...]
    samples: int


@dataclass(frozen=True)
class ArrayFiles:
    """A source of samples: files of arrays, each opened when its turn comes."""

    form: Form
    files: tuple[File, ...]
    limit: int | None
    classes: int = 0

    @property
    def samples(self) -> int | None:
        """How many samples there are to read; None where that shows only in reading."""
        if not self.form.stacked:
            return None
        total = sum(file.samples for file in self.files)
        return total if self.limit is None else min(total, self.limit)

    def notes(self) -> list[str]:
        """What to know about these files."""
        unused = dict.fromkeys(name for file in self.files for name in file.unused)
        if not unused:
            return []
        return [f"not used, for no input has such a name: {', '.join(map(repr, list(unused)[:8]))}"]

    def chunks(self, size: int) -> Iterator[Chunk]:
        """At most `size` samples at a time."""
        taken = spread(sum(file.samples for file in self.files), self.limit if self.form.stacked else None)
        first = 0
        for file in self.files:
            here = taken[bisect_left(taken, first) : bisect_left(taken, first + file.samples)]
            with ExitStack() as stack:
                feeds = {name: stack.enter_context(_opened(stored)) for name, stored in file.feeds.items()}
                labels = stack.enter_context(_opened(file.labels)) if file.labels else None
                for start in range(0, len(here), size):
                    rows = [i - first for i in here[start : start + size]] if self.form.stacked else None
                    arrays = {name: reader.read(rows) for name, reader in feeds.items()}
                    yield Chunk(arrays, labels.read(rows) if labels else None, repr(str(file.path)))
            first += file.samples


def array_files(path: Path, form: Form, limit: int | None) -> ArrayFiles:
    """The files behind a path, their headers read and compared with what the model takes."""
    paths = sorted(item for item in path.iterdir() if is_array(item)) if path.is_dir() else [path]
    files = tuple(_file(item, form) for item in paths)
    for stored in (stored for file in files for stored in (*file.feeds.values(), file.labels) if stored is not None):
        if stored.dtype.kind not in "biufU":
            raise UnfitData(f"{stored} holds {stored.dtype}, which is neither numbers nor text")
    return ArrayFiles(form, files, limit)


def is_array(path: Path) -> bool:
    """Whether a file is called like one of arrays."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def spread(total: int, limit: int | None) -> Sequence[int]:
    """The samples to take: all, or so many at even distances."""
    if limit is None or limit >= total:
        return range(total)
    return [i * total // limit for i in range(limit)]


def _file(path: Path, form: Form) -> File:
    found = {stored.member.removesuffix(".npy"): stored for stored in _headers(path)}
    if list(found) == [""]:
        return File(path, {form.only("a .npy file").name: found[""]}, None, (), _samples(path, form, found))
    names = [x.name for x in form.inputs]
    for name in names:
        if name not in found:
            raise missing(form, name, list(found), repr(str(path)))
    label = next((name for name in LABELS if name in found and name not in names), None)
    unused = tuple(name for name in found if name not in names and name != label)
    samples = _samples(path, form, {name: found[name] for name in names})
    if label and form.stacked and found[label].shape[:1] != (samples,):
        raise UnfitData(f"{found[label]}: labels of shape {found[label].shape} for {samples} samples")
    return File(path, {name: found[name] for name in names}, found[label] if label else None, unused, samples)


def _samples(path: Path, form: Form, feeds: dict[str, Stored]) -> int:
    if not form.stacked:
        return 1  # a chunk that cannot be cut
    lengths = {name: stored.shape[0] if stored.shape else 0 for name, stored in feeds.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
        raise UnfitData(f"{str(path)!r} holds arrays of different numbers of samples: {listed}")
    return next(iter(lengths.values()))


class _Reader:
    """One array of an open file."""

    def __init__(self, stored: Stored, file: IO[bytes]) -> None:
        self.stored, self.file = stored, file
        self.width = stored.dtype.itemsize * math.prod(stored.shape[1:])
        self.held: Array | None = None

    def read(self, rows: list[int] | None) -> Array:
        """These rows, all behind those that were read before; None: everything."""
        if rows is None or self.stored.columns:
            if self.held is None:
                self.held = self._whole()
            return self.held if rows is None else self.held[rows]
        self._bound(len(rows))
        # of a run of rows, number minus place is the same
        runs = [[row for _, row in run] for _, run in groupby(enumerate(rows), lambda item: item[1] - item[0])]
        parts = [self._flat(run[0], len(run)) for run in runs]
        return np.concatenate(parts).reshape(len(rows), *self.stored.shape[1:])

    def _whole(self) -> Array:
        shape = self.stored.shape
        length = shape[0] if shape else 1
        self._bound(length)
        data = self._flat(0, length)
        return data.reshape(shape[::-1]).T if self.stored.columns else data.reshape(shape)

    def _flat(self, row: int, count: int) -> Array:
        with _reading(str(self.stored)):
            self.file.seek(self.stored.start + row * self.width)
            data = self.file.read(count * self.width)
        if len(data) != count * self.width:
            raise UnfitData(f"{self.stored} is cut short: {count * self.width} bytes were to come, {len(data)} did")
        return np.frombuffer(data, self.stored.dtype)

    def _bound(self, rows: int) -> None:
        if rows * self.width > LARGEST:
            how = "store it row by row (np.ascontiguousarray)" if self.stored.columns else "use smaller batches"
            size = rows * self.width / 2**30
            raise UnfitData(f"{self.stored}: {size:,.1f} GiB at once, where at most {LARGEST >> 30} are read; {how}")


@contextmanager
def _opened(stored: Stored) -> Iterator[_Reader]:
    with ExitStack() as stack:
        with _reading(str(stored)):
            if stored.member:
                archive = stack.enter_context(zipfile.ZipFile(stored.path))
                file = stack.enter_context(archive.open(stored.member))
            else:
                file = stack.enter_context(stored.path.open("rb"))
        yield _Reader(stored, file)


def _headers(path: Path) -> list[Stored]:
    with _reading(repr(str(path))):
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                return [_header(path, "", file, path.stat().st_size)]
        found = []
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".npy"):
                    with archive.open(member) as file:
                        found.append(_header(path, member.filename, file, member.file_size))
        return found


def _header(path: Path, member: str, file: IO[bytes], size: int) -> Stored:
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"its format {version[0]}.{version[1]} is not known")
    shape, columns, dtype = readers[version](file)
    stored = Stored(path, member, dtype, shape, columns and len(shape) > 1, file.tell())
    if not dtype.hasobject and file.tell() + math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{member or 'it'} is cut short: {list(shape)} {dtype} do not fit into {size} bytes")
    return stored


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """What can be wrong with a file, in one line."""
    try:
        yield
    except OSError as error:
        raise UnfitData(f"cannot read {what}: {error.strerror or error}") from None
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UnfitData(f"cannot read {what}: {error}") from None
