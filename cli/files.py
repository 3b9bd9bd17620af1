"""What a command writes must not lie over something else that it was given or writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxprune.errors import UserError


def distinct(paths: Sequence[Path]) -> None:
    """Refuse to write one file over another."""
    seen: set[Path] = set()
    for path in paths:
        real = path.resolve()
        if real in seen:
            raise UserError(f"{str(path)!r} is given twice; what is written needs a file of its own")
        seen.add(real)
