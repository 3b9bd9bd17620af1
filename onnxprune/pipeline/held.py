"""One run at a time in a folder: whoever works there holds a lock, and the system lets go of it in any case."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxprune.errors import OtherRun, UserError

_LOCKS = os.name == "posix"
"""Elsewhere a folder cannot be locked."""


@contextmanager
def held(folder: Path | None) -> Iterator[None]:
    """Work in a folder, which is made if need be; refuse one in which another run is at work. None: nowhere."""
    if folder is None or not _LOCKS:
        yield
        return
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot use the folder {str(folder)!r}: {error.strerror or error}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise OtherRun(
                    f"another run is at work in {str(folder)!r}: wait until it has ended, or name a new folder"
                ) from None  # some network file systems have no locks: there it is left to the user
        yield
    finally:
        os.close(lock)
