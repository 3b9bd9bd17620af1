"""Every architecture of the coverage table, by name. Importing this imports no library that it builds with."""

from __future__ import annotations

from architectures import huggingface
from architectures.case import Architecture

FAMILIES = (huggingface,)


def architectures() -> dict[str, Architecture]:
    """All of them, in the order in which they run."""
    found: dict[str, Architecture] = {}
    for family in FAMILIES:
        for item in family.ARCHITECTURES:
            if item.name in found:
                raise ValueError(f"two architectures are called {item.name}")
            found[item.name] = item
    return found
