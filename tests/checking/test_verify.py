"""The oracle itself: it notices every wrong cut, and it says when it has proved nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from building import Net
from nets import DIMS, NETS, mobilenet, resnet, shufflenet, transformer
from oracle import prepared, whole

from onnxprune.analysis.analyze import analyze
from onnxprune.checking.verify import MOVED, TOLERANCE, perturbed, relative, verify
from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Cut, Plan
from onnxprune.errors import UserError, VerificationError
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.scoring.scores import score
from onnxprune.selection.select import select


def planned(model: Model, ratio: float = 0.5, *, inexact: bool = False, include: tuple[str, ...] = ()) -> Plan:
    coupling = analyze(model, allow_inexact=inexact)
    return select(coupling, score(model, coupling, "random"), ratio=ratio, include=include)


def with_weight(model: Model, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> Model:
    array = edit(model.weights[name].array().copy()).astype(np.float32)
    return model.replace(weights={**model.weights, name: Tensor.of(name, array)})


@pytest.mark.parametrize("name", NETS)
def test_a_right_cut_passes(name: str) -> None:
    model = prepared(NETS[name]())
    plan = planned(model)
    verdict = verify(model, apply(model, plan), plan, dims=DIMS.get(name)).require()
    assert verdict.mode == "numeric"
    assert verdict.error is not None
    assert verdict.error <= TOLERANCE
    assert verdict.moved is not None
    assert verdict.moved > MOVED
    assert verdict.deviation is not None
    assert verdict.deviation > MOVED
    assert set(verdict.by_tensor) == {item.name for item in model.graph.output}
    assert verdict.dims == DIMS.get(name, {})


def dropped(plan: Plan, tensor: str, axis: int) -> Plan:
    """A coupling that has forgotten one slot."""
    cuts = []
    for cut in plan.cuts:
        slots = tuple(slot for slot in cut.slots if (slot.tensor, slot.axis) != (tensor, axis))
        cuts += [Cut(cut.group, cut.index, slots)] if slots else []
    return replace(plan, cuts=tuple(cuts))


def shifted(plan: Plan, tensor: str, axis: int) -> Plan:
    """A coupling that takes the wrong positions of one slot: as many, so every shape fits."""
    cuts = []
    for cut in plan.cuts:
        mine = tuple(slot for slot in cut.slots if (slot.tensor, slot.axis) == (tensor, axis))
        rest = tuple(slot for slot in cut.slots if (slot.tensor, slot.axis) != (tensor, axis))
        cuts += [Cut(cut.group, cut.index, rest)] if rest else []
        if mine:
            size = mine[0].size
            cuts.append(Cut(cut.group, tuple(sorted((i + 1) % size for i in cut.index)), mine))
    return replace(plan, cuts=tuple(cuts))


SLOTS = [
    (name, slot.tensor, slot.axis)
    for name, build in NETS.items()
    for group in analyze(prepared(build())).groups
    for slot in group.slots
    if slot.weight
]
UNSEEN = ("transformer", "k.bias", 0)
"""A bias of the keys shifts all scores of a query alike, and a softmax does not see that: nothing changes."""


@pytest.mark.parametrize(("name", "tensor", "axis"), SLOTS)
def test_a_forgotten_slot_is_noticed(name: str, tensor: str, axis: int) -> None:
    model = prepared(NETS[name]())
    plan = planned(model)
    wrong = dropped(plan, tensor, axis)
    try:
        verdict = verify(model, apply(model, wrong), wrong, dims=DIMS.get(name))
    except UserError:
        return  # a fix-up found no length that fits
    assert not verdict.ok, f"without {tensor}:{axis} the error is {verdict.error}"


@pytest.mark.parametrize(("name", "tensor", "axis"), [slot for slot in SLOTS if slot != UNSEEN])
def test_a_misaligned_slot_is_noticed(name: str, tensor: str, axis: int) -> None:
    """The model loads and runs; only its numbers are wrong. The oracle has the right plan."""
    model = prepared(NETS[name]())
    plan = planned(model)
    verdict = verify(model, apply(model, shifted(plan, tensor, axis)), plan, dims=DIMS.get(name))
    assert not verdict.ok
    assert verdict.error is None or verdict.error > 100 * TOLERANCE


def test_a_failure_can_be_raised_and_names_the_tensor() -> None:
    model = prepared(resnet())
    plan = planned(model)
    pruned = with_weight(apply(model, plan), "fc.bias", lambda b: b + 1)
    with pytest.raises(VerificationError, match=r"'fc\.out' differs from the masked original by"):
        verify(model, pruned, plan).require()


def test_where_masking_moves_nothing_random_weights_decide() -> None:
    """ConvNeXt's layer scale of 1e-6, or a head that starts at zero: all outputs are equal, whatever was cut."""
    quiet = with_weight(prepared(resnet()), "fc.weight", lambda w: 0 * w)
    plan = planned(quiet)
    verdict = verify(quiet, apply(quiet, plan), plan)
    assert verdict.ok
    assert verdict.moved == 0
    assert any("random weights" in note for note in verdict.notes)
    wrong = dropped(plan, "layer2.down.bias", 0)
    assert not verify(quiet, apply(quiet, shifted(plan, "layer1.0.conv.weight", 0)), wrong).ok


def test_what_has_no_influence_is_said_to_prove_nothing() -> None:
    net = Net()
    x = net.conv(net.image(), 8, name="first")
    net.op("Relu", net.conv(x, 6, name="dead"))
    net.close(x)
    model = prepared(net.proto())
    plan = planned(model, include=("dead",))
    verdict = verify(model, apply(model, plan), plan)
    assert any("no influence" in note for note in verdict.notes)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_must_be_the_same(bad: float) -> None:
    model = prepared(resnet())
    plan = planned(model)

    def spoil(b: np.ndarray) -> np.ndarray:
        b[0] = bad
        return b

    spoiled = with_weight(model, "fc.bias", spoil)
    assert verify(spoiled, apply(spoiled, plan), plan).ok, "where both have them they agree"
    assert not verify(model, apply(spoiled, plan), plan).ok
    assert not verify(spoiled, apply(model, plan), plan).ok


def test_nothing_but_not_a_number_is_no_agreement() -> None:
    model = prepared(resnet())
    plan = planned(model)
    spoiled = with_weight(model, "fc.bias", lambda b: b * np.nan)
    assert not verify(spoiled, apply(spoiled, plan), plan).ok


def test_an_inexact_cut_is_measured_and_not_compared() -> None:
    model = prepared(transformer())
    plan = planned(model, inexact=True, include=("embed",))
    verdict = verify(model, apply(model, plan), plan, dims=DIMS["transformer"])
    assert verdict.ok
    assert (verdict.error, verdict.inexact) == (None, ("normalised",))
    assert verdict.deviation is not None
    assert verdict.deviation > MOVED
    assert any("not comparable" in note for note in verdict.notes)


def test_an_inexact_cut_must_still_give_numbers() -> None:
    model = prepared(transformer())
    plan = planned(model, inexact=True, include=("embed",))
    pruned = with_weight(apply(model, plan), "head.bias", lambda b: b * np.nan)
    assert not verify(model, pruned, plan, dims=DIMS["transformer"]).ok


def test_a_model_that_does_not_check_is_refused_before_it_runs() -> None:
    model = prepared(resnet())
    plan = planned(model)
    pruned = apply(model, plan)
    pruned = pruned.replace(weights={**pruned.weights, "fc.weight": model.weights["fc.weight"]})
    for mode in ("numeric", "structural"):
        verdict = verify(model, pruned, plan, mode=mode)
        assert not verdict.ok
        assert verdict.error is None


def test_structure_alone_sees_no_numbers_and_says_so() -> None:
    model = prepared(shufflenet())
    plan = planned(model)
    wrong = apply(model, shifted(plan, "branch.0.weight", 0))
    verdict = verify(model, wrong, plan, mode="structural")
    assert verdict.ok
    assert any("structure only" in note for note in verdict.notes)
    assert not verify(model, wrong, plan).ok


def test_no_check_is_called_that() -> None:
    model = prepared(mobilenet())
    plan = planned(model)
    verdict = verify(model, model, plan, mode="off")
    assert (verdict.ok, verdict.mode, verdict.notes) == (True, "off", ("not verified",))
    with pytest.raises(UserError, match="numeric, structural, off, not 'maybe'"):
        verify(model, model, plan, mode="maybe")


def test_an_output_that_is_missing_is_noticed() -> None:
    model = prepared(mobilenet())
    plan = planned(model)
    pruned = apply(model, plan)
    pruned.proto.graph.output[0].name = "add.out"
    assert not verify(model, pruned, plan).ok


def test_lengths_that_are_part_of_the_answer_are_compared() -> None:
    """An integer output is no less an output."""
    net = Net()
    x = net.conv(net.image(), 8, name="first")
    net.output(net.op("Shape", x, name="shape"))
    net.close(x)
    model = prepared(net.proto())
    coupling = analyze(prepared(_without_shape()))  # of the same layers: here nothing could go
    plan = select(coupling, score(model, coupling, "random"), ratio=0.5)
    verdict = verify(model, apply(model, plan), plan)
    assert not verdict.ok
    assert verdict.by_tensor["shape.out"] > 0


def _without_shape() -> onnx.ModelProto:
    net = Net()
    net.close(net.conv(net.image(), 8, name="first"))
    return net.proto()


@pytest.mark.parametrize(
    ("expected", "found", "gap"),
    [
        ([1, 2], [1, 2], 0),
        ([2, 4], [2, 3], 0.25),
        ([0, 0], [0, 0.5], 0.5),
        ([1, np.nan], [1, np.nan], 0),
        ([1, np.nan], [1, 2], np.inf),
        ([1, 2], [1, np.nan], np.inf),
        ([1, np.inf], [1, np.inf], 0),
        ([1, np.inf], [1, -np.inf], np.inf),
        ([1, np.inf], [1, np.nan], np.inf),
        ([np.nan], [np.nan], 0),
        ([1], [1, 1], np.inf),
        ([], [], 0),
    ],
)
def test_relative_difference(expected: list[float], found: list[float], gap: float) -> None:
    assert relative(np.array(expected, float), np.array(found, float)) == gap


def test_perturbing_changes_weights_and_nothing_else() -> None:
    """Integers, single numbers and the scales of a Resize are structure."""
    net = Net()
    x = net.conv(net.image(), 8, name="first")
    scales = net.const([1, 1, 2, 2], np.float32, name="scales")
    y = net.op("Resize", net.op("Mul", x, net.scalar(0.5)), net.const([], np.float32), scales, mode="nearest")
    net.close(net.reshape(y, 0, 8, 144))
    model = prepared(net.proto())
    loud = perturbed(model, 0)
    changed = {n for n, t in model.weights.items() if not np.array_equal(t.array(), loud.weights[n].array())}
    assert changed == {"first.weight", "first.bias", "last.weight", "last.bias"}
    assert all(loud.weights[n].array().dtype == t.array().dtype for n, t in model.weights.items())
    assert whole(loud).graph.node == whole(model).graph.node


def test_free_dimensions_are_bound_and_reported() -> None:
    model = prepared(transformer())
    plan = planned(model)
    verdict = verify(model, apply(model, plan), plan)
    assert verdict.ok
    assert set(verdict.dims) == {"batch", "time"}
    with pytest.raises(UserError, match="no free dimension 'width'"):
        verify(model, apply(model, plan), plan, dims={"width": 3})


def test_a_model_that_makes_no_numbers() -> None:
    n = Net()
    x = n.op("Log", n.op("Neg", n.op("Exp", n.image("batch", 3, 6, 6)), name="minus"), name="log")
    n.output(n.conv(n.op("Relu", n.conv(x, 8, name="first")), 2, name="last"))
    model = prepared(n.proto())
    coupling = analyze(model)
    plan = select(coupling, score(model, coupling, "l1"), ratio=0.5)
    found = verify(model, apply(model, plan), plan)
    assert not found.ok
    assert found.notes[0] == (
        "the masked original gives no numbers: NaN or Inf, first in 'log.out', which node 'log' makes"
    )
