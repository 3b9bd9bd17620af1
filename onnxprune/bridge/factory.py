"""A torch module that a function of the user's returns, written as an ONNX file: what is exported is named in text.

factory   mine.models:small          called without arguments
inputs    [NAME:][TYPE:]SIZES        1,3,224,224 or ids:int64:1,time=128; the first axis is free, as any with a name
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.bridge import export, need_torch
from onnxprune.errors import UserError
from onnxprune.text.functions import function_of, theirs

if TYPE_CHECKING:
    from onnxprune.bridge.exporting import Exported

DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool")
_SIZE = re.compile(r"(?:([A-Za-z_]\w*)=)?([1-9]\d{0,8})")
SEED = 0
"""Of the numbers in the examples."""


@dataclass(frozen=True)
class Input:
    """An example of one input: `[NAME:][TYPE:]SIZES`."""

    name: str
    """Empty: the next parameter of forward."""
    dtype: str
    sizes: tuple[int, ...]
    free: tuple[tuple[int, str], ...]
    """Axes that were given a name, and the name."""


def input_of(text: str) -> Input:
    """What a text says of an input."""
    *words, sizes = text.split(":")
    found = [_SIZE.fullmatch(part) for part in sizes.split(",")]
    if len(words) > 2 or not all(found):
        raise UserError(f"{text!r} is no input, such as 1,3,224,224 or ids:int64:1,time=128")
    dtype = words[-1] if words and words[-1] in DTYPES else None
    name = "".join(words[:-1] if dtype else words)
    if dtype is None and len(words) > 1:
        raise UserError(f"{words[-1]!r} in {text!r} is no type (there are: {', '.join(DTYPES)})")
    pairs = [match.groups() for match in found if match is not None]
    free = tuple((axis, called) for axis, (called, _) in enumerate(pairs) if called)
    return Input(name, dtype or "float32", tuple(int(size) for _, size in pairs), free)


def check_inputs(inputs: Sequence[Input]) -> None:
    """All by name, or all by their places."""
    named = [bool(each.name) for each in inputs]
    if not named:
        raise UserError("give an example of each input, such as 1,3,224,224")
    if any(named) and not all(named):
        raise UserError("give all inputs a name, or none")


def export_factory(
    factory: str,
    inputs: Sequence[Input],
    path: str | os.PathLike[str],
    *,
    static_batch: bool = False,
    fold_batchnorm: bool = False,
    opset: int | None = None,
    on_doing: Callable[[str], None] | None = None,
) -> Exported:
    """Call the function and export what it returns."""
    check_inputs(inputs)
    need_torch()
    doing = on_doing or (lambda _: None)
    doing("building the module")
    module = _module(factory)
    names, examples = _examples(module, inputs)
    free = {
        name: {**({} if static_batch else {0: "batch"}), **dict(each.free)}
        for name, each in zip(names, inputs, strict=True)
    }
    doing("exporting")
    given: Any = dict(zip(names, examples, strict=True)) if inputs[0].name else tuple(examples)
    return export(module, given, path, keep_batchnorm=not fold_batchnorm, dynamic=free, opset=opset)


def _module(name: str) -> Any:
    import torch

    factory = function_of(name)
    with theirs(name):
        module = factory()
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"{name!r} returns {type(module).__name__}: it must return a torch.nn.Module")
    return module


def _examples(module: Any, inputs: Sequence[Input]) -> tuple[list[str], list[Any]]:
    """Names of forward's parameters, and tensors of these sizes; small integers, which any table has."""
    import torch

    parameters = [*inspect.signature(module.forward).parameters]
    names = [each.name or (parameters[i] if i < len(parameters) else f"input{i}") for i, each in enumerate(inputs)]
    generator = torch.Generator().manual_seed(SEED)
    tensors = []
    for each in inputs:
        dtype = getattr(torch, each.dtype)
        if dtype.is_floating_point:
            tensors.append(torch.randn(each.sizes, generator=generator).to(dtype))
        else:
            tensors.append(torch.randint(0, 2, each.sizes, generator=generator).to(dtype))
    return names, tensors
