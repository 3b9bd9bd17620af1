"""After every epoch the whole run is written to one file, which appears whole or leaves the last one as it was.

    DIR/run.json        what the run is, so that another one does not go on from it (see `journal`)
    DIR/checkpoint.pt   weights, optimizer, average, the best weights so far and the history: tensors and plain data,
                        read without unpickling anything else
    DIR/log.csv         a line for each epoch

Data order, augmentation and dropout are functions of (seed, epoch, step), so an epoch that was cut off begins anew and
ends as it would have.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from onnxprune.errors import NotWritable, OtherRun
from onnxprune.files.replacing import replacing, unwritable
from onnxprune.pipeline.journal import Journal

_FORMAT = 1
_FILE = "checkpoint.pt"


class Keeper:
    """The folder of one run."""

    def __init__(self, folder: str | Path, facts: Mapping[str, Any]) -> None:
        self.folder = Journal(folder, facts).folder

    @property
    def path(self) -> Path:
        return self.folder / _FILE

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint."""
        whole = io.BytesIO()  # torch's own writer turns a full disk into an error that does not say so
        torch.save({"format": _FORMAT, **state}, whole)
        try:
            with replacing([self.path]) as (file,):
                file.write(whole.getbuffer())
        except OSError as error:
            kept = "; the last checkpoint is still there, so free some space and run the same command again"
            raise NotWritable(f"{unwritable(self.path, error)}{kept if self.path.exists() else ''}") from None

    def load(self) -> dict[str, Any] | None:
        """The checkpoint, on the CPU; None: there is none."""
        if not self.path.exists():
            return None
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            said = " ".join(str(error).split())[:80]
            raise OtherRun(f"{str(self.path)!r} is damaged: delete it, or name a new folder ({said})") from None
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise OtherRun(f"{str(self.path)!r} is no checkpoint of this version: delete it, or name a new folder")
        return found


def freed(folder: Path) -> None:
    """A run that never came to the end of an epoch, for its labels were wrong for instance, holds no other one up."""
    if not (folder / _FILE).exists():
        (folder / "run.json").unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """All that a finished run leaves, and the folder if nothing else lies in it."""
    for name in (_FILE, "log.csv", "run.json"):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
