"""What every epoch came to: a line of a CSV file, and curves for TensorBoard where that is asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxprune.errors import MissingExtra
from onnxprune.files.replacing import write_text
from onnxprune.training.measure import Measured


@dataclass(frozen=True)
class Epoch:
    """One pass over the data."""

    number: int
    """From 1."""
    loss: float
    """Mean over its steps, while the weights changed."""
    accuracy: float | None
    """Likewise, on augmented samples; None: there are no classes."""
    rate: float
    """Of its last step."""
    measured: Measured | None
    """On the validation data, after it; None: there is none."""
    seconds: float
    speedup: float | None = None
    """Of the exported model against the one that came in; None: not measured."""

    def row(self) -> dict[str, Any]:
        """As one line."""
        found = asdict(self)
        found |= {f"val_{name}": value for name, value in (found.pop("measured") or {}).items()}
        return {"epoch": found.pop("number"), **found}


_COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "rate",
    "val_samples",
    "val_loss",
    "val_accuracy",
    "val_metric",
    "seconds",
    "speedup",
)


def write_csv(history: Sequence[Epoch], path: Path) -> None:
    """All epochs so far; the file is whole at any time."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(epoch.row() for epoch in history)
    write_text(path, text.getvalue())


class Board:
    """TensorBoard's files."""

    def __init__(self, folder: Path, done: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtra("TensorBoard logs need its package: pip install tensorboard") from None
        self._writer: Any = SummaryWriter(str(folder), purge_step=done + 1)

    def add(self, epoch: Epoch) -> None:
        """One point on every curve."""
        for name, value in epoch.row().items():
            if isinstance(value, float):
                self._writer.add_scalar(name, value, epoch.number)
        self._writer.flush()
