"""A group's score against the formula: normalise(reduce(normalise(member)))."""

from __future__ import annotations

import tracemalloc

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.analysis.coupling import Coupling, Group, Slot
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.scoring import criteria
from onnxprune.scoring import scores as scores_module
from onnxprune.scoring.criteria import CRITERIA, criterion
from onnxprune.scoring.scores import NORMALIZERS, REDUCERS, score


def model_of(**arrays: np.ndarray) -> Model:
    return Model(onnx.ModelProto(), {name: Tensor.of(name, array) for name, array in arrays.items()})


def slot(tensor: str, axis: int, size: int, role: str = "out", op: str = "Conv", **where: list[int]) -> Slot:
    positions = np.array(where.get("positions", range(size)))
    units = np.array(where.get("units", range(len(positions))))
    return Slot(tensor, axis, size, True, role, positions, units, op)


def group(name: str, size: int, *slots: Slot) -> Group:
    return Group(name, (f"node_{name}",), tuple(dict.fromkeys(s.op for s in slots)), size, slots)


def coupling(*groups: Group) -> Coupling:
    return Coupling(groups, (), {})


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def raw(model: Model, found: Group, name: str = "l1") -> np.ndarray:
    return score(model, coupling(found), name, reduce="sum", normalize="none").by_group[found.name]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("limit", [1, 7, 1 << 22])
def test_rows_lie_along_any_axis_and_blocks_change_nothing(
    monkeypatch: pytest.MonkeyPatch, axis: int, limit: int
) -> None:
    monkeypatch.setattr(scores_module, "BLOCK", limit)
    w = normal(6, 4, 5)
    size = w.shape[axis]
    expected = np.abs(w).sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
    np.testing.assert_allclose(raw(model_of(w=w), group("g", size, slot("w", axis, size))), expected, rtol=1e-6)


def test_out_and_in_sides_are_members_alike() -> None:
    w, v, b = normal(4, 3, seed=1), 100 * normal(2, 4, seed=2), normal(4, seed=3)
    found = group("g", 4, slot("w", 0, 4), slot("v", 1, 4, "in"), slot("b", 0, 4, "shift"))
    rows = [np.abs(w).sum(1), np.abs(v).sum(0)]
    expected = sum(row / row.mean() for row in rows) / 2
    np.testing.assert_allclose(score(model_of(w=w, v=v, b=b), coupling(found), "l1").by_group["g"], expected, rtol=1e-6)
    # fpgm reads the out side only
    w_only = group("g", 4, slot("w", 0, 4))
    np.testing.assert_array_equal(raw(model_of(w=w, v=v, b=b), found, "fpgm"), raw(model_of(w=w), w_only, "fpgm"))


def test_positions_of_a_unit_are_features_of_its_row() -> None:
    w = normal(3, 8)
    found = group("g", 4, slot("w", 1, 8, "in", units=[0, 0, 1, 1, 2, 2, 3, 3]))
    expected = np.linalg.norm(w.reshape(3, 4, 2).transpose(1, 0, 2).reshape(4, -1), axis=1)
    np.testing.assert_allclose(raw(model_of(w=w), found, "l2"), expected, rtol=1e-6)


def test_interleaved_and_partial_positions() -> None:
    w = normal(3, 10)
    positions, units = [1, 2, 4, 5, 7, 8], [2, 0, 1, 1, 0, 2]
    found = group("g", 3, slot("w", 1, 10, "in", positions=positions, units=units))
    expected = [np.linalg.norm(w[:, pair]) for pair in ([2, 7], [4, 5], [1, 8])]
    np.testing.assert_allclose(raw(model_of(w=w), found, "l2"), expected, rtol=1e-6)


def test_uneven_positions_are_scored_apart_and_summed() -> None:
    w = normal(5, 3)
    found = group("g", 2, slot("w", 0, 5, units=[0, 1, 1, 0, 1]))
    norms = np.linalg.norm(w, axis=1)
    expected = [norms[[0, 3]].sum(), norms[[1, 2, 4]].sum()]
    np.testing.assert_allclose(raw(model_of(w=w), found, "l2"), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int8])
def test_other_types_are_computed_in_float32_or_better(dtype: type) -> None:
    w: np.ndarray = (60 * normal(4, 4096)).astype(dtype)  # the sum of a row is beyond float16's 65504
    expected = np.abs(w.astype(np.float64)).sum(1)
    assert expected.min() > 65504
    np.testing.assert_allclose(raw(model_of(w=w), group("g", 4, slot("w", 0, 4))), expected, rtol=1e-5)


@settings(deadline=None)  # a busy machine is not a failure
@given(st.sampled_from(sorted(NORMALIZERS)), st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_normalizers_keep_the_ranking_and_end_up_on_their_scale(name: str, seed: int, units: int) -> None:
    values = np.random.default_rng(seed).uniform(-1, 5, units)
    found = NORMALIZERS[name](values)
    np.testing.assert_array_equal(np.argsort(found, kind="stable"), np.argsort(values, kind="stable"))
    scale = {
        "none": found[0] - values[0] + 1,
        "mean": np.abs(found).mean(),
        "sum": np.abs(found).sum(),
        "max": np.abs(found).max(),
        "gaussian": 1 if units == 1 else found.std(),
    }
    assert scale[name] == pytest.approx(1)
    np.testing.assert_array_equal(NORMALIZERS[name](np.zeros(3)), np.zeros(3))


def test_reducers() -> None:
    members = np.array([[1.0, 5.0], [3.0, 0.0]])
    found = {name: reduce(members).tolist() for name, reduce in REDUCERS.items()}
    assert found == {"mean": [2, 2.5], "sum": [4, 5], "max": [3, 5], "min": [1, 0]}


def test_the_result_is_normalised_again_whatever_the_reducer() -> None:
    w, v = normal(4, 3, seed=1), normal(2, 4, seed=2)
    found = coupling(group("g", 4, slot("w", 0, 4), slot("v", 1, 4, "in")))
    for reduce in REDUCERS:
        assert score(model_of(w=w, v=v), found, "l1", reduce=reduce).by_group["g"].mean() == pytest.approx(1)


def test_bn_scale_reads_batch_normalization_only() -> None:
    gamma = np.array([-2, 0.5, 1], np.float32)
    model = model_of(gamma=gamma, other=normal(3), w=normal(3, 2))
    with_bn = group("a", 3, slot("w", 0, 3), slot("gamma", 0, 3, "scale", "BatchNormalization"))
    without = group("b", 3, slot("other", 0, 3, "scale", "LayerNormalization"))
    found = score(model, coupling(with_bn, without), "bn_scale", normalize="none")
    np.testing.assert_array_equal(found.by_group["a"], np.abs(gamma))
    assert list(found.by_group) == ["a"]
    assert (found.skipped["b"].code, found.skipped["b"].node) == ("no-scores", "node_b")


def test_bn_scale_without_batch_normalization_says_how_to_export() -> None:
    found = coupling(group("g", 3, slot("w", 0, 3)))
    with pytest.raises(UserError) as error:
        score(model_of(w=normal(3, 2)), found, "bn_scale")
    for part in ("BatchNormalization", "TrainingMode.PRESERVE", "do_constant_folding=False", "model.eval()"):
        assert part in str(error.value)
    assert "optimize=False" in str(error.value)
    assert "fold_constants" in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_prunable_is_for_selection_to_say() -> None:
    assert not score(model_of(), coupling(), "bn_scale").by_group


def test_random_depends_on_seed_and_name_alone() -> None:
    w = normal(8, 2)
    a, b = group("a", 8, slot("w", 0, 8)), group("b", 8, slot("w", 0, 8))
    model = model_of(w=w)
    first = score(model, coupling(a, b), "random", seed=3).by_group
    again = score(model_of(w=2 * w), coupling(b, a), "random", seed=3).by_group
    np.testing.assert_array_equal(first["a"], again["a"])
    assert not np.array_equal(first["a"], first["b"])
    assert not np.array_equal(first["a"], score(model, coupling(a), "random", seed=4).by_group["a"])
    # A value, so that a change of the scheme, which would change everybody's plans, cannot go unseen.
    raw_scores = score(model, coupling(a), "random", seed=3, normalize="none").by_group["a"]
    assert raw_scores[0] == pytest.approx(np.random.default_rng([0xE8B7BE43, 3]).random(), abs=0)


def test_random_needs_no_readable_weight() -> None:
    assert len(score(model_of(), coupling(group("g", 5)), "random").by_group["g"]) == 5


@pytest.mark.parametrize("name", ["l1", "fpgm", "random"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_that_are_not_finite_are_named(name: str, bad: float, dtype: type) -> None:
    bias: np.ndarray = np.zeros(3, dtype)
    bias[1] = bad
    found = coupling(group("g", 3, slot("w", 0, 3), slot("layer.bias", 0, 3, "shift")))
    with pytest.raises(UserError, match=r"weight 'layer\.bias' holds NaN or Inf"):
        score(model_of(w=normal(3, 2), **{"layer.bias": bias}), found, name)


@pytest.mark.parametrize("name", ["l2", "fpgm"])
def test_weights_beyond_the_range_of_a_score_are_named(name: str) -> None:
    w = np.array([[1e200], [-1e200]])
    with pytest.raises(UserError, match=r"gives no finite score for 'w:0': weights are out of range"):
        score(model_of(w=w), coupling(group("g", 2, slot("w", 0, 2))), name)


def test_weights_outside_the_groups_may_hold_anything() -> None:
    model = model_of(w=normal(3, 2), mask=np.array([-np.inf], np.float32))
    assert score(model, coupling(group("g", 3, slot("w", 0, 3))), "l1").by_group


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "l3"}, "unknown criterion 'l3'; did you mean 'l"),
        ({"reduce": "maxx"}, "unknown reduce 'maxx'; did you mean 'max'"),
        ({"normalize": "gauss"}, "unknown normalize 'gauss'; did you mean 'gaussian'"),
        ({"seed": -1}, "seed must be a whole number, 0 or more, not -1"),
    ],
)
def test_wrong_options(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as error:
        score(model_of(), coupling(), **options)  # type: ignore[arg-type]
    assert str(error.value).startswith(message)


def test_a_criterion_that_returns_the_wrong_shape_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criteria, "CRITERIA", dict(CRITERIA))
    criterion("flat", roles=("out",))(lambda rows: rows.sum())
    with pytest.raises(ValueError, match=r"'flat' returned shape \(\) for 3 units"):
        score(model_of(w=normal(3, 2)), coupling(group("g", 3, slot("w", 0, 3))), "flat")


def test_a_criterion_without_the_promise_sees_all_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criteria, "CRITERIA", dict(CRITERIA))
    monkeypatch.setattr(scores_module, "BLOCK", 1)
    seen: list[int] = []

    @criterion("ranks", roles=("out",))
    def ranks(rows: np.ndarray) -> np.ndarray:
        seen.append(len(rows))
        return np.argsort(np.argsort(rows[:, 0]))

    found = score(model_of(w=normal(6, 2)), coupling(group("g", 6, slot("w", 0, 6))), "ranks", normalize="none")
    assert seen == [6]
    assert sorted(found.by_group["g"]) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("name", "axis"), [("l1", 0), ("l1", 1), ("l2", 0), ("l2", 1), ("fpgm", 0), ("fpgm", 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_big_weights_are_never_copied_whole(monkeypatch: pytest.MonkeyPatch, name: str, axis: int, dtype: type) -> None:
    monkeypatch.setattr(scores_module, "BLOCK", 1 << 12)
    monkeypatch.setattr(criteria, "TILE", 64)
    w: np.ndarray = normal(512, 512).astype(dtype)
    model, found = model_of(w=w), coupling(group("g", 512, slot("w", axis, 512)))
    tracemalloc.start()
    try:
        score(model, found, name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # fpgm sees all rows at once, so that half floats are widened whole
    limit = 1.5 * 4 * w.size if (name, dtype) == ("fpgm", np.float16) else w.nbytes / 2
    assert peak < limit


def test_scores_cannot_be_changed() -> None:
    found = score(model_of(w=normal(3, 2)), coupling(group("g", 3, slot("w", 0, 3))))
    with pytest.raises(ValueError, match="read-only"):
        found.by_group["g"][0] = 1
