"""What a student is told: the teacher's outputs, and what it computes on the way where the two can be compared."""

from __future__ import annotations

import pytest
import torch
from small_models import image_model
from torch import nn
from torch.nn import functional

import onnxprune
from onnxprune.errors import UserError
from onnxprune.training.distil import Common, Distilled, chosen, comparable, unlikeness
from onnxprune.training.feed import Batch
from onnxprune.training.losses import Classification
from onnxprune.training.taps import in_common, tapped

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn((6, 5), generator=GENERATOR)
BATCH = Batch({"x": X}, torch.tensor([0, 1, 2, 0, 1, 2]), 6)
STUDENT = {"y": torch.randn((6, 3), generator=GENERATOR)}


class Teacher(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * 2


def test_logits_are_compared_at_a_temperature_and_beside_labels() -> None:
    t = 4.0
    p, q = (functional.softmax(each / t, 1) for each in (X[:, :3] * 2, STUDENT["y"]))
    expected = t * t * float((p * (p / q).log()).sum(1).mean())
    alone = Distilled(Teacher(), ("y",))
    assert float(alone(STUDENT, BATCH)) == pytest.approx(expected, rel=1e-5)
    assert float(alone({"y": X[:, :3] * 2}, BATCH)) == pytest.approx(0, abs=1e-6)
    both = Distilled(Teacher(), ("y",), loss=Classification(), alpha=0.7)
    labels = float(functional.cross_entropy(STUDENT["y"], torch.tensor([0, 1, 2, 0, 1, 2])))
    assert float(both(STUDENT, BATCH)) == pytest.approx(0.7 * expected + 0.3 * labels, rel=1e-5)
    with pytest.raises(UserError, match=r"the teacher's output is \[6, 3\], the model's \[6, 4\]"):
        alone({"y": torch.zeros(6, 4)}, BATCH)


def test_what_fills_up_a_batch_is_not_compared() -> None:
    part = Distilled(Teacher(), ("y",))(STUDENT, Batch({"x": X}, None, 4))
    rows = Distilled(Teacher(), ("y",))({"y": STUDENT["y"][:4]}, Batch({"x": X[:4]}, None, 4))
    assert float(part) == pytest.approx(float(rows))


def test_tensors_of_one_shape_are_compared_by_distance_and_cut_ones_by_energy() -> None:
    x = torch.randn((2, 4, 3, 3), generator=GENERATOR)
    assert float(unlikeness(x, x)) == 0
    assert float(unlikeness(2 * x, x)) == pytest.approx(1.0)
    wide = torch.cat([x, x], 1)
    assert float(unlikeness(x, wide)) == pytest.approx(0, abs=1e-6)  # the same map, twice as wide
    assert float(unlikeness(3 * x, wide)) == pytest.approx(0, abs=1e-6)  # as unit vectors
    here, there = torch.zeros(1, 2, 1, 2), torch.zeros(1, 3, 1, 2)
    here[..., 0], there[..., 1] = 1, 1
    assert float(unlikeness(here, there)) == pytest.approx(2.0)  # at right angles


def test_which_shapes_compare() -> None:
    assert comparable(("n", 4, 8, 8), ("n", 9, 8, 8))
    assert comparable(("n", 4, 8, 8), ("n", 4, 8, 8))
    assert not comparable(("n", 4, 8, 8), ("n", 9, 4, 8))
    assert not comparable(("n", 4, 1, 1), ("n", 9, 1, 1))
    assert not comparable(("n", 4), ("n", 4))
    assert not comparable(("m", 4, 8), ("n", 4, 8))


def commons(*items: tuple[str, int, int, bool]) -> list[Common]:
    return [Common(name, ("n", c, s, s), ("n", 16, s, s), shortcut) for name, c, s, shortcut in items]


def test_the_last_of_every_resolution_is_chosen() -> None:
    plain = commons(("a", 8, 32, False), ("b", 8, 32, False), ("c", 8, 16, False), ("d", 8, 8, False))
    assert chosen(plain, ()) == ("b", "c", "d")
    assert chosen(plain, ("[ac]",)) == ("a", "c")
    shortcuts = commons(("a", 8, 32, True), ("b", 8, 32, False), ("c", 8, 16, True), ("d", 8, 8, False))
    assert chosen(shortcuts, ()) == ("a", "c")
    tokens = [Common(f"t{i}", ("n", 7, 64), ("n", 7, 64), True) for i in range(12)]
    assert chosen(tokens, ()) == ("t2", "t5", "t8", "t11")
    assert chosen(tokens[:2], ()) == ("t0", "t1")
    with pytest.raises(UserError, match="'z\\*' names no tensor"):
        chosen(plain, ("z*",))
    with pytest.raises(UserError, match="no tensor in common"):
        chosen([], ())


def test_pruning_keeps_the_names_that_are_compared() -> None:
    original = image_model(width=8)
    coupling = onnxprune.analyze(original)
    pruned = onnxprune.apply(original, onnxprune.select(coupling, onnxprune.score(original, coupling), ratio=0.5))
    found = {item.name: item for item in in_common(pruned, original)}
    assert found["sum"] == Common("sum", ("batch", 4, 8, 8), ("batch", 8, 8, 8), True)
    assert found["act2"].student == ("batch", 8, 8, 8)
    assert "pooled" not in chosen(list(found.values()), ())  # a direction of one number says nothing
    assert chosen(list(found.values()), ())[-1] == "act3"
    module = onnxprune.to_torch(tapped(original, ["act2", "sum"]))
    logits, act2, total = module(torch.zeros(2, 3, 8, 8))
    assert (logits.shape, act2.shape, total.shape) == ((2, 10), (2, 16, 8, 8), (2, 8, 8, 8))
    assert not bool(logits.isnan().any())


def test_behind_a_softmax_the_loss_is_that_of_the_logits() -> None:
    logits, labels = STUDENT["y"], BATCH.labels
    assert labels is not None
    chances = {"y": logits.softmax(1)}
    plain = float(functional.cross_entropy(logits, labels))
    assert float(Classification()(chances, BATCH)) == pytest.approx(plain, rel=1e-5)
    assert float(Classification()(STUDENT, BATCH)) == pytest.approx(plain, rel=1e-6)

    class Ends(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x[:, :3] * 2).softmax(1)

    of_logits = float(Distilled(Teacher(), ("y",))(STUDENT, BATCH))
    assert float(Distilled(Ends(), ("y",))(chances, BATCH)) == pytest.approx(of_logits, rel=1e-4)


def test_outputs_are_not_among_the_tensors_on_the_way() -> None:
    """They would be named twice, and every output would lose its name."""
    original = image_model()
    ends = {value.name for value in original.graph.output}
    common = [item.name for item in in_common(original, original)]
    assert common
    assert not ends.intersection(common)
