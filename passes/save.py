"""Write the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from onnxprune.files.store import save
from onnxprune.graph.normalize import restore
from onnxprune.pipeline.manager import State


@dataclass(frozen=True)
class Save:
    """Write the model atomically. Only what was verified is written; `Verify(mode="off")` takes that upon itself."""

    path: str | Path

    needs: ClassVar[tuple[str, ...]] = ("model", "verification")
    gives: ClassVar[tuple[str, ...]] = ()
    drops: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ("path",)

    def run(self, state: State) -> State:
        save(restore(state.model), self.path)
        return state
