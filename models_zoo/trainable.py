"""Which networks of the zoo are trained, and with which numbers: fixed beforehand, not chosen by held-out data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from onnxprune.errors import UserError
from onnxprune.models_zoo.registry import network
from onnxprune.text.names import suggest

SIDE = 32
"""Of the pictures that all of them take."""


@dataclass(frozen=True)
class Recipe:
    """What differs from network to network."""

    epochs: int
    optimizer: Literal["sgd", "adamw"] = "sgd"
    rate: float = 0.2
    """The highest, in the course of the cycle."""
    weight_decay: float = 5e-4
    batch: int = 128


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        **{name: Recipe(10) for name in ("resnet20", "resnet32", "resnet56", "slim_vgg", "slim_mobilenet_v2")},
        **{f"vgg{depth}_cifar": Recipe(10, rate=0.1) for depth in (11, 13, 16, 19)},
        "vit_cifar": Recipe(10, "adamw", rate=2e-3, weight_decay=0.05),
    }
)


def recipe(name: str) -> Recipe:
    """Of the network of this name."""
    network(name)
    if name not in RECIPES:
        raise UserError(f"there is no recipe to train {name!r}{suggest(name, RECIPES)} (only: {', '.join(RECIPES)})")
    return RECIPES[name]
