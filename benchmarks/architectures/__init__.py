"""Every architecture of the coverage table, by name. Nothing is imported before they are asked for: torch is slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from architectures.case import Architecture

FAMILIES = (
    "huggingface",
    "sequences",
    "images",
    "blocks",
    "detectors",
    "sharing",
    "torchvision_models",
    "converted",
    "timm_models",
)


def architectures() -> dict[str, Architecture]:
    """All of them, in the order in which they run."""
    from importlib import import_module

    found: dict[str, Architecture] = {}
    for family in FAMILIES:
        for item in import_module(f"architectures.{family}").ARCHITECTURES:
            if item.name in found:
                raise ValueError(f"two architectures are called {item.name}")
            found[item.name] = item
    return found
