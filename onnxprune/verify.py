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

from onnxprune import external
from onnxprune.apply import apply
from onnxprune.coupling import Indices
from onnxprune.dims import Dims
from onnxprune.errors import UserError, VerificationError
from onnxprune.inputs import Feeds, caller, runnable_feeds
from onnxprune.mask import mask
from onnxprune.model import Model
from onnxprune.plan import Plan
from onnxprune.probes import FLOATS, probes
from onnxprune.runtime import run, session
from onnxprune.shapes import infer
from onnxprune.tensors import Tensor
from onnxprune.twins import is_half, unrounded, widened

TOLERANCE = 1e-5
"""Relative to the largest magnitude of the tensor compared; float32 networks of any depth stay well below."""
MOVED = 1e-4
"""What masking must change at least for the comparison to mean something."""
MODES = ("numeric", "structural", "off")


@dataclass(frozen=True)
class Verification:
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
    problem, notes = _structure(original, pruned)
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
        self.removed = plan.removed()
        self.original = self._exposed(original)

    def against(self, pruned: Model, seed: int, notes: Sequence[str]) -> Verification:
        """Compare as they are; where rounding hides the answer, compare the twins that round less."""
        original, pruned, said = self.original, self._exposed(pruned), [*notes]
        ready = runnable_feeds(original, lambda: session(original, threads=self.threads), dims=self.dims, seed=seed)
        feeds = ready.feeds
        if is_half(original):
            try:
                caller(session(pruned, threads=self.threads), feeds)()
            except Exception as failure:  # noqa: BLE001  onnxruntime's exceptions share no base class
                return _failing(failure, said, ready.dims)
            said.append("compared in float32, for half floats round too coarsely")
            original, pruned = widened(original), widened(pruned)
            feeds = {name: x.astype(np.float32) if _is_half(x) else x for name, x in feeds.items()}
        verdict = self._compare(original, pruned, feeds, said, ready.dims)
        if not verdict.ok and not verdict.inexact:
            smooth, other = unrounded(original), unrounded(pruned)
            if smooth is not None and other is not None:
                said.append(f"compared without the rounding of activations (with it: {verdict.error:.3g})")
                again = self._compare(smooth, other, feeds, said, ready.dims)
                verdict = again if again.ok else verdict
        if verdict.inexact or not verdict.ok or (verdict.moved or 0) > MOVED:
            return verdict
        return self._loudly(original, feeds, seed, verdict)

    def _loudly(self, original: Model, feeds: Feeds, seed: int, verdict: Verification) -> Verification:
        """Nothing moved: the same structure with random weights has to show it."""
        loud = perturbed(original, seed)
        note = "masking does not move the outputs, so the structure was tested with random weights"
        again = self._compare(loud, apply(loud, self.plan), feeds, [*verdict.notes, note], verdict.dims)
        if again.ok and (again.moved or 0) <= MOVED:
            note = "what the plan cuts has no influence on any compared tensor, so nothing can be verified"
            return replace(again, ok=False, notes=(*verdict.notes, note))
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
        masked = self._run(mask(original, self.plan), feeds)
        errors = {name: relative(self._kept(name, masked[name]), after[name]) for name in self.names}
        moved = max((relative(before[name], masked[name]) for name in self.names), default=0.0)
        worst = max(errors, key=lambda name: errors[name], default="")
        error = errors.get(worst, 0.0)
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
        return {name: np.asarray(results[name], np.float64) for name in self.names}

    def _kept(self, name: str, array: np.ndarray) -> np.ndarray:
        for axis in range(array.ndim):
            gone: Indices | None = self.removed.get((name, axis))
            if gone is not None:
                array = np.delete(array, gone, axis)
        return array


def _failing(failure: Exception, notes: Sequence[str], dims: Mapping[str, int]) -> Verification:
    cause = " ".join(str(failure).split())[:400]
    return Verification("numeric", False, notes=(f"the pruned model fails: {cause}", *notes), dims=dims)


def _is_half(array: np.ndarray) -> bool:
    return array.dtype.itemsize == 2 and array.dtype.kind in "fV"


def relative(expected: np.ndarray, found: np.ndarray) -> float:
    """Largest difference over largest magnitude; infinite where shapes or non-finite values do not agree."""
    if expected.shape != found.shape:
        return float("inf")
    finite = np.isfinite(expected)
    if not np.array_equal(np.isnan(expected), np.isnan(found)) or not np.array_equal(finite, np.isfinite(found)):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(np.abs(expected[finite]).max())
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


def _structure(original: Model, pruned: Model) -> tuple[str, list[str]]:
    """The checker with full shape inference. What it already says of the original is a note, not a failure."""
    problem = _checked(pruned)
    if not problem:
        return "", []
    if problem and _checked(original):
        return "", [f"onnx.checker refuses the original model, too: {problem}"]
    return f"onnx.checker refuses the pruned model: {problem}", []


def _checked(model: Model) -> str:
    """Weights are declared as inputs, so that no data is needed to check types and shapes."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for tensor in model.weights.values():
        if external.separable(tensor):
            proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.dtype, tensor.shape))
        else:
            proto.graph.initializer.append(tensor.to_proto())
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # noqa: BLE001  the checker and shape inference raise several unrelated types
        return " ".join(str(error).split())[:300]
    return ""
