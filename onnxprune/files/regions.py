"""A region is a stretch of bytes of an open file; it stays readable and unchanged when the file's name is replaced.

The descriptor is opened once per file and kept, so that saving over an input (a new inode under the old name) does
not pull the weights away from a model that is still in use. The whole file is mapped while any view of it is alive,
and unmapped with the last one: pages that were read do not pile up, and thousands of views need one descriptor, not
thousands.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import InvalidModel

_SMALL = 64 << 10
"""Regions up to this size are copied out: a view of a few bytes would keep every page that others touched."""


class File:
    """A file opened for reading until its last region is gone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self.size = os.fstat(self._fd).st_size
        self._map: weakref.ref[mmap.mmap] | None = None

    def map(self) -> mmap.mmap:
        """The whole file, mapped; shared by all who hold it."""
        found = self._map() if self._map is not None else None
        if found is None:
            if os.fstat(self._fd).st_size < self.size:
                raise InvalidModel(f"{str(self.path)!r} became shorter while it was in use; load it again")
            found = mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)
            self._map = weakref.ref(found)
        return found

    def current(self) -> bool:
        """Whether the path still names this file."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._fd))
        except OSError:
            return False

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


@dataclass(frozen=True)
class Region:
    """Bytes `offset` to `offset + length` of a file."""

    file: File
    offset: int
    length: int

    def read(self) -> bytes:
        """A copy."""
        return self.file.map()[self.offset : self.offset + self.length] if self.length else b""

    def array(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """A flat read-only array, a view of the mapped file unless it is small."""
        if self.length <= _SMALL:
            return np.frombuffer(self.read(), dtype)
        return np.frombuffer(self.file.map(), dtype, count=self.length // dtype.itemsize, offset=self.offset)

    def chunks(self, size: int) -> Iterator[bytes]:
        """All bytes in order, at most `size` at a time."""
        end = self.offset + self.length
        for start in range(self.offset, end, size):
            yield self.file.map()[start : min(start + size, end)]
