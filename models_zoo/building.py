"""From a name to a network, and to its file. torch is imported when something is built, not before."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from onnxprune.errors import UserError
from onnxprune.models_zoo.registry import network

if TYPE_CHECKING:
    from onnxprune.models_zoo.builders.built import Built


def require_torch() -> None:
    """Say what to install, where it is missing."""
    for name in ("torch", "onnxscript"):
        try:
            import_module(name)
        except ImportError:
            raise UserError(f"to build networks, install {name}: pip install 'onnxprune[torch]'") from None


def build(name: str, sizes: Mapping[str, int] | None = None, *, seed: int = 0) -> Built:
    """The network with random weights, the same for the same seed."""
    found = network(name)
    arguments = found.sized(sizes or {})
    require_torch()
    import torch

    family, function = found.builder.split(".")
    torch.manual_seed(seed)
    try:
        built: Built = getattr(import_module(f"onnxprune.models_zoo.builders.{family}"), function)(**arguments)
    except (ValueError, ZeroDivisionError, RuntimeError) as error:
        said = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise UserError(f"{name} cannot be built with {said}: {' '.join(str(error).split())}") from None
    return built
