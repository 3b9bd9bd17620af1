"""From a name to a network, and to its file. torch is imported when something is built, not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.errors import MissingExtra, UserError
from onnxprune.files.replacing import replacing, unwritable
from onnxprune.models_zoo.registry import network

if TYPE_CHECKING:
    from torch import nn

    from onnxprune.models_zoo.builders.built import Built


MOST = 1 << 63
"""What torch's generator takes."""


def require_torch() -> None:
    """Say what to install, where it is missing."""
    for name in ("torch", "onnxscript"):
        try:
            import_module(name)
        except ImportError:
            raise MissingExtra(f"to build networks, install {name}: pip install 'onnxprune[torch]'") from None


def write(built: Built, path: Path) -> None:
    """The network's file."""
    from onnxprune.models_zoo.exporting import export

    proto = export(built.module, built.inputs, built.outputs)
    try:
        with replacing([path]) as files:
            files[0].write(proto.SerializeToString())
    except OSError as error:
        raise unwritable(path, error) from None


def jitter(module: nn.Module) -> None:
    """Scales that are all one and shifts that are all zero tell no channel from another: make them differ."""
    import torch

    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.ndim == 1 and tensor.is_floating_point():
                tensor.mul_(1 + 0.2 * torch.randn_like(tensor).clamp(-2, 2)).add_(0.02 * torch.randn_like(tensor))


def build(name: str, sizes: Mapping[str, int] | None = None, *, seed: int = 0) -> Built:
    """The network with random weights, the same for the same seed."""
    found = network(name)
    arguments = found.sized(sizes or {})
    if not -MOST <= seed < MOST:
        raise UserError(f"a seed has at most 63 bits; {seed} has more")
    require_torch()
    import torch

    family, function = found.builder.split(".")
    make: Callable[..., Built] = getattr(import_module(f"onnxprune.models_zoo.builders.{family}"), function)
    try:
        if sizes:
            with torch.device("meta"), torch.no_grad():  # shapes without numbers tell at once whether it runs
                trial = make(**arguments)
                trial.module.eval()(*trial.inputs.values())
        torch.manual_seed(seed)
        built = make(**arguments)
    except (ValueError, ZeroDivisionError, RuntimeError) as error:
        said = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise UserError(f"{name} cannot be built with {said}: {' '.join(str(error).split())}") from None
    return built
