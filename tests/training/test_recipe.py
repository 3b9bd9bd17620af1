"""A recipe refuses what makes no sense, by name, and reads the same from a file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from onnxprune.errors import UserError
from onnxprune.training.rates import rate_at
from onnxprune.training.recipe import OPTIONS, Recipe, read_recipe


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("batch", 1.5),
        ("optimizer", "adam"),
        ("rate", 0),
        ("rate", float("nan")),
        ("warmup", 1.0),
        ("ema", -0.1),
        ("alpha", 1.1),
        ("clip", float("inf")),
        ("sparsity", "l1"),
        ("task", "no colon"),
        ("features_at", ["a"]),
        ("flip", 1),
        ("weight_decay", -1),
    ],
)
def test_wrong_options_are_named(option: str, value: object) -> None:
    with pytest.raises(UserError, match=option):
        Recipe(**{option: value})  # type: ignore[arg-type]


def test_defaults_depend_on_the_optimizer() -> None:
    assert (Recipe().peak, Recipe().decay) == (0.01, 1e-4)
    assert (Recipe(optimizer="adamw").peak, Recipe(optimizer="adamw").decay) == (5e-4, 1e-2)
    assert (Recipe(rate=0.3).peak, Recipe(weight_decay=0.0).decay) == (0.3, 0.0)


def test_a_file_sets_options(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('epochs = 3\nrate = 0.1\nflip = true\nfeatures_at = ["layer*"]\n')
    assert read_recipe(file) == {"epochs": 3, "rate": 0.1, "flip": True, "features_at": ("layer*",)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch = 3", "unknown key 'epoch'; did you mean 'epochs'"),
        ("epochs = 'x'", "epochs must be a whole number"),
        ("epochs =", "not valid TOML"),
        ("flip = 1", "flip must be true or false"),
    ],
)
def test_a_wrong_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        read_recipe(file)
    assert str(file) in str(caught.value)


def test_every_option_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs/finetuning.md").read_text("utf-8")
    assert [name for name in OPTIONS if f"`{name}`" not in text] == []
    assert len(OPTIONS) == len(fields(Recipe)) > 25


def test_the_rate_rises_and_falls() -> None:
    recipe = Recipe(rate=0.4, warmup=0.1)
    rates = [rate_at(recipe, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert rates[10] == 0.4
    assert rates[55] == pytest.approx(0.2)  # in the middle of the cosine
    assert 0 < rates[-1] < 0.001
    assert rates[10:] == sorted(set(rates[10:]), reverse=True)
    assert {rate_at(Recipe(schedule="constant", warmup=0.0, rate=0.4), step, 100) for step in range(100)} == {0.4}
