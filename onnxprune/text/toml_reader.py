"""TOML that somebody has written: a table, or an error of one line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from onnxprune.errors import UserError


def table_of(path: str | Path) -> dict[str, Any]:
    """What a TOML file holds."""
    try:
        return tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))  # some editors put a mark in front
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except RecursionError:
        raise UserError(f"{str(path)!r} is not valid TOML: it is nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise UserError(f"{str(path)!r} is not valid TOML: {error}") from None
