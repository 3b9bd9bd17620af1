"""Drawings go into files without any window, whole or not at all, and the same figures give the same file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.errors import MissingExtra, UserError
from onnxprune.files.replacing import replacing, unwritable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DATED = {".svg": "Date", ".png": None, ".pdf": "CreationDate"}
"""The formats, and where they would say when they were made."""


def check(path: Path) -> None:
    """Refuse what could not be drawn later."""
    if path.suffix.lower() not in _DATED:
        raise UserError(f"cannot draw {str(path)!r}: the name must end in {', '.join(_DATED)}")
    try:
        import matplotlib.figure  # noqa: F401  only whether it is there
    except ImportError:
        raise MissingExtra("drawing needs matplotlib: pip install 'onnxprune[report]'") from None


def save(drawn: Figure, path: Path) -> None:
    """Write a figure in the format of the file's name."""
    import matplotlib as mpl

    kind = path.suffix.lower()
    dated = _DATED[kind]
    try:
        with replacing([path]) as (file,), mpl.rc_context({"svg.hashsalt": "onnxprune"}):
            drawn.savefig(file, format=kind[1:], metadata={dated: None} if dated else None)
    except OSError as error:
        raise unwritable(path, error) from None
