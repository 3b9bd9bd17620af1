"""Temporary folders that go even if the process that made them was killed: the next one that needs such a folder sees.

    onnxprune-x7f2/held      locked for as long as its process lives; the system lets go of it, however that ends

A lock, not a process number: numbers are used again, and mean something else in another container on the same folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_PREFIX = "onnxprune-"
_HELD = "held"
_LOCKS = os.name == "posix"
"""Elsewhere what a kill leaves behind stays."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    _look_once()
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
        path = Path(folder).resolve()
        if not _LOCKS:
            yield path
            return
        import fcntl

        # locked before it has its name: nobody may find it in between
        with (path / f".{_HELD}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (path / f".{_HELD}").rename(path / _HELD)
            yield path


@cache
def _look_once() -> None:
    forsaken()


def forsaken() -> None:
    """Remove those whose processes are dead."""
    if not _LOCKS:
        return
    import fcntl

    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_HELD}"):
        with suppress(OSError):  # somebody else's, in use, or gone meanwhile
            if lock.parent.stat().st_uid != os.getuid() or lock.parent.is_symlink():
                continue
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
