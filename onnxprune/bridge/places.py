"""Where in a module a weight lives: `layer1.0.conv1.weight` is `weight` of `conv1` of `0` of `layer1`.

So the keys of `state_dict()` are the names of the initializers. A name that torch cannot take, because a part is empty,
is a word of Python's or an attribute of every module, or is a tensor already (`a` and `a.b`), gets another key, and the
table of those is kept in the module.
"""

from __future__ import annotations

import keyword

import torch
from torch import fx, nn

_FORBIDDEN = frozenset("\"'\\\n\r{}")
_TAKEN = fx.GraphModule(nn.Module(), fx.Graph())


def place(root: nn.Module, name: str, tensor: torch.Tensor, *, parameter: bool, trains: bool = False) -> str:
    """Put a tensor where its name says, or elsewhere; the key that it got."""
    key = name if _free(root, name) else _spare(root, "weight")
    *path, leaf = key.split(".")
    module = root
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    if parameter:
        module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=trains))
    else:
        module.register_buffer(leaf, tensor)
    return key


def place_hidden(root: nn.Module, tensor: torch.Tensor) -> str:
    """A constant of the graph itself, which no state dict holds."""
    key = _spare(root, "constant")
    root.register_buffer(key, tensor, persistent=False)
    return key


def place_module(root: nn.Module, module: nn.Module, hint: str) -> str:
    """Under a name that no weight has."""
    key = _spare(root, hint.lower())
    root.add_module(key, module)
    return key


def _spare(root: nn.Module, stem: str) -> str:
    number = 0
    while hasattr(root, f"_{stem}_{number}"):
        number += 1
    return f"_{stem}_{number}"


def _free(root: nn.Module, name: str) -> bool:
    parts = name.split(".")
    if any(map(keyword.iskeyword, parts)):  # the code that fx writes would not compile
        return False
    if not all(parts) or _FORBIDDEN.intersection(name) or hasattr(_TAKEN, parts[0]) or parts[0].startswith("_"):
        return False
    module = root
    for part in parts[:-1]:
        if part in module._modules:
            module = module.get_submodule(part)
        elif hasattr(module, part):
            return False
        else:
            return not any(hasattr(_TAKEN, other) for other in parts)
    return not hasattr(module, parts[-1]) and not hasattr(nn.Module, parts[-1])
