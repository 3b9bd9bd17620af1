"""What a command writes: whole or not at all, and never over something else that it was given."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from onnxprune.errors import UserError


def write(path: Path, text: str) -> None:
    """Replace a text file."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # names that are no valid text (lone surrogates) come out escaped
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def distinct(paths: Sequence[Path]) -> None:
    """Refuse to write one file over another."""
    seen: set[Path] = set()
    for path in paths:
        real = path.resolve()
        if real in seen:
            raise UserError(f"{str(path)!r} is given twice; what is written needs a file of its own")
        seen.add(real)
