"""Trained tensors go back into the graph that they came from: values change, and nothing else.

A weight whose bits did not change stays the very bytes of the file. Which initializer a tensor belongs to is said by
its key in the state dict, so any module does whose keys are the initializers' names.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from onnxprune.bridge import weights, which_train
from onnxprune.bridge.translate import Origin, origin_of
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.text.names import suggest


def write(module: nn.Module, onto: Model) -> Model:
    """The normalised model with the module's tensors in place of its own."""
    inner = unwrapped(module)
    origin = origin_of(inner)
    state = _by_name(inner.state_dict(), origin)
    _check_names(state, onto)
    changed = {name: _changed(onto.weights[name], state[name]) for name in state if name in onto.weights}
    found = {name: tensor for name, tensor in changed.items() if tensor is not None}
    return onto.replace(weights={**onto.weights, **found})


def unwrapped(module: nn.Module) -> nn.Module:
    """Without what torch.compile and DistributedDataParallel put around it."""
    while True:
        if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
            module = module.module
        elif hasattr(module, "_orig_mod"):
            inner: nn.Module = module._orig_mod  # type: ignore[assignment]  # what torch.compile wraps
            module = inner
        else:
            return module


def _by_name(state: Mapping[str, torch.Tensor], origin: Origin | None) -> dict[str, torch.Tensor]:
    names = {key: name for name, key in origin.keys.items()} if origin is not None else {}
    if origin is not None:  # constants of bodies are not the model's
        return {names[key]: tensor for key, tensor in state.items() if key in names}
    return dict(state)


def _check_names(state: Mapping[str, torch.Tensor], onto: Model) -> None:
    for name, tensor in state.items():
        if name not in onto.weights and tensor.is_floating_point():  # counters and positions are no weights
            raise UserError(
                f"the module's tensor {name!r} is no initializer of the model{suggest(name, onto.weights)}; "
                f"write to the model that the module was made from"
            )
    for role in which_train.roles(onto):
        # a convolution without a bias gets one of zeros from some exporters
        if role.trains and role.name not in state and onto.weights[role.name].array().any():
            raise UserError(
                f"the model's weight {role.name!r} is missing in the module; its state dict must hold every weight "
                f"that trains, under the initializers' names"
            )


def _changed(weight: Tensor, tensor: torch.Tensor) -> Tensor | None:
    """The weight with new values, None where they are the old ones."""
    if tuple(tensor.shape) != weight.shape:
        raise UserError(
            f"the module's tensor {weight.name!r} has shape {list(tensor.shape)}, the model's has "
            f"{list(weight.shape)}; write to the model that the module was made from"
        )
    old, new = weight.array(), weights.to_array(tensor, weight.dtype)
    if old.dtype == new.dtype and np.ascontiguousarray(old).tobytes() == np.ascontiguousarray(new).tobytes():
        return None
    if weight.dtype in weights.FLOATS and not _finite(new) and _finite(old):
        raise UserError(f"the trained weight {weight.name!r} holds NaN or infinity; go back to an earlier checkpoint")
    return Tensor(weight.name, weight.dtype, weight.shape, new, weight.shape, extra=weight.extra)


def _finite(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bool:
    return bool(np.isfinite(np.asarray(array, np.float64)).all())
