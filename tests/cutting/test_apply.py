"""Applying a plan: to the model it was made for, to its finetuned sibling, and to nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from building import F, Net
from nets import DIMS, NETS, mobilenet, resnet, transformer
from oracle import prepared, prune, whole

from onnxprune.analysis.analyze import analyze
from onnxprune.cutting import plan_json
from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Cut, Plan, SlotRef
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.scoring.scores import score
from onnxprune.selection.select import select


def planned(model: Model, ratio: float = 0.5, criterion: str = "l2") -> Plan:
    coupling = analyze(model)
    return select(coupling, score(model, coupling, criterion), ratio=ratio)


def finetuned(model: Model, seed: int = 1) -> Model:
    """The same network with other weights."""
    rng = np.random.default_rng(seed)
    return model.replace(
        weights={
            name: Tensor.of(name, (t.array() * rng.uniform(0.5, 1.5, t.shape)).astype(np.float32))
            if t.dtype == F
            else t
            for name, t in model.weights.items()
        }
    )


@pytest.mark.parametrize("name", NETS)
def test_a_plan_from_json_fits_the_finetuned_sibling(name: str) -> None:
    model = prepared(NETS[name]())
    plan = plan_json.from_json(plan_json.to_json(planned(model)))
    prune(finetuned(model), plan, DIMS.get(name))


def test_only_kept_positions_remain_in_their_order() -> None:
    model = prepared(resnet())
    plan = planned(model)
    pruned = apply(model, plan)
    removed = plan.removed()
    for name, tensor in model.weights.items():
        array = tensor.array()
        for axis in range(array.ndim):
            array = np.delete(array, removed.get((name, axis), []), axis)
        assert np.array_equal(pruned.weights[name].array(), array)


def test_the_original_is_left_as_it_was() -> None:
    model = prepared(mobilenet())
    before = model.proto.SerializeToString(deterministic=True)
    arrays = {name: tensor.array().copy() for name, tensor in model.weights.items()}
    apply(model, planned(model))
    assert model.proto.SerializeToString(deterministic=True) == before
    assert all(np.array_equal(model.weights[name].array(), array) for name, array in arrays.items())


def test_names_and_metadata_stay() -> None:
    proto = mobilenet()
    proto.metadata_props.add(key="author", value="somebody")
    proto.producer_name, proto.doc_string = "a tool", "a text"
    model = prepared(proto)
    pruned = apply(model, planned(model))
    assert [x.name for x in pruned.graph.input] == [x.name for x in model.graph.input]
    assert [x.name for x in pruned.graph.output] == [x.name for x in model.graph.output]
    assert [(x.name, x.op_type, list(x.output)) for x in pruned.graph.node] == [
        (x.name, x.op_type, list(x.output)) for x in model.graph.node
    ]
    assert list(pruned.weights) == list(model.weights)
    assert [(x.key, x.value) for x in pruned.proto.metadata_props] == [("author", "somebody")]
    assert (pruned.proto.producer_name, pruned.proto.doc_string) == ("a tool", "a text")


@pytest.mark.parametrize("name", NETS)
def test_shapes_of_intermediate_tensors_are_written_down_anew(name: str) -> None:
    model = prepared(NETS[name]())
    plan = planned(model)
    pruned = apply(model, plan)
    shapes = {
        x.name: [d.dim_value or d.dim_param for d in x.type.tensor_type.shape.dim] for x in pruned.graph.value_info
    }
    assert set(shapes) == {out for node in pruned.graph.node for out in node.output} - {
        x.name for x in model.graph.output
    }
    inferred = onnx.shape_inference.infer_shapes(whole(model)).graph.value_info
    for item in inferred:
        for axis, dim in enumerate(item.type.tensor_type.shape.dim):
            lost = len(plan.removed().get((item.name, axis), ()))
            if lost:
                assert shapes[item.name][axis] == dim.dim_value - lost


def test_a_plan_that_cuts_nothing_changes_nothing() -> None:
    model = prepared(resnet())
    pruned = apply(model, Plan(()))
    del pruned.proto.graph.value_info[:]
    assert whole(pruned).SerializeToString(deterministic=True) == whole(model).SerializeToString(deterministic=True)


def test_a_plan_for_another_model_names_the_first_mismatch() -> None:
    plan = planned(prepared(resnet()))
    with pytest.raises(UserError, match="does not fit this model: 'stem.conv.weight:0' .* no tensor has that name"):
        apply(prepared(mobilenet()), plan)


def test_a_plan_for_another_width_names_the_axis() -> None:
    def net(width: int) -> Model:
        n = Net()
        n.close(n.op("Relu", n.conv(n.image(), width, name="first")))
        return prepared(n.proto())

    with pytest.raises(UserError, match="'first.weight:0' .* has length 10 here and 8 in the plan"):
        apply(net(10), planned(net(8)))


def test_a_plan_by_hand_needs_no_analysis() -> None:
    """A plan is data: whoever knows what is coupled may write one."""
    n = Net()
    n.close(n.op("Relu", n.conv(n.image(), 8, name="first")))
    slots = [
        SlotRef("first.weight", 0, 8, "out"),
        SlotRef("first.bias", 0, 8, "shift"),
        SlotRef("last.weight", 1, 8, "in"),
        SlotRef("first.out", 1, 8),
    ]
    pruned = prune(prepared(n.proto()), Plan((Cut("mine", (1, 5), tuple(slots)),)))
    assert pruned.weights["first.weight"].shape == (6, 3, 1, 1)


def test_pruning_twice_is_pruning_more() -> None:
    """The result is a model like any other."""
    model = prepared(resnet())
    once = prune(model, planned(model, 0.3))
    twice = prune(once, planned(once, 0.3))
    assert twice.weights["stem.conv.weight"].shape[0] == 8 - 2 - 2
    assert [group.name for group in analyze(twice).groups] == [group.name for group in analyze(model).groups]


def test_weights_are_cut_lazily() -> None:
    """Nothing is read before somebody asks for it."""
    model = prepared(mobilenet())
    pruned = apply(model, planned(model))
    tensor = pruned.weights["expand.weight"]
    assert tensor.shape == (6, 3, 1, 1)
    assert tensor.keep
    assert tensor.source is model.weights["expand.weight"].source


def test_unknown_lengths_stay_unknown() -> None:
    model = prepared(transformer())
    pruned = prune(model, planned(model), DIMS["transformer"])
    shape = next(x for x in pruned.graph.value_info if x.name == "up.add.out").type.tensor_type.shape
    assert [d.dim_param or d.dim_value for d in shape.dim] == ["batch", "time", 10]
