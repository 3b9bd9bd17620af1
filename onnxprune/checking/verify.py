"""One oracle: the pruned model agrees with the original whose cut slices are set to zero, to float noise.

    |pruned(x) - masked(x)|  <=  TOLERANCE * max |masked(x)|        at every compared tensor
    |original(x) - masked(x)|  >  MOVED * max |original(x)|         somewhere: else the first line proves nothing

Where masking moves nothing (dead channels, a layer scale near zero) both are run again with random weights of the same
shapes: then the structure is what is tested. An inexact cut has no oracle: its deviation is measured and said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from onnxprune.analysis.coupling import Indices
from onnxprune.checking.mask import mask
from onnxprune.checking.structure import structure
from onnxprune.checking.twins import is_half, unrounded, widened
from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Plan
from onnxprune.errors import UserError, VerificationError
from onnxprune.execution.batches import Batch
from onnxprune.execution.inputs import Feeds, caller, random_feeds, runnable_feeds
from onnxprune.execution.runtime import run, session
from onnxprune.execution.walk import origin
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.dims import Dims
from onnxprune.graph.probes import FLOATS, flattened, probes
from onnxprune.graph.shapes import infer
from onnxprune.text.shown import Shown

TOLERANCE = 1e-5
"""Relative to the largest magnitude of the tensor compared; float32 networks of any depth stay well below."""
MOVED = 1e-4
"""What masking must change at least for the comparison to mean something."""
FLATTENED = 1e-3
"""How far outputs behind a sigmoid or softmax may differ, of 1, once what enters it agrees to TOLERANCE."""
MODES = ("numeric", "structural", "off")


@dataclass(frozen=True)
class Verification(Shown):
    """What was found; `ok` says whether the pruned model may be written."""

    mode: str
    ok: bool
    error: float | None = None
    """Largest relative difference between the pruned model and the masked original."""
    moved: float | None = None
    """Largest relative difference that masking made to the original."""
    deviation: float | None = None
    """Largest relative difference between the pruned model and the original: what pruning changed."""
    by_tensor: Mapping[str, float] = field(default_factory=dict)
    """The error at each tensor that was compared."""
    inexact: tuple[str, ...] = ()
    """Not empty: not comparable, because the plan holds cuts that are not exact, for these reasons."""
    notes: tuple[str, ...] = ()
    dims: Mapping[str, int] = field(default_factory=dict)
    """How free dimensions were bound."""

    def require(self) -> Verification:
        """Raise `VerificationError` where the check failed."""
        if not self.ok:
            raise VerificationError("verification failed: " + "; ".join(self.notes))
        return self


def verify(
    original: Model,
    pruned: Model,
    plan: Plan,
    *,
    mode: str = "numeric",
    dims: Dims | None = None,
    seed: int = 0,
    threads: int = 1,
) -> Verification:
    """Check a pruned model against the (normalised) original it came from."""
    if mode not in MODES:
        raise UserError(f"verification must be one of {', '.join(MODES)}, not {mode!r}")
    if mode == "off":
        return Verification(mode, True, notes=("not verified",))
    problem, notes = structure(original, pruned, plan)
    if problem:
        return Verification(mode, False, notes=(problem, *notes))
    if mode == "structural":
        return Verification(mode, True, notes=(*notes, "checked in structure only; outputs were not compared"))
    return _Comparison(original, plan, dims, threads).against(pruned, seed, notes)


class _Comparison:
    """The runs that one verification needs, one session at a time."""

    def __init__(self, original: Model, plan: Plan, dims: Dims | None, threads: int) -> None:
        self.plan, self.dims, self.threads = plan, dims, threads
        folded = {tensor for tensor, _ in plan.periods()}
        self.names = [name for name in probes(original.graph, infer(original)) if name not in folded]
        self.loose = flattened(original.graph)
        self.removed = plan.removed()
        self.original = self._exposed(original)

    def against(self, pruned: Model, seed: int, notes: Sequence[str]) -> Verification:
        """Compare as they are; where rounding hides the answer, compare the twins that round less."""
        if not self.names:
            note = "no continuous tensor depends on the inputs, so nothing can be compared (--verify structural can be)"
            return Verification("numeric", False, notes=(note, *notes))
        original, pruned, said = self.original, self._exposed(pruned), [*notes]
        halves = is_half(original)
        if halves:
            original, pruned, narrow = widened(original), widened(pruned), pruned
        ready = runnable_feeds(original, lambda: session(original, threads=self.threads), dims=self.dims, seed=seed)
        feeds = ready.feeds
        if halves:
            failure, note = self._in_halves(narrow, ready.dims, seed)
            if failure is not None:
                return _failing(failure, said, ready.dims)
            said.append(note)
        verdict, pair = self._judge(original, pruned, feeds, said, ready.dims)
        if verdict.inexact or not verdict.ok:
            return verdict
        if (verdict.moved or 0) <= MOVED:
            return self._loudly(pair[0], feeds, seed, verdict)
        return self._elsewhere(*pair, seed, verdict)

    def _in_halves(self, pruned: Model, dims: Mapping[str, int], seed: int) -> tuple[Exception | None, str]:
        """Why the pruned model does not run as it is, although the original does; and what else there is to say."""
        feeds = random_feeds(self.original, dims=dims, seed=seed)
        failure = self._failure(pruned, feeds)
        if failure is None:
            return None, "compared in float32, for half floats round too coarsely"
        if self._failure(self.original, feeds) is None:
            return failure, ""
        return None, "compared in float32, for onnxruntime does not run the original's half floats here"

    def _failure(self, model: Model, feeds: Feeds) -> Exception | None:
        try:
            caller(session(model, threads=self.threads), feeds, quiet=True)()
        except Exception as failure:  # noqa: BLE001  onnxruntime's exceptions share no base class
            return failure
        return None

    def _judge(
        self, original: Model, pruned: Model, feeds: Feeds, said: Sequence[str], dims: Mapping[str, int]
    ) -> tuple[Verification, tuple[Model, Model]]:
        """The verdict, and the pair of models that it was found on: where rounding hides the answer, their twins."""
        verdict = self._compare(original, pruned, feeds, said, dims)
        if verdict.ok or verdict.inexact or verdict.error is None:
            return verdict, (original, pruned)
        smooth, other = unrounded(original), unrounded(pruned)
        if smooth is None or other is None:
            return verdict, (original, pruned)
        note = f"compared without the rounding of activations (with it: {verdict.error:.3g})"
        again = self._compare(smooth, other, feeds, [*said, note], dims)
        return (again, (smooth, other)) if again.ok else (verdict, (original, pruned))

    def _elsewhere(self, original: Model, pruned: Model, seed: int, verdict: Verification) -> Verification:
        """A model with free dimensions has to agree at other sizes, too; at those where the original runs at all."""
        sizes = {name: _other(n) for name, n in verdict.dims.items() if name not in (self.dims or {})}
        if not sizes:
            return verdict
        try:
            feeds = random_feeds(original, dims={**verdict.dims, **sizes}, seed=seed)
            again, _ = self._judge(original, pruned, feeds, verdict.notes, verdict.dims)
        except UserError:
            return verdict
        if not again.ok:
            said = ", ".join(f"{name}={n}" for name, n in sizes.items())
            return replace(again, notes=(f"at other sizes ({said}): {again.notes[0]}", *verdict.notes))
        return replace(verdict, error=max(verdict.error or 0.0, again.error or 0.0), notes=again.notes)

    def _loudly(self, original: Model, feeds: Feeds, seed: int, verdict: Verification) -> Verification:
        """Nothing moved: the same structure with random weights has to show it."""
        loud = perturbed(original, seed)
        note = "masking does not move the outputs, so the structure was tested with random weights"
        again = self._compare(loud, apply(loud, self.plan), feeds, [*verdict.notes, note], verdict.dims)
        if again.ok and (again.moved or 0) <= MOVED:
            note = "what the plan cuts has no influence on the outputs, whatever the weights"
            again = replace(again, notes=(*verdict.notes, note))
        return replace(
            again, moved=verdict.moved, error=max(verdict.error or 0, again.error or 0), deviation=verdict.deviation
        )

    def _compare(
        self, original: Model, pruned: Model, feeds: Feeds, said: Sequence[str], dims: Mapping[str, int]
    ) -> Verification:
        notes = [*said]
        inexact = self.plan.inexact
        before = self._run(original, feeds)
        try:
            after = self._run(pruned, feeds)
        except UserError as failure:
            return _failing(failure, notes, dims)
        deviation = max((relative(self._kept(name, before[name]), after[name]) for name in self.names), default=0.0)
        if inexact:
            notes.append(f"not comparable (inexact cuts: {', '.join(inexact)}); outputs deviate by {deviation:.3g}")
            finite = all(np.isfinite(after[n]).all() or not np.isfinite(before[n]).all() for n in self.names)
            if not finite:
                notes.insert(0, "the pruned model gives values that are not finite")
            return Verification("numeric", finite, None, None, deviation, {}, inexact, tuple(notes), dims)
        zeroed = mask(original, self.plan)
        masked = self._run(zeroed, feeds)
        errors = {name: relative(self._kept(name, masked[name]), after[name]) for name in self.names}
        moved = max((relative(before[name], masked[name]) for name in self.names), default=0.0)
        worst = max(errors, key=lambda name: errors[name], default="")
        error = errors.get(worst, 0.0)
        for name in self.loose:
            gap = relative(masked[name], after[name], least=1.0)
            if not gap <= FLATTENED:
                worst, error = name, gap
        if not any(np.isfinite(masked[name]).any() for name in self.names):
            first = origin(zeroed, Batch(feeds, None, 1), self.names[0], threads=self.threads)
            notes.insert(0, f"the masked original gives no numbers: NaN or Inf, first in {first}")
            return Verification("numeric", False, float("inf"), moved, deviation, errors, (), tuple(notes), dims)
        if not error <= TOLERANCE:
            notes.insert(
                0, f"{worst!r} differs from the masked original by {error:.3g} (at most {TOLERANCE:g} is float noise)"
            )
        return Verification("numeric", error <= TOLERANCE, error, moved, deviation, errors, (), tuple(notes), dims)

    def _exposed(self, model: Model) -> Model:
        """The model with every compared tensor among its outputs."""
        present = {item.name for item in model.graph.output}
        proto = onnx.ModelProto()
        proto.CopyFrom(model.proto)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.names if name not in present)
        return model.replace(proto=proto)

    def _run(self, model: Model, feeds: Feeds) -> dict[str, np.ndarray]:
        results = run(session(model, threads=self.threads), feeds)
        return {name: np.asarray(results[name], np.float64) for name in dict.fromkeys([*self.names, *self.loose])}

    def _kept(self, name: str, array: np.ndarray) -> np.ndarray:
        for axis in range(array.ndim):
            gone: Indices | None = self.removed.get((name, axis))
            if gone is not None:
                array = np.delete(array, gone, axis)
        return array


def _other(size: int) -> int:
    """Another length that a free dimension may well have: pixels in steps that networks halve, all else a bit more."""
    return max(32, size // 2 // 32 * 32) if size >= 64 else size + 1 if size < 4 else size + 3


def _failing(failure: Exception, notes: Sequence[str], dims: Mapping[str, int]) -> Verification:
    cause = " ".join(str(failure).split())[:400]
    return Verification("numeric", False, notes=(f"the pruned model fails: {cause}", *notes), dims=dims)


def relative(expected: np.ndarray, found: np.ndarray, least: float = 0.0) -> float:
    """Largest difference over largest magnitude; infinite where shapes or non-finite values do not agree.

    `least` is a magnitude below which differences count as they are.
    """
    if expected.shape != found.shape:
        return float("inf")
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(found)):
        return float("inf")
    if not np.array_equal(expected[~finite], found[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = max(least, float(np.abs(expected[finite]).max()))
    gap = float(np.abs(expected[finite] - found[finite]).max())
    return gap / scale if scale else gap


def perturbed(model: Model, seed: int) -> Model:
    """The same graph with random weights: matrices that keep magnitudes, vectors around one."""
    rng = np.random.default_rng(seed)
    resized = {name for node in model.graph.node if node.op_type in ("Resize", "Upsample") for name in node.input[1:]}
    weights = {name: t if name in resized else _random(t, rng) for name, t in model.weights.items()}
    return model.replace(weights=weights)  # a random scale would be another structure


def _random(tensor: Tensor, rng: np.random.Generator) -> Tensor:
    wide = [n for n in tensor.shape if n > 1]
    if tensor.dtype not in FLOATS or not wide:
        return tensor
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.dtype)
    if len(wide) == 1:
        values = rng.uniform(0.5, 1.5, tensor.shape)
    else:
        values = rng.standard_normal(tensor.shape, np.float32) * (2 / np.prod(tensor.shape[1:])) ** 0.5
    return Tensor.of(tensor.name, values.astype(dtype))
