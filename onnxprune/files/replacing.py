"""Files appear whole, several of them together, or not at all.

    m.onnx, m.onnx.data      the old ones, untouched while the new ones are written beside them
    .m.onnx.1f3a.tmp ...     renamed when all of them are complete; gone after any exception

What is seen from outside changes only in the renames, and until the last of these the first can be taken back. A
process that is killed outright leaves its temporary files behind; they are locked as long as whoever writes them lives,
so the next one that writes the same file removes those that nobody holds. Second names of the old files (`.old`) are
never removed by anybody else: they may be all that is left.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from onnxprune.errors import NotWritable, UserError

_LONGEST = 255 - len("..12345678.tmp")
"""Bytes of a name that are kept in the temporary one: file systems end at 255."""


_FRESH = 60.0
"""Seconds for which nobody else touches a temporary file."""


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a path that could not be written later."""
    path = Path(path)
    try:
        there = _is_file(path)
    except (OSError, ValueError) as error:  # a name that is too long, or holds a NUL
        raise unwritable(path, error) from None
    if there is False:
        raise NotWritable(f"cannot write {str(path)!r}: it is not a regular file")
    if not path.parent.is_dir():
        raise NotWritable(f"cannot write {str(path)!r}: the folder {str(path.parent)!r} does not exist")
    if not os.access(path.parent, os.W_OK | os.X_OK) or (there and not os.access(path, os.W_OK)):
        raise NotWritable(f"cannot write {str(path)!r}: permission denied")


def unwritable(path: Path, error: Exception) -> UserError:
    """The system's refusal in our words."""
    return NotWritable(f"cannot write {str(path)!r}: {getattr(error, 'strerror', None) or error}")


@contextmanager
def replacing(targets: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Files that take the targets' places together when the block ends well, and vanish when it does not."""
    for target in targets:
        check_writable(target)
    token = secrets.token_hex(4)
    temps = [_beside(path, token, "tmp") for path in targets]
    backups = [_beside(path, token, "old") for path in targets]
    files: list[BinaryIO] = []
    renaming = False
    try:
        for target, temp in zip(targets, temps, strict=True):
            _remove_abandoned(target)
            files.append(temp.open("xb"))
            _lock(files[-1])
        yield files
        for file in files:
            file.close()
        for target, temp, backup in zip(targets, temps, backups, strict=True):
            if target.exists():
                temp.chmod(stat.S_IMODE(target.stat().st_mode))
                _second_name(target, backup)
        # two renames are not one: until the last has happened, the first can be taken back
        renaming = True
        for target, temp in zip(targets, temps, strict=True):
            temp.replace(target)
    except BaseException:
        for target, temp, backup in zip(targets, temps, backups, strict=True):
            if backup.exists():
                backup.replace(target)
            elif renaming and not temp.exists():
                target.unlink(missing_ok=True)
        raise
    finally:
        for file in files:
            with suppress(OSError):  # a full disk is no reason to leave the others behind
                file.close()
        for path in temps + backups:
            with suppress(OSError):
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """Replace a text file; names that are no valid text (lone surrogates) come out escaped."""
    try:
        with replacing([path]) as (file,):
            file.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise unwritable(path, error) from None


def _is_file(path: Path) -> bool | None:
    """None where there is nothing yet."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _beside(path: Path, token: str, suffix: str) -> Path:
    return path.with_name(f".{_kept(path)}.{token}.{suffix}")


def _kept(path: Path) -> str:
    """As much of the name as has room."""
    return os.fsdecode(os.fsencode(path.name)[:_LONGEST])


def _remove_abandoned(target: Path) -> None:
    """What writers of this file left that were killed."""
    pattern = re.compile(rf"\.{re.escape(_kept(target))}\.[0-9a-f]{{8}}\.tmp")
    with suppress(OSError):
        for path in target.parent.iterdir():
            # between its creation and its lock a file looks abandoned
            if pattern.fullmatch(path.name) and time.time() - path.lstat().st_mtime > _FRESH:
                with suppress(OSError), path.open("rb") as file:
                    if _lock(file):
                        path.unlink()


def _lock(file: BinaryIO) -> bool:
    """Whether nobody else holds it; where there are no such locks, what is open cannot be removed anyway."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks
        return False
    return True


def _second_name(target: Path, backup: Path) -> None:
    try:
        os.link(target, backup)
    except OSError:  # a file system without hard links
        target.replace(backup)
