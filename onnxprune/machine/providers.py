"""What of onnxruntime runs a model: its execution providers, by name, as far as they are installed and start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from onnxprune.errors import UserError
from onnxprune.text.names import suggest

CPU = "CPUExecutionProvider"
EVERY = "all"
_REMOTE = {"AzureExecutionProvider"}
"""Computes nothing here: it asks a service on the network, and leaves all else to the CPU."""


def resolve_provider(name: str) -> str:
    """`cuda` or `CUDAExecutionProvider`, if this onnxruntime has it."""
    installed = available()
    for candidate in installed:
        if name.casefold() in (candidate.casefold(), short(candidate).casefold()):
            return candidate
    listed = ", ".join(installed)
    raise UserError(f"onnxruntime has no provider {name!r}{suggest(name, installed)}; installed: {listed}")


def resolve_providers(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that are meant, and those that `all` leaves out because they do not start on this machine."""
    if EVERY not in names:
        return [resolve_provider(name) for name in names], []
    if len(names) > 1:
        raise UserError("'all' stands for every provider that is installed: give it alone")
    local = [name for name in available() if name not in _REMOTE]
    started = [name for name in local if name == CPU or starts(name)]
    return started, [name for name in local if name not in started]


def with_cpu(provider: str) -> list[str]:
    """What a session is given: the CPU takes what the provider does not know."""
    return list(dict.fromkeys([provider, CPU]))


def short(provider: str) -> str:
    """`CUDA`."""
    return provider.removesuffix("ExecutionProvider")


def available() -> list[str]:
    """Those that this onnxruntime was built with."""
    import onnxruntime

    names: list[str] = onnxruntime.get_available_providers()
    return names


def starts(provider: str) -> bool:
    """Whether a session with it runs on it, which takes a driver and a device."""
    import onnxruntime

    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) {y = Relu(x)}'
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session: Any = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=with_cpu(provider))
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return False
    return bool(session.get_providers()[0] == provider)
