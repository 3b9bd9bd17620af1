"""Round weights and activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxprune.checking.verify import Verification
from onnxprune.data.sources import Request, reopened
from onnxprune.errors import UserError
from onnxprune.execution.runtime import check_threads
from onnxprune.pipeline.manager import State, changed
from onnxprune.rewrites.quantize import Quantized, check_format, quantize

SAMPLES = 64


@dataclass(frozen=True)
class Quantize:
    """The model in 8 bits or half floats, by onnxruntime's tools; see `onnxprune.rewrites.quantize`."""

    to: str = "int8"
    """`int8`, `int8-dynamic` or `fp16`."""
    data: Request | None = None
    """What int8 is calibrated on, and the distance is measured on."""
    per_channel: bool = True
    """Each channel of a weight has a scale of its own."""
    threads: int = 1

    needs: ClassVar[tuple[str, ...]] = ("model",)
    gives: ClassVar[tuple[str, ...]] = ("model", "verification")
    drops: ClassVar[tuple[str, ...]] = ("normalized", "coupling", "scores", "bench")

    @staticmethod
    def unlabelled() -> Request:
        """What the distance is measured on where nobody names data."""
        return Request(f"synthetic:{SAMPLES}")

    def check(self) -> None:
        check_format(self.to)
        check_threads(self.threads)
        if self.to == "int8" and self.data is None:
            raise UserError("int8 is calibrated on data: name some, photos/, x.npz or module:function; or int8-dynamic")

    def run(self, state: State) -> State:
        data = reopened(self.data or self.unlabelled(), state.model)
        found = quantize(state.model, data, self.to, per_channel=self.per_channel, threads=self.threads)
        told = _told(self.to, found)
        # nothing can be proved of rounding: it ran, and its distance was measured
        verdict = Verification("measured", True, deviation=found.evaluation.deviation, notes=(told,))
        kept = State(state.model, original=state.original, plan=state.plan)
        return changed(kept, model=found.model, verification=verdict, notes=(told,))


def _told(to: str, found: Quantized) -> str:
    figures = found.evaluation
    apart = figures.deviation
    off = "no output of floats to compare" if apart is None else f"outputs are off by {apart:.3g}"
    same = "" if figures.agreement is None else f", and {100 * figures.agreement:.1f}% of the answers are the same"
    return f"{to}: {off}{same}, on {figures.samples} samples"
