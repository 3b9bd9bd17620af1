"""A folder in which a long run keeps what it has done, so that it can go on where it was stopped.

way/run.json          what the run is: options, and digests of model and data; another run may not use the folder
way/step-0001.json    what it has done, each file whole or not there
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxprune.errors import OtherRun, UserError
from onnxprune.files.model import Model
from onnxprune.files.replacing import write_text
from onnxprune.targets.latency import fingerprint


class Journal:
    """The folder, claimed for one run."""

    def __init__(self, folder: str | Path, facts: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        text = json.dumps(facts, indent=2, sort_keys=True, default=str) + "\n"
        record = self.folder / "run.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if record.exists() and not _whole(record):
                raise OtherRun(f"{str(record)!r} is damaged: delete it to go on, or name a new folder")
            if record.exists() and record.read_text("utf-8") != text:
                raise OtherRun(
                    f"{str(self.folder)!r} holds another run, which differs in {_differing(record, text)}: name a new "
                    "folder, or delete that one"
                )
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot use {str(self.folder)!r}: {getattr(error, 'strerror', None) or error}") from None
        write_text(record, text)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


def _whole(record: Path) -> bool:
    try:
        return isinstance(json.loads(record.read_bytes()), dict)
    except (ValueError, RecursionError):
        return False


def _differing(record: Path, text: str) -> str:
    old, new = json.loads(record.read_bytes()), json.loads(text)
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    return ", ".join(names) or "how it was written"


def digest(model: Model) -> str:
    """Of the graph and all weights."""
    found = hashlib.sha256(fingerprint(model).encode())
    for weight in model.weights.values():
        found.update(weight.array().tobytes())
    return found.hexdigest()[:16]
