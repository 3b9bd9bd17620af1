"""Hold the pruned model against the masked original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from onnxprune.checking.verify import MODES, verify
from onnxprune.errors import UserError
from onnxprune.execution.runtime import check_threads
from onnxprune.pipeline.manager import State, changed


@dataclass(frozen=True)
class Verify:
    """Raise `VerificationError` unless the pruned model equals the masked original."""

    mode: str = "numeric"
    """`numeric`, `structural` (checker and shapes only) or `off`."""
    dims: Mapping[str, int] | None = None
    seed: int = 0
    threads: int = 1

    needs: ClassVar[tuple[str, ...]] = ("model", "original", "plan")
    gives: ClassVar[tuple[str, ...]] = ("verification",)
    drops: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"verification must be one of {', '.join(MODES)}, not {self.mode!r}")
        check_threads(self.threads)

    def run(self, state: State) -> State:
        assert state.original is not None
        assert state.plan is not None
        verdict = verify(
            state.original,
            state.model,
            state.plan,
            mode=self.mode,
            dims=self.dims,
            seed=self.seed,
            threads=self.threads,
        )
        return changed(state, verification=verdict.require())
