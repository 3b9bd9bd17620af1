"""A network in which every class hangs on units that are known, so that every figure is known beforehand."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.accuracy import curves_json, curves_plot
from onnxprune.accuracy.curves import Curve, Point, Sensitivity
from onnxprune.accuracy.damage import TIE, damage, ranked, rescored, rises
from onnxprune.accuracy.evaluate import Evaluation
from onnxprune.accuracy.sensitivity import fingerprint, sensitivity
from onnxprune.analysis.coupling import Coupling
from onnxprune.data.sources import Dataset, open_data
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.machine import parallel
from onnxprune.scoring.scores import Scores

MODULE = importlib.import_module("onnxprune.accuracy.sensitivity")


def network() -> onnx.ModelProto:
    """Unit i of `first` makes class i; units i and 8 + i of `second` do, the latter weaker. High numbers go first."""
    down = np.arange(8)[::-1]
    weights = {
        "a": np.diag(1 + 0.1 * down),
        "b": np.hstack([np.diag(2 + 0.1 * down), np.diag(1 + 0.01 * down)]),
        "c": np.vstack([np.eye(8), np.eye(8)]),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h1"], name="first"),
        helper.make_node("Relu", ["h1"], ["r1"], name="relu"),
        helper.make_node("MatMul", ["r1", "b"], ["h2"], name="second"),
        helper.make_node("MatMul", ["h2", "c"], ["y"], name="third"),
    ]
    inputs, outputs = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 8]) for n in ("x", "y"))
    stored = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", [inputs], [outputs], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


ACCURACY = {"first": {2: 6 / 8, 4: 4 / 8, 6: 2 / 8}, "second": {4: 1.0, 8: 1.0, 12: 4 / 8}}
"""By group and units removed, of one sample per class."""


class Case:
    """The network as a file, analysed and scored, with its data."""

    def __init__(self, folder: Path, *, labels: bool = True) -> None:
        onnx.save(network(), folder / "net.onnx")
        np.savez(folder / "x.npz", x=np.eye(8, dtype=np.float32), **({"labels": np.arange(8)} if labels else {}))
        self.folder = folder
        self.model = onnxprune.load(folder / "net.onnx")
        self.coupling: Coupling = onnxprune.analyze(self.model)
        self.scores: Scores = onnxprune.score(self.model, self.coupling, "l1")

    def data(self, spec: str | Path = "x.npz") -> Dataset:
        return open_data(self.folder / spec if spec == "x.npz" else spec, self.model)

    def measure(self, **options: Any) -> Sensitivity:
        return sensitivity(self.model, self.coupling, self.scores, options.pop("data", None) or self.data(), **options)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def by_group(found: Sensitivity, figure: str) -> dict[str, dict[int, Any]]:
    return {c.group: {point.removed: getattr(point.figures, figure) for point in c.points} for c in found.curves}


def test_every_group_alone_at_every_ratio(case: Case) -> None:
    steps: list[tuple[int, int]] = []
    found = case.measure(on_progress=lambda done, total: steps.append((done, total)))
    assert by_group(found, "top1") == ACCURACY
    assert (found.baseline.top1, found.baseline.samples, found.measure) == (1.0, 8, "accuracy")
    assert [(curve.units, [point.ratio for point in curve.points]) for curve in found.curves] == [
        (8, [0.25, 0.5, 0.75]),
        (16, [0.25, 0.5, 0.75]),
    ]
    first = found.curves[0]
    norms = np.square((1 + 0.1 * np.arange(8)[::-1]) * (3 + 0.11 * np.arange(8)[::-1]))
    expected = [math.sqrt(norms[8 - k :].sum() / norms.sum()) for k in (2, 4, 6)]
    assert [point.figures.deviation for point in first.points] == pytest.approx(expected, rel=1e-5)
    assert steps == [(i, 6) for i in range(1, 7)]


def test_without_labels_the_original_is_the_measure(tmp_path: Path) -> None:
    found = Case(tmp_path, labels=False).measure()
    assert found.measure == "agreement"
    assert by_group(found, "agreement") == ACCURACY
    assert [round(found.lost(point.figures), 6) for point in found.curves[0].points] == [0.25, 0.5, 0.75]


def test_what_is_left_out_is_not_measured(case: Case) -> None:
    found = case.measure(exclude=["first"], ratios=[0.5, 0.25, 0.26, 0.25])
    assert [curve.group for curve in found.curves] == ["second"]
    assert [(point.ratio, point.removed) for point in found.curves[0].points] == [(0.25, 4), (0.26, 4), (0.5, 8)]
    tiny = case.measure(ratios=[0.01, 0.99])
    assert [[point.removed for point in curve.points] for curve in tiny.curves] == [[7], [15]]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Model]:
    """Every model that is evaluated from now on."""
    seen: list[Model] = []
    plain = MODULE.evaluate

    def evaluate(model: Model, *args: Any, **options: Any) -> Evaluation:
        seen.append(model)
        found: Evaluation = plain(model, *args, **options)
        return found

    monkeypatch.setattr(MODULE, "evaluate", evaluate)
    return seen


def test_what_is_there_is_not_measured_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    path = case.folder / "s.json"
    seen = counted(monkeypatch)
    two = case.measure(path=path, ratios=[0.25, 0.75])
    assert len(seen) == 1 + 4
    assert curves_json.load(path).curves == two.curves
    seen.clear()
    three = case.measure(path=path)
    assert len(seen) == 1 + 2, "the original, and 0.5 of each group"
    assert by_group(three, "top1") == ACCURACY
    seen.clear()
    one = case.measure(path=path, ratios=[0.5], include=["first"])
    assert len(seen) == 1
    assert one == three, "nothing that was measured is thrown away"


def test_an_interrupted_run_goes_on(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    path = case.folder / "s.json"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.measure(path=path, on_progress=stop)
    assert sum(len(curve.points) for curve in curves_json.load(path).curves) == 2
    seen = counted(monkeypatch)
    assert case.measure(path=path) == case.measure()
    assert len(seen) == (1 + 4) + (1 + 6)


def test_a_kill_loses_a_second_at_most(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    path = case.folder / "s.json"
    there: list[int] = []

    def look(done: int, total: int) -> None:
        there.append(sum(len(curve.points) for curve in curves_json.load(path).curves) if path.exists() else 0)

    monkeypatch.setattr(MODULE, "EVERY", 0.0)
    case.measure(path=path, on_progress=look)
    assert there == [1, 2, 3, 4, 5, 6]
    path.unlink()
    there.clear()
    monkeypatch.setattr(MODULE, "EVERY", 1e9)
    case.measure(path=path, on_progress=look)
    assert there == [0] * 6
    assert path.exists()


def test_another_measurement_is_not_mixed_in(case: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = case.folder / "s.json"
    case.measure(path=path, ratios=[0.5])
    before = path.read_bytes()
    l2 = onnxprune.score(case.model, case.coupling, "l2")
    with pytest.raises(UserError, match="was measured with criterion 'l1', not 'l2': name another file"):
        sensitivity(case.model, case.coupling, l2, case.data(), path=path)
    with pytest.raises(UserError, match="was measured on other data"):
        case.measure(path=path, data=case.data("random:8"))
    other = Case(tmp_path_factory.mktemp("other"))
    weights = dict(other.model.weights)
    weights["a"] = weights["a"].zero(0, np.array([0]))
    with pytest.raises(UserError, match="was measured on another model"):
        sensitivity(other.model.replace(weights=weights), other.coupling, other.scores, other.data(), path=path)
    path.write_text(before.decode().replace('"units": 8', '"units": 9'))
    with pytest.raises(UserError, match="with other options of analysis"):
        case.measure(path=path)
    assert b'"units": 9' in path.read_bytes()
    path.write_bytes(before)
    assert other.measure(path=path).curves == case.measure(path=path).curves, "the same weights in another file"


def test_what_a_cut_breaks_is_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Evaluation:
        raise UserError("output 'y' of the model holds NaN or Inf")

    plain, path = MODULE.evaluate, case.folder / "s.json"
    monkeypatch.setattr(MODULE, "evaluate", lambda *a, **o: fail() if "original" in o else plain(*a, **o))
    with pytest.raises(UserError, match="^group 'first' without 2 of its units: output 'y' of the model holds NaN"):
        case.measure(path=path)


def choosing(tmp_path: Path, axis: int) -> Model:
    """A model that says which of its outputs is the largest, and nothing else."""
    proto = network()
    proto.graph.node.append(helper.make_node("ArgMax", ["y"], ["k"], name="choice", axis=axis))
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("k", TensorProto.INT64, [None, None]))
    onnx.save(proto, tmp_path / "net.onnx")
    return onnxprune.load(tmp_path / "net.onnx")


def test_choices_are_compared_by_agreement(tmp_path: Path) -> None:
    case = Case(tmp_path, labels=False)
    model = choosing(tmp_path, axis=1)
    coupling = onnxprune.analyze(model)
    found = sensitivity(model, coupling, onnxprune.score(model, coupling, "l1"), case.data())
    figures = [point.figures for curve in found.curves for point in curve.points]
    worst = min(figures, key=lambda each: each.agreement or 0.0)
    assert (worst.agreement or 0.0) < 1.0
    assert damage(found, worst) == max(damage(found, each) for each in figures) > 0


def test_a_model_of_which_nothing_can_be_said(tmp_path: Path) -> None:
    case = Case(tmp_path, labels=False)
    model = choosing(tmp_path, axis=0)  # the largest of the whole batch
    coupling = onnxprune.analyze(model)
    with pytest.raises(UserError, match="no output of floats that could be compared"):
        sensitivity(model, coupling, onnxprune.score(model, coupling, "l1"), case.data())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ratios": []}, "name one ratio"),
        ({"ratios": [0.5, 1]}, "between 0 and 1"),
        ({"jobs": 0}, "jobs must be a whole number from 1"),
        ({"backend": "spark"}, "backend must be one of loky, threading, dask, ray"),
        ({"include": ["nothing"]}, "no prunable group matches 'nothing'"),
    ],
)
def test_options_that_cannot_be(case: Case, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        case.measure(**options)


# Elsewhere


@pytest.mark.parametrize("backend", [None, "threading"])
def test_processes_and_threads_find_the_same(case: Case, backend: str | None) -> None:
    steps: list[int] = []
    here = case.measure()
    there = case.measure(jobs=2, backend=backend, on_progress=lambda done, total: steps.append(done))
    assert there == here
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_process_is_told_what_it_measures(case: Case) -> None:
    changed = case.model.replace(weights={**case.model.weights, "a": case.model.weights["a"].zero(0, np.array([0]))})
    for model, said in ((changed, "does not hold the model to be measured"), (changed.replace(path=None), "has none")):
        with pytest.raises(UserError, match=said):
            sensitivity(model, case.coupling, case.scores, case.data(), jobs=2, backend="threading")


def test_data_that_is_other_data_elsewhere(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case.folder)
    (case.folder / "data_of_a_thread.py").write_text(
        "import threading\nimport numpy as np\n"
        "def batches():\n    here = threading.current_thread() is threading.main_thread()\n"
        "    yield np.eye(8) * (2 if here else 3)\n"
    )
    with pytest.raises(UserError, match="'data_of_a_thread:batches' is other data in another process"):
        case.measure(data=case.data("data_of_a_thread:batches"), jobs=2, backend="threading")


def test_paths_lead_there_from_any_folder(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def here(function: Any, arguments: Any, *how: Any) -> Any:
        sent.extend((place.path, place.request.spec, how) for place, *_ in arguments)
        return ((index, function(*given)) for index, given in enumerate(arguments))

    monkeypatch.setattr(MODULE, "in_parallel", here)
    monkeypatch.chdir(case.folder)
    model = onnxprune.load("net.onnx")
    data = open_data("x.npz", model)
    found = sensitivity(model, case.coupling, case.scores, data, ratios=[0.5], jobs=3, backend="threading")
    assert sent == [(case.folder / "net.onnx", str(case.folder / "x.npz"), (3, "threading"))] * 2
    assert found.spec == "x.npz"


def test_nothing_to_do_starts_no_cluster() -> None:
    assert list(parallel.in_parallel(print, [], 2, "dask")) == []


@pytest.mark.parametrize(
    ("missing", "options", "said"),
    [
        ("joblib", {"jobs": 2}, r"pip install 'onnxprune\[parallel\]'"),
        ("distributed", {"backend": "dask"}, r"for the backend dask, install it: pip install 'dask\[distributed\]'"),
        ("ray", {"backend": "ray"}, "for the backend ray, install it: pip install 'ray'"),
    ],
)
def test_what_is_not_installed_is_named(
    case: Case, monkeypatch: pytest.MonkeyPatch, missing: str, options: dict[str, Any], said: str
) -> None:
    plain = parallel.find_spec
    monkeypatch.setattr(parallel, "find_spec", lambda name: None if name == missing else plain(name))
    with pytest.raises(UserError, match=said):
        case.measure(**options)


# Scores


def measured(units: int, knots: dict[int, float], *, group: str = "g", figure: str = "deviation") -> Curve:
    points = [Point(k / units, k, replace(Evaluation(100), **{figure: value})) for k, value in knots.items()]
    return Curve(group, units, tuple(points))


def found_of(*curves: Curve, top1: float | None = None) -> Sensitivity:
    return Sensitivity("", "l1", 0, "mean", "mean", "", "", Evaluation(100, top1=top1), curves)


def scores_of(**by_group: list[float]) -> Scores:
    return Scores("l1", {name: np.array(own) for name, own in by_group.items()}, {})


@pytest.mark.parametrize(
    ("units", "knots", "expected"),
    [
        (4, {2: 0.2, 4: 0.8}, [0.1, 0.1, 0.3, 0.3]),
        (6, {2: 0.2, 4: 0.8}, [0.1, 0.1, 0.3, 0.3, 0.3, 0.3]),
        (6, {2: 0.1, 4: 0.1, 5: 0.5}, [0.025, 0.025, 0.025, 0.025, 0.4, 0.5]),
        (4, {1: 0.9, 2: 0.9, 3: 0.9}, [0.3, 0.3, 0.3, 0.3]),
        (4, {1: 0.1, 2: 0.6, 3: 0.5}, [0.1, 0.2, 0.2, 0.5]),
        (3, {1: 0.0}, [0, 0.5, 0.5]),
        (4, {2: 3.0}, [1.5, 1.5, 1.5, 1.5]),
    ],
    ids=[
        "measured-to-the-end",
        "as-steep-beyond",
        "flat-in-between",
        "all-at-once",
        "falling",
        "nothing",
        "worse",
    ],
)
def test_each_unit_costs_what_the_curve_rises_by(units: int, knots: dict[int, float], expected: list[float]) -> None:
    curve = measured(units, knots)
    assert rises(found_of(curve), curve) == pytest.approx(expected)


def test_the_ranking_within_a_group_stays() -> None:
    own = [3.0, 1.0, 2.0, 1.0, 5.0, 0.5]
    new = rescored(scores_of(g=own), found_of(measured(6, {2: 0.2, 6: 0.2}))).by_group["g"]
    order = np.argsort(own, kind="stable")
    assert np.argsort(new, kind="stable").tolist() == order.tolist() == [5, 1, 3, 2, 0, 4]
    assert new[order] == pytest.approx([0.2 / 6] * 6)
    assert (np.diff(new[order]) > 0).all(), "equal rises must not be put in another order"


def test_between_groups_damage_decides() -> None:
    curves = [
        measured(4, {2: 0.2, 4: 0.8}, group="a"),
        measured(2, {1: 0.25}, group="b"),
        measured(3, {1: 9}, group="d"),
    ]
    found = found_of(*curves)
    new = rescored(scores_of(a=[4, 3, 2, 1], b=[10, 20], c=[2, 1, 1, 1], d=[1, 1, 1]), found)
    assert new.by_group["a"] == pytest.approx([0.3, 0.3, 0.1, 0.1])
    assert new.by_group["b"] == pytest.approx([0.25, 0.75])
    assert new.by_group["c"] == pytest.approx([0.75, 0.25, 0.25, 0.75]), "the median of the others at each quarter"
    assert new.criterion == "l1"


def test_accuracy_counts_and_distance_breaks_ties() -> None:
    points = [
        Point(0.25, 1, Evaluation(100, top1=0.9, deviation=1.0)),
        Point(0.5, 2, Evaluation(100, top1=0.95, deviation=math.inf)),
        Point(0.75, 3, Evaluation(100, top1=0.7, deviation=None)),
    ]
    found = found_of(Curve("g", 4, tuple(points)), top1=0.9)
    assert [damage(found, point.figures) for point in points] == pytest.approx([TIE / 2, TIE, 0.2 + TIE])
    agreeing = found_of(measured(4, {2: 0.75}, figure="agreement"))
    assert damage(agreeing, agreeing.curves[0].points[0].figures) == pytest.approx(0.25 + TIE)


def test_beyond_what_was_measured_all_is_lost_with_the_last_unit() -> None:
    for figure, harmless, top1, whole in (("top1", 0.8, 0.8, 0.8), ("agreement", 1.0, None, 1.0)):
        curve = measured(8, {4: harmless}, figure=figure)
        found = rises(found_of(curve, top1=top1), curve)
        assert found[:4] == pytest.approx([TIE / 4] * 4), "as far as it was measured, it costs nothing"
        assert found.sum() == pytest.approx(whole)
        assert (np.diff(found) >= 0).all()


def test_the_most_sensitive_first() -> None:
    found = found_of(measured(4, {1: 0.1, 2: 0.2}, group="a"), measured(4, {1: 0.3}, group="b"))
    assert [curve.group for curve in ranked(found)] == ["b", "a"]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (scores_of(g=[1.0, 2.0]), "group 'g' had 4 units and has 2"),
        (scores_of(h=[1.0, 2.0]), "on other groups"),
        (replace(scores_of(g=[1.0] * 4), criterion="l2"), "measured with criterion 'l1', and units are ranked by 'l2'"),
    ],
)
def test_scores_of_something_else(scores: Scores, said: str) -> None:
    with pytest.raises(UserError, match=said):
        rescored(scores, found_of(measured(4, {1: 0.1})))


def test_selection_spares_what_is_sensitive(case: Case) -> None:
    """Half of all 24 units: by damage the twelve go that cost the least, of which eight cost nothing."""
    new = rescored(case.scores, case.measure(ratios=[0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875]))
    plan = onnxprune.select(case.coupling, new, ratio=1 / 3, scope="global")
    assert {group.name: group.removed for group in plan.groups} == {"first": 0, "second": 8}
    kept = onnxprune.evaluate(onnxprune.apply(case.model, plan), case.data())
    assert kept.top1 == 1.0
    plain = onnxprune.select(case.coupling, case.scores, ratio=1 / 3, scope="global")
    assert onnxprune.evaluate(onnxprune.apply(case.model, plain), case.data()).top1 < 1.0


# The file


def test_the_file_holds_it_all(case: Case) -> None:
    found = case.measure()
    text = curves_json.to_json(found)
    (case.folder / "s.json").write_text(text)
    back = curves_json.load(case.folder / "s.json")
    assert back == replace(found, baseline=replace(found.baseline, notes=()))
    assert curves_json.to_json(back) == text
    same = found_of(Curve("g", 4, (Point(0.25, 1, Evaluation(3, agreement=1.0, deviation=0.0, sqnr_db=math.inf)),)))
    (point,) = json.loads(curves_json.to_json(same))["groups"][0]["points"]
    assert point == {"ratio": 0.25, "removed": 1, "samples": 3, "agreement": 1.0, "deviation": 0.0}
    assert json.loads(curves_json.to_json(found_of()))["groups"] == []


def change(*keys: Any, to: Any) -> Callable[[Any], None]:
    def edit(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = to

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (change("version", to=2), "sensitivity format 2 is unknown"),
        (change("model", to=3), "model must be a string, not 3"),
        (change("seed", to=0.5), "seed must be a whole number"),
        (change("more", to=1), "the file: unknown key 'more'"),
        (change("data", to={"spec": "x"}), "data: 'digest' is missing"),
        (change("baseline", "top1", to=1.5), r"baseline.top1 must be 0 to 1, not 1.5"),
        (change("groups", to={}), "groups must be a list"),
        (change("groups", 1, "name", to="first"), "occurs twice"),
        (change("groups", 0, "units", to=2), r"groups\[0\]: 2 of 2 units cannot be removed"),
        (change("groups", 0, "points", 0, "removed", to=0), "0 of 8 units cannot be removed"),
        (change("groups", 0, "points", 0, "ratio", to=1.0), r"groups\[0\].points\[0\].ratio must lie between 0 and 1"),
        (change("groups", 0, "points", 0, "deviation", to=-1), "deviation must be 0 or more"),
        (change("groups", 0, "points", 0, "deviation", to=True), "deviation must be a number, not True"),
        (change("groups", 0, "points", 0, "cosine", to="1"), "cosine must be a number, not '1'"),
    ],
)
def test_a_file_may_hold_anything(case: Case, edit: Callable[[Any], None], said: str) -> None:
    path = case.folder / "s.json"
    case.measure(path=path)
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=said) as error:
        curves_json.load(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not valid JSON"),
        ('{"version": 1, "version": 1}', "'version' occurs twice"),
        ('{"version": NaN}', "NaN is not a JSON value"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "the file must be an object"),
    ],
)
def test_a_file_may_be_something_else(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(UserError, match=said):
        curves_json.load(tmp_path / "s.json")
    with pytest.raises(UserError, match="cannot read the sensitivity file"):
        curves_json.load(tmp_path / "nothing.json")


def test_fingerprints_tell_weights_apart(case: Case) -> None:
    again = onnxprune.load(case.folder / "net.onnx")
    assert fingerprint(again) == fingerprint(case.model)
    zeroed = {**case.model.weights, "a": case.model.weights["a"].zero(0, np.array([3]))}
    renamed = {**case.model.weights, "d": case.model.weights["a"].rename("d")}
    assert len({fingerprint(case.model.replace(weights=each)) for each in (zeroed, renamed, again.weights)}) == 3


# The drawing


def test_a_curve_per_group(tmp_path: Path) -> None:
    found = found_of(*(measured(4, {1: 0.1 * i, 2: 0.2 * i}, group=f"g{i}") for i in range(12)))
    (axes,) = curves_plot.figure(found).axes
    lines = axes.get_lines()
    assert len(lines) == 12
    assert [line.get_label() for line in lines[:2]] == [" g11", " g10"]
    assert lines[0].get_xdata().tolist() == [0, 25, 50]
    assert lines[0].get_ydata().tolist() == pytest.approx([0, 1.1, 2.2])
    assert [line.get_color() for line in lines[10:]] == ["0.75"] * 2
    accurate = found_of(Curve("_$x", 4, (Point(0.25, 1, Evaluation(9, top1=0.5)),)), top1=0.9)
    drawn = curves_plot.figure(accurate)
    assert drawn.axes[0].get_lines()[0].get_ydata().tolist() == pytest.approx([0, 40])
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == [" _$x"]
    curves_plot.write(accurate, tmp_path / "c.svg")
    once = (tmp_path / "c.svg").read_bytes()
    curves_plot.write(accurate, tmp_path / "c.svg")
    assert (tmp_path / "c.svg").read_bytes() == once
    assert b"<svg" in once
