"""The oracle of every numeric test: pruned equals masked to float noise, masking moved the output, the file is valid.

`check` prunes a graph at random in several ways and asserts all of that twice: by `verify`, which is part of what is
tested, and by `disagreement`, which shares no code with it. It also asserts what analysis found, for where everything
is frozen every comparison passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from onnxprune.analysis.analyze import analyze
from onnxprune.analysis.coupling import Coupling
from onnxprune.checking.verify import verify
from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Plan
from onnxprune.execution.inputs import random_feeds
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.normalize import normalize
from onnxprune.scoring.scores import score
from onnxprune.selection.select import select

TOLERANCE = 1e-5
MOVED = 1e-4
RATIO = 0.45
SEEDS = (0, 1)
_T = onnx.TensorProto
MASKED = {_T.FLOAT, _T.FLOAT16, _T.BFLOAT16, _T.DOUBLE, _T.INT8, _T.UINT8}


def opened(proto: onnx.ModelProto) -> Model:
    """What `store.load` makes of a file with this content."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.initializer[:]
    return Model(bare, {item.name: Tensor.of_proto(item) for item in proto.graph.initializer})


def prepared(proto: onnx.ModelProto) -> Model:
    return normalize(opened(proto))


def whole(model: Model) -> onnx.ModelProto:
    """The model as one message, weights inside."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    proto.graph.initializer.extend(numpy_helper.from_array(t.array(), name) for name, t in model.weights.items())
    return proto


def units(coupling: Coupling) -> tuple[int, ...]:
    """Sizes of all groups, the widest first."""
    return tuple(sorted((group.size for group in coupling.groups), reverse=True))


def reasons(coupling: Coupling) -> dict[str, int]:
    """Frozen positions by reason, but for the layer that ends the graph."""
    totals: dict[str, int] = {}
    for item in coupling.frozen:
        if not (item.tensor.startswith("last.") and item.reason.code == "graph-output"):
            totals[item.reason.code] = totals.get(item.reason.code, 0) + item.size
    return totals


def plans(model: Model, coupling: Coupling, seeds: Sequence[int] = SEEDS) -> Iterator[Plan]:
    """All groups at random, several times; all but one unit of everything; and each group by itself."""
    open_groups = [group.name for group in coupling.groups if group.size > 1]
    if not open_groups:
        return
    for seed in seeds:
        yield select(coupling, score(model, coupling, "random", seed=seed), ratio=RATIO)
    scores = score(model, coupling, "random", seed=len(seeds))
    yield select(coupling, scores, ratio=0.999, min_keep=0)
    if len(open_groups) > 1:
        for name in open_groups:
            yield select(coupling, scores, ratio=RATIO, include=[name])


def check(
    proto: onnx.ModelProto,
    *,
    expected: Sequence[int] | None = None,
    frozen: Mapping[str, int] | None = None,
    dims: Mapping[str, int] | None = None,
    seeds: Sequence[int] = SEEDS,
    runs: bool = True,
    inexact: Mapping[str, tuple[str, ...]] | None = None,
) -> Coupling:
    """Assert what analysis finds (sizes of groups, frozen positions by reason) and that every plan comes out right.

    With `inexact`, also which groups are and why; then there is nothing to compare with, but the model must still run.
    """
    model = prepared(proto)
    coupling = analyze(model, strict=True, allow_inexact=inexact is not None)
    found = f"groups {[(g.name, g.size) for g in coupling.groups]}, frozen {list(map(_frozen, coupling.frozen))}"
    if expected is not None:
        assert units(coupling) == tuple(sorted(expected, reverse=True)), found
    if frozen is not None:
        assert reasons(coupling) == dict(frozen), found
    if inexact is not None:
        said = {g.name: tuple(sorted({r.code for r in g.inexact})) for g in coupling.groups if g.inexact}
        assert said == dict(inexact)
    if runs:
        for plan in plans(model, coupling, seeds):
            (run if plan.inexact else prune)(model, plan, dims)
    return coupling


def run(model: Model, plan: Plan, dims: Mapping[str, int] | None = None) -> None:
    """Apply a plan of inexact cuts: what comes out has its shape, and consists of numbers."""
    pruned = apply(model, plan)
    verdict = verify(model, pruned, plan, dims=dims)
    assert verdict.ok, verdict.notes
    feeds = random_feeds(model, dims=dims, seed=7)
    for want, have in zip(outputs(model, feeds), outputs(pruned, feeds), strict=True):
        assert want.shape == have.shape
        assert np.isfinite(have).all()


def _frozen(item: object) -> str:
    return f"{item.tensor}:{item.axis} {item.size} {item.reason}"  # type: ignore[attr-defined]  # a Frozen, for messages


def prune(model: Model, plan: Plan, dims: Mapping[str, int] | None = None) -> Model:
    """Apply a plan and assert that the result is right."""
    pruned = apply(model, plan)
    verdict = verify(model, pruned, plan, dims=dims)
    what = f"{[(g.name, g.removed) for g in plan.groups]}: {verdict.notes}"
    assert verdict.ok, what
    assert verdict.error is not None, what
    assert verdict.error <= TOLERANCE, what
    assert verdict.moved is not None, what
    assert verdict.moved > MOVED, f"masking moved nothing: {what}"
    if valid(model):
        onnx.checker.check_model(whole(pruned), full_check=True)
    gap = disagreement(model, pruned, plan, dims)
    assert gap <= TOLERANCE, f"{gap} between pruned and masked, and verify said {verdict.error}: {what}"
    for name, tensor in pruned.weights.items():
        assert 0 not in tensor.shape or 0 in model.weights[name].shape, f"nothing left of {name}: {what}"
    return pruned


def valid(model: Model) -> bool:
    """Whether the checker knows all of the original's operators."""
    try:
        onnx.checker.check_model(whole(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def masked(model: Model, plan: Plan) -> Model:
    """Every cut slice of every weight is zero, but for what is only divided by.

    Integers only where they compute (quantised weights, in the tests the zero point of `w` is `w.zero` or 0), not where
    they are indices.
    """
    arrays: dict[str, np.ndarray] = {}
    for cut in plan.cuts:
        for slot in cut.slots:
            tensor = model.weights.get(slot.tensor)
            if tensor is None or slot.role == "keep" or not (tensor.dtype in MASKED or slot.role):
                continue
            array = arrays.setdefault(slot.tensor, tensor.array().copy())
            zero = _zero(model, slot.tensor, array.shape)
            np.moveaxis(array, slot.axis, 0)[list(cut.index)] = np.moveaxis(zero, slot.axis, 0)[list(cut.index)]
    return model.replace(weights=dict(model.weights) | {name: Tensor.of(name, a) for name, a in arrays.items()})


def _zero(model: Model, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """What zero is in each place; a zero point for each channel runs along the only axis that is as long."""
    tensor = model.weights.get(f"{name}.zero")
    point = np.zeros((), np.int64) if tensor is None else tensor.array()
    if point.size > 1:
        point = point.reshape([-1 if size == point.size else 1 for size in shape])
    return np.broadcast_to(point, shape)


def disagreement(model: Model, pruned: Model, plan: Plan, dims: Mapping[str, int] | None = None) -> float:
    """Largest difference between pruned and masked at any output, relative to that output; integers must be equal."""
    feeds = random_feeds(model, dims=dims, seed=7)
    gaps = [0.0]
    for want, have in zip(outputs(masked(model, plan), feeds), outputs(pruned, feeds), strict=True):
        if want.shape != have.shape or not np.isfinite(want).all():
            return float("inf")
        gap, scale = np.abs(want.astype(np.float64) - have).max(initial=0), np.abs(want).max(initial=0)
        gaps.append(float(gap / scale if scale else gap) if want.dtype.kind == "f" else float(gap))
    return max(gaps)


def outputs(model: Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run without optimisations, so that no fusion hides what the file says."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(whole(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))
