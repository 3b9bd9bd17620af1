"""Pressed channels are channels that nobody misses."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from small_models import image_model

import onnxprune
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.training.recipe import Recipe
from onnxprune.training.sparsity import amount_at, group_lasso, scale_lasso
from onnxprune.training.tune import Tuned

RATIO = 0.375
TRAINING, HELD_OUT = (f"onnxprune.models_zoo.digits:{name}" for name in ("training", "held_out"))


def test_the_amount_is_what_sgd_would_pull() -> None:
    assert amount_at(Recipe(sparsity_weight=0.01, momentum=0.9), 0.5) == pytest.approx(0.05)
    assert amount_at(Recipe(sparsity_weight=0.01, optimizer="adamw"), 0.5) == pytest.approx(0.005)


def test_all_weights_of_a_unit_shrink_by_one_factor() -> None:
    model = image_model(width=4)
    module = onnxprune.to_torch(model)
    parameters = dict(module.named_parameters())
    before = {name: tensor.detach().clone() for name, tensor in parameters.items()}
    coupling = onnxprune.analyze(model)
    inner = next(group for group in coupling.groups if group.size == 8)
    slots = {(slot.tensor, slot.axis, slot.role) for slot in inner.weights if slot.tensor in parameters}
    assert slots == {
        ("conv2.weight", 0, "out"), ("conv2.bn.scale", 0, "scale"), ("conv2.bn.shift", 0, "shift"),
        ("conv3.weight", 1, "in"),
    }  # fmt: skip
    only = onnxprune.Coupling((inner,), (), {})
    group_lasso(parameters, only).press(0.01)
    rows = [
        before["conv2.weight"].flatten(1),
        before["conv2.bn.scale"][:, None],
        before["conv2.bn.shift"][:, None],
        before["conv3.weight"].transpose(0, 1).flatten(1),
    ]
    lengths = torch.cat(rows, 1).norm(dim=1)
    factors = 1 - 0.01 * np.sqrt(4 * 9 + 2 + 4 * 9) / lengths
    assert 0.8 < float(factors.min()) < float(factors.max()) < 1
    assert torch.allclose(parameters["conv2.weight"], before["conv2.weight"] * factors[:, None, None, None])
    assert torch.allclose(parameters["conv2.bn.scale"], before["conv2.bn.scale"] * factors)
    assert torch.allclose(parameters["conv3.weight"], before["conv3.weight"] * factors[None, :, None, None])
    assert torch.equal(parameters["conv1.weight"], before["conv1.weight"])
    group_lasso(parameters, only).press(1e3)
    assert not parameters["conv3.weight"].any()  # no further than to zero


def test_what_has_nothing_to_press_on_says_so() -> None:
    model = image_model()
    with pytest.raises(UserError, match="none whose weights train"):
        group_lasso({}, onnxprune.analyze(model))
    with pytest.raises(UserError, match="with BatchNormalization kept, or use group-lasso"):
        scale_lasso({}, ["conv1.bn.scale"])


def gray_model() -> Model:
    return image_model(channels=1, width=16)


@cache
def trained(sparsity: str | None, weight: float = 1e-3) -> Tuned:
    model = gray_model()
    recipe = Recipe(epochs=10, rate=0.1, sparsity=sparsity, sparsity_weight=weight)
    data = onnxprune.open_data(TRAINING, model)
    return onnxprune.finetune(model, data, recipe=recipe)


def scales(model: Model) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.abs(np.concatenate([w.array() for name, w in model.weights.items() if name.endswith("bn.scale")]))


def accuracy_when_cut(model: Model, criterion: str) -> tuple[float, float]:
    """Before and after some of the inner channels go."""
    coupling = onnxprune.analyze(model)
    scores = onnxprune.score(model, coupling, criterion)
    plan = onnxprune.select(coupling, scores, ratio=RATIO, include=["conv2"])
    cut = onnxprune.apply(model, plan)
    val = onnxprune.open_data(HELD_OUT, model)
    found = [onnxprune.evaluate(each, val).top1 for each in (model, cut)]
    assert found[0] is not None
    assert found[1] is not None
    return found[0], found[1]


def test_pressed_scales_are_small_and_cutting_them_costs_little() -> None:
    plain, sparse = trained(None).model, trained("bn-l1", 3e-2).model
    small = [float((scales(model) < 0.05).mean()) for model in (plain, sparse)]
    assert small[0] < 0.05
    assert 0.2 < small[1] < 0.95
    inner = np.abs(sparse.weights["conv2.bn.scale"].array())
    assert inner.min() == 0.0  # a proximal step reaches zero
    whole, cut = accuracy_when_cut(plain, "bn_scale")
    sparse_whole, sparse_cut = accuracy_when_cut(sparse, "bn_scale")
    assert sparse_whole > whole - 0.05
    assert sparse_whole - sparse_cut < (whole - cut) / 2


def test_pressed_groups_go_together() -> None:
    plain, sparse = trained(None).model, trained("group-lasso", 1.3e-3).model
    whole, cut = accuracy_when_cut(plain, "l2")
    sparse_whole, sparse_cut = accuracy_when_cut(sparse, "l2")
    assert sparse_whole > whole - 0.05
    assert sparse_whole - sparse_cut < (whole - cut) / 2
