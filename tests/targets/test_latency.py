"""The model of a graph's latency: on a machine whose times follow a formula, the formula is found.

`kernels` is replaced by one that computes each node's time from the widths of what it reads and makes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from building import Net
from nets import NETS
from oracle import opened, prepared

from onnxprune.analysis.analyze import analyze
from onnxprune.analysis.coupling import Coupling
from onnxprune.counting.meter import Meter
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.selection.select import Field, least_kept
from onnxprune.targets import latency as module
from onnxprune.targets.kernels import Kernel
from onnxprune.targets.latency import Latency, fingerprint, latency_of
from onnxprune.targets.terms import Floats, Widths

Formula = Callable[[str, float, float], float]
"""(operator, part that is left of what it reads, of what it makes) -> microseconds"""


def bilinear(op: str, u: float, v: float) -> float:
    return {
        "Conv": 3 + 5 * u + 80 * u * v,
        "Relu": 1 + 9 * v,
        "Add": 12 * v,
        "Gemm": 2 + 30 * u,
        "Flatten": 1.0,
    }.get(op, 4 * u)


@dataclass
class Machine:
    """Runs models by a formula, and remembers what it was asked to run."""

    original: Model
    formula: Formula = bilinear
    noise: float = 0.0
    refuses: Callable[[int], bool] = lambda run: False
    runs: list[Model] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def __call__(self, model: Model, feeds: object, *, threads: int, provider: str) -> list[Kernel]:
        self.runs.append(model)
        self.threads.add(threads)
        if self.refuses(len(self.runs)):
            raise UserError("onnxruntime cannot run the model: no")
        before, after = self._shapes(self.original), self._shapes(model)
        rng = np.random.default_rng(len(self.runs))
        found = []
        for place, node in enumerate(model.graph.node):
            reads, makes = node.input[0], node.output[0]
            u, v = (np.prod(after[name]) / np.prod(before[name]) for name in (reads, makes))
            time = self.formula(node.op_type, float(u), float(v)) * float(1 + self.noise * rng.standard_normal())
            # what onnxruntime inserts is numbered differently each time
            name = f"{node.op_type}_token_{(place + len(self.runs)) % len(model.graph.node)}"
            found.append(Kernel(name, node.op_type, time, reads, makes))
        return found

    @staticmethod
    def _shapes(model: Model) -> Mapping[str, tuple[int, ...]]:
        return Meter(model, Coupling((), (), {})).shapes


@dataclass(frozen=True)
class Case:
    """A network, ready to be asked."""

    model: Model
    coupling: Coupling
    field: Field
    meter: Meter
    machine: Machine

    def ask(self, **options: Any) -> Latency:
        return latency_of(self.model, self.coupling, self.field, self.meter, **options)


def wide(n: Net, neck: int = 24) -> None:
    """A residual network of three groups, of 32, 16 and 24 channels."""
    x = n.op("Relu", n.conv(n.image(1, 3, 4, 4), 32, name="stem"), name="stem.relu")
    y = n.op("Relu", n.conv(x, 16, name="inner"), name="inner.relu")
    x = n.op("Add", x, n.conv(y, 32, name="outer"), name="add")
    x = n.op("Relu", n.conv(x, neck, name="neck"), name="neck.relu")
    x = n.op("GlobalAveragePool", x, name="pool")
    n.output(n.gemm(n.op("Flatten", x, name="flatten"), 5, name="fc"))


def case(proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, block: int = 4, **options: Any) -> Case:
    model = prepared(proto)
    coupling = analyze(model)
    groups = tuple(group for group in coupling.groups if group.size > 1)
    floors = {group.name: least_kept(group.size, 0.1, block) for group in groups}
    found = Field(groups, {}, {group.name: block for group in groups}, floors)
    machine = Machine(model, **options)
    monkeypatch.setattr(module, "kernels", machine)
    return Case(model, coupling, found, Meter(model, coupling), machine)


def written(write: Callable[[Net], None]) -> onnx.ModelProto:
    net = Net()
    write(net)
    return net.proto()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def net(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return case(written(wide), monkeypatch)


def truth(case: Case, removed: Floats) -> float:
    """By the formula, node by node."""
    widths = Widths(case.coupling, case.meter.shapes)
    ratios = widths.ratios(removed)
    return sum(
        case.machine.formula(node.op_type, ratios[widths.index(node.input[0])], ratios[widths.index(node.output[0])])
        for node in case.model.graph.node
    )


def test_the_formula_is_found(net: Case) -> None:
    found = net.ask()
    by_node = {node.output[0]: node for node in net.model.graph.node}
    expected = {"Conv": (3, 5, 0, 80), "Relu": (1, 0, 9, 0), "Add": (0, 0, 12, 0), "Gemm": (2, 0, 0, 30)}
    seen = set()
    for term in found.terms.parts:
        assert term.v is not None
        node = by_node[term.v]
        assert term.u == node.input[0]
        # what a layer makes may never change (fc), or be all that does: then v, or uv, says the same as u
        if node.name in ("inner", "outer", "neck", "fc"):
            assert tuple(term.coefficients) == pytest.approx(expected[node.op_type], abs=1e-6)
            seen.add(node.name)
    assert seen == {"inner", "outer", "neck", "fc"}
    rng = np.random.default_rng(0)
    for _ in range(50):
        removed = found.terms.widths.array(net.meter.random_counts(rng))
        assert found.terms.total(removed) == pytest.approx(truth(net, removed), rel=1e-6)


def test_savings_are_the_formula_s(net: Case) -> None:
    found = net.ask().terms
    at = found.widths.array({})
    for place, group in enumerate(net.coupling.groups):
        step = np.zeros(len(at))
        step[place] = 1e-5
        slope = (truth(net, at) - truth(net, at + step)) / 1e-5
        assert found.saved(at)[place] == pytest.approx(slope, rel=1e-3), group.name


def test_noise_of_some_percent_stays_noise(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = case(written(wide), monkeypatch, noise=0.04)
    found, rng = noisy.ask().terms, np.random.default_rng(1)
    for _ in range(50):
        removed = found.widths.array(noisy.meter.random_counts(rng))
        assert found.total(removed) == pytest.approx(truth(noisy, removed), rel=0.1)


def test_probes_are_whole_blocks_of_the_model_itself(net: Case) -> None:
    net.ask()
    runs = net.machine.runs
    assert runs[0] is net.model
    assert module.PROBES // 2 < len(runs) <= 1 + module.PROBES, "what was drawn twice runs once"
    widths = [tuple(run.weights[f"{name}.weight"].shape[0] for name in ("stem", "inner", "neck")) for run in runs[1:]]
    assert len(set(widths)) == len(widths)
    assert all(width % 4 == 0 and width >= 4 for found in widths for width in found)
    assert widths[:3] == [(24, 12, 20), (16, 8, 12), (8, 4, 8)]
    for place in range(3):
        assert len({found[place] for found in widths}) >= 3, "and the whole model is a fourth"


def test_the_second_time_nothing_runs(net: Case) -> None:
    told: list[float] = []
    first = net.ask(on_progress=told.append)
    count = len(net.machine.runs)
    second = net.ask(on_progress=told.append)
    assert len(net.machine.runs) == count
    assert (first.fresh, second.fresh) == (True, False)
    assert first.notes == second.notes == ()
    assert first.kernels == second.kernels
    at = first.terms.widths.array({"stem": 8, "inner": 4})
    assert first.terms.total(at) == second.terms.total(at)
    assert told == pytest.approx([(n + 1) / 13 for n in range(count - 1)])


def other_weights(model: Model) -> Model:
    return prepared(written(wide)).replace(
        weights={name: weight.zero(0, np.array([0])) for name, weight in model.weights.items()}
    )


def test_a_finetuned_model_takes_as_long(net: Case) -> None:
    net.ask()
    count = len(net.machine.runs)
    tuned = replace(net, model=other_weights(net.model))
    assert not tuned.ask().fresh
    assert len(net.machine.runs) == count


@pytest.mark.parametrize("change", ["threads", "blocks", "dims", "shape"])
def test_what_changes_times_is_measured_apart(net: Case, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net.ask()
    other, options = net, {}
    if change == "threads":
        options = {"threads": 2}
    elif change == "blocks":
        other = replace(net, field=replace(net.field, blocks=dict.fromkeys(net.field.blocks, 8)))
    elif change == "dims":
        options = {"dims": {}}  # nothing is free
        assert not net.ask(**options).fresh
        return
    else:
        other = case(NETS["resnet"](), monkeypatch)
    assert other.ask(**options).fresh
    assert not other.ask(**options).fresh
    assert not replace(net).ask().fresh
    if change == "threads":
        assert net.machine.threads == {1, 2}


def test_sizes_that_it_is_timed_at_count_not_those_it_is_counted_at(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(n: Net) -> None:
        n.output(n.conv(n.op("Relu", n.conv(n.image("batch", 3, 4, 4), 8, name="first")), 5, name="last"))

    free = case(written(write), monkeypatch)
    assert free.ask().fresh
    assert not free.ask(dims={"batch": 1}).fresh
    assert free.ask(dims={"batch": 64}).fresh
    assert not free.ask(dims={"batch": np.int64(64)}).fresh
    assert not free.ask().fresh
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("refused", [{2}, {2, 3, 4}, {9, 10}])
def test_a_width_that_does_not_run_is_left_out(cache: Path, monkeypatch: pytest.MonkeyPatch, refused: set[int]) -> None:
    found = case(written(wide), monkeypatch, refuses=lambda run: run in refused)
    terms, rng = found.ask().terms, np.random.default_rng(0)
    assert len(found.machine.runs) >= max(refused)
    for _ in range(20):
        removed = terms.widths.array(found.meter.random_counts(rng))
        assert terms.total(removed) == pytest.approx(truth(found, removed), rel=1e-6)


def test_where_no_width_runs_time_is_a_constant(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = case(written(wide), monkeypatch, refuses=lambda run: run > 1)
    terms = found.ask().terms
    whole = truth(found, terms.widths.array({}))
    assert terms.total(terms.widths.array({})) == pytest.approx(whole)
    assert terms.total(terms.widths.array({"stem": 16})) == pytest.approx(whole)
    assert terms.saved(terms.widths.array({})).tolist() == pytest.approx([0] * 3)


def test_a_model_that_does_not_run_at_all_is_a_mistake(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="onnxruntime cannot run the model: no"):
        case(written(wide), monkeypatch, refuses=lambda run: True).ask()
    assert not list(cache.iterdir())


def test_groups_that_stay_whole_are_not_probed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = case(written(wide), monkeypatch, block=64)
    assert whole.ask().fresh
    assert len(whole.machine.runs) == 1


def test_nothing_to_prune(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = case(written(lambda n: n.output(n.op("Relu", n.image(1, 3, 4, 4)))), monkeypatch)
    found = bare.ask()
    assert len(bare.machine.runs) == 1
    assert [kernel.op for kernel in found.kernels] == ["Relu"]
    assert found.terms.saved(np.zeros(0)).size == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.pop("terms"),
        lambda value: value.pop("kernels"),
        lambda value: value.update(terms={}),
        lambda value: value["terms"][0].pop("u"),
        lambda value: value["terms"][0].update(more=1),
        lambda value: value["terms"][0].update(u=3),
        lambda value: value["terms"][0].update(name=None),
        lambda value: value["terms"][0].update(coefficients=[1, 2, 3]),
        lambda value: value["terms"][0].update(coefficients="abcd"),
        lambda value: value["terms"][0].update(coefficients=[1, 2, 3, -4]),
        lambda value: value["terms"][0].update(coefficients=[1, 2, 3, None]),
        lambda value: value["terms"][0].update(coefficients=[1, 2, 3, float("nan")]),
        lambda value: value["terms"][0].update(coefficients=[1, 2, 3, float("inf")]),
        lambda value: value["terms"][0].update(coefficients=[1e9, 0, 0, 0]),
        lambda value: [term.update(coefficients=[0, 0, 0, 0]) for term in value["terms"]],
        lambda value: [kernel.update(microseconds=0) for kernel in value["kernels"]],
        lambda value: [kernel.update(microseconds=1e12) for kernel in value["kernels"]],
        lambda value: value["kernels"][0].update(microseconds=-1.0),
        lambda value: value["kernels"][0].update(microseconds=float("nan")),
        lambda value: value["kernels"][0].update(microseconds="long"),
        lambda value: value["kernels"][0].update(microseconds=10**400),
        lambda value: value["kernels"][0].update(makes=["a"]),
        lambda value: value["kernels"].append(7),
    ],
)
def test_a_damaged_file_is_measured_anew(net: Case, cache: Path, change: Callable[[dict[str, Any]], object]) -> None:
    net.ask()
    (path,) = cache.iterdir()
    stored = json.loads(path.read_text())
    change(stored["value"])
    path.write_text(json.dumps(stored))
    found = net.ask()
    assert found.fresh
    assert len(found.notes) == 1
    assert "measured anew" in found.notes[0]
    assert not net.ask().fresh


def test_names_with_odd_characters_come_back(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(n: Net) -> None:
        x = n.op("Relu", n.conv(n.image(1, 3, 4, 4), 8, name='first\n"é\\'), name="x y")
        n.output(n.conv(x, 5, name="last"))

    odd = case(written(write), monkeypatch)
    first, second = odd.ask(), odd.ask()
    assert (first.kernels, second.fresh, second.notes) == (second.kernels, False, ())
    assert first.terms.saved(np.zeros(1))[0] > 1


def test_a_fingerprint_is_of_the_graph_and_the_shapes() -> None:
    net = Net()
    wide(net)
    model = opened(net.proto())
    same = prepared(net.proto())
    assert fingerprint(model) == fingerprint(opened(net.proto()))
    assert fingerprint(model) == fingerprint(other_weights(model))
    cut = {**same.weights, "fc.weight": same.weights["fc.weight"].take(0, np.arange(4))}
    assert fingerprint(same.replace(weights=cut)) != fingerprint(same)
    net.nodes[0].attribute[0].i = 7
    assert fingerprint(opened(net.proto())) != fingerprint(model)


def test_on_the_machine_that_this_runs_on(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No formula here, and no time asserted: only that all kernels are found again, whatever they are called."""
    real = module.kernels
    monkeypatch.setattr("onnxprune.targets.kernels.SECONDS", 0.0)
    seen: list[list[Kernel]] = []

    def kept(*args: Any, **options: Any) -> list[Kernel]:
        seen.append(real(*args, **options))
        return seen[-1]

    found = case(written(lambda n: wide(n, 32)), monkeypatch, block=16)
    monkeypatch.setattr(module, "kernels", kept)
    terms = found.ask().terms
    assert len(terms.parts) == len(seen[0])
    assert len(seen) > 2
    assert all(set(module._by_key(seen[0])) == set(module._by_key(run)) for run in seen)
    assert terms.total(terms.widths.array({})) > 0
