"""The first export of a torch module: BatchNormalization and the names of all parameters are kept.

    torch.export ─► ONNX, not optimised ─► arithmetic on constants done, weights left alone ─► compared ─► file

torch's own optimiser would merge BatchNormalization into convolutions, rename their weights and fold transposes into
the matrices of linear layers. Only what computes sizes and axes is folded here. An axis of length 1 in an example would
be taken for one that is always 1, so free axes are examples of length 2 at least; and the model is compared with the
module on another batch size as well, because a batch size that `forward` has written into it shows nowhere else.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onnxprune.bridge.check import TOLERANCE, distance, evaluating
from onnxprune.errors import UserError, VerificationError
from onnxprune.execution.runtime import run, session
from onnxprune.files import store
from onnxprune.files.model import Model
from onnxprune.files.replacing import check_writable

BATCH = "batch"
SILENT = 1e-6
HALF_TOLERANCE = 2e-2
"""Where module and model round to half floats, each in its own order."""
_HALVES = (torch.float16, torch.bfloat16)

Free = Mapping[str, Mapping[int, str]]
"""For each input the axes whose length is left open, and what they are called."""


@dataclass(frozen=True, eq=False)
class Exported:
    """What was written."""

    model: Model
    error: float
    """The largest difference from the module's outputs, relative to their largest value."""
    renamed: tuple[str, ...]
    """Parameters and buffers that the file does not have under their names."""
    silent: bool = False
    """The module's outputs are next to nothing, so that comparing them says nothing."""


def export(
    module: nn.Module,
    inputs: Any,
    path: str | os.PathLike[str],
    *,
    keep_batchnorm: bool,
    dynamic: Free | None,
    opset: int | None,
) -> Exported:
    """Write the module as it computes in evaluation mode."""
    path = Path(path)
    check_writable(path)
    called = _called(module, inputs)
    free = _free(called, dynamic)
    examples = {name: _widened(tensor, free.get(name, {})) for name, tensor in called.items()}
    given = isinstance(inputs, Mapping)  # else by position
    with evaluating(module), tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
        program = _program(module, examples, free, given, opset, keep_batchnorm)
        if keep_batchnorm:
            tidy(program.model, set(module.state_dict()))
        program.save(str(Path(scratch, "model.onnx")))
        model = store.load(Path(scratch, "model.onnx"))
        if opset is not None and model.opset != opset:
            raise UserError(
                f"torch wrote opset {model.opset} instead of {opset}: leave the opset out, or take that one"
            )
        _check_free(model, free)
        sizes = [examples, {name: _longer(tensor, free.get(name, {})) for name, tensor in examples.items()}]
        found = [_compared(module, model, each, given) for each in sizes]
        store.save(model, path)
    error, loudest = max(gap for gap, _ in found), max(loud for _, loud in found)
    return Exported(store.load(path), error, _renamed(module, model), silent=loudest < SILENT)


def _called(module: nn.Module, inputs: Any) -> dict[str, torch.Tensor]:
    """Example inputs by the names of forward's parameters."""
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    parameters = list(inspect.signature(module.forward).parameters)
    if not isinstance(inputs, Mapping):
        names = [*parameters, *(f"input{i}" for i in range(len(parameters), len(inputs)))]
        inputs = dict(zip(names, inputs, strict=False))
    for name, value in inputs.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(f"example input {name!r} is no tensor: export takes tensors; give the rest a default value")
    if not inputs:
        raise UserError("give an example of each input of the module")
    return dict(inputs)


def _free(examples: Mapping[str, torch.Tensor], dynamic: Free | None) -> Free:
    if dynamic is None:
        return {name: {0: BATCH} for name, tensor in examples.items() if tensor.ndim}
    sizes: dict[str, tuple[str, int]] = {}
    for name, axes in dynamic.items():
        if name not in examples:
            raise UserError(f"there is no input {name!r} (there are: {', '.join(examples)})")
        for axis, called in axes.items():
            if not 0 <= axis < examples[name].ndim:
                raise UserError(f"input {name!r} has {examples[name].ndim} axes, so there is no axis {axis}")
            size = examples[name].shape[axis]
            other, there = sizes.setdefault(called, (name, size))
            if size != there:
                raise UserError(f"{called!r} is {there} in the example of {other!r} and {size} in that of {name!r}")
    return dynamic


def _widened(tensor: torch.Tensor, free: Mapping[int, str]) -> torch.Tensor:
    for axis in free:
        if tensor.shape[axis] == 1:
            tensor = tensor.repeat_interleave(2, axis)
    return tensor


def _longer(tensor: torch.Tensor, free: Mapping[int, str]) -> torch.Tensor:
    """With one sample more, where their number is free."""
    return torch.cat([tensor, tensor[:1]]) if 0 in free else tensor


def _program(
    module: nn.Module, examples: Mapping[str, torch.Tensor], free: Free, named: bool, opset: int | None, keep: bool
) -> Any:
    dims = {called: torch.export.Dim(called) for axes in free.values() for called in axes.values()}
    shapes = {name: {axis: dims[called] for axis, called in free.get(name, {}).items()} for name in examples}
    options: dict[str, Any] = {"dynamic_shapes": shapes if named else tuple(shapes.values())}
    if named:
        options["kwargs"] = dict(examples)
    try:
        with _quiet():
            return torch.onnx.export(
                module,
                () if named else tuple(examples.values()),
                dynamo=True,
                optimize=not keep,
                opset_version=opset,
                verbose=False,
                **options,
            )
    except Exception as error:
        raise UserError(f"torch cannot export the module: {_told(error)}") from error


def _check_free(model: Model, free: Free) -> None:
    """The exporter gives way where forward needs one length."""
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for axis, called in free.get(value.name, {}).items():
            if dims[axis].HasField("dim_value"):
                raise UserError(
                    f"forward can do with {dims[axis].dim_value} in axis {axis} of {value.name!r} alone, so {called!r} "
                    "cannot be free: mend forward, or fix that axis (--static-batch, dynamic={})"
                )


def _told(error: Exception) -> str:
    """What went wrong, in a line, and what to try."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    said = " ".join(str(cause).split())
    if "data-dependent" in said or "data dependent" in said:
        return f"forward decides by the values of tensors: use torch.where instead of `if` ({said[:160]})"
    if "specialized" in said or "Constraints violated" in said or "Dim(" in said:
        return f"an axis that should be free is fixed in forward: do not ask for it, --static-batch ({said[:160]})"
    if " not in VR[" in said:
        return f"forward can do with few lengths of an axis that should be free: --static-batch ({said[:160]})"
    if isinstance(cause, ModuleNotFoundError):
        return f"{said}: pip install 'onnxprune[torch]'"
    return f"{type(cause).__name__}: {said[:240]}; torch.export.export(module, inputs) alone shows where"


def tidy(graph_model: Any, names: set[str]) -> None:
    """Fold what computes sizes; a weight that the module names stays as it is."""
    from onnxscript import optimizer

    optimizer.fold_constants(
        graph_model,
        should_fold=lambda node: False if any(x is not None and x.name in names for x in node.inputs) else None,
    )
    for node in graph_model.graph:
        bias = node.inputs[2] if node.op_type.startswith("Conv") and len(node.inputs) > 2 else None
        value = bias.const_value if bias is not None and bias.name not in names else None
        if value is not None and not value.numpy().any():
            node.resize_inputs(2)  # a convolution without bias is written with one of zeros, which would train
    optimizer.remove_unused_nodes(graph_model)


def _compared(
    module: nn.Module, model: Model, examples: Mapping[str, torch.Tensor], named: bool
) -> tuple[float, float]:
    """The largest difference, and the largest value."""
    with torch.no_grad():
        made = module(**examples) if named else module(*examples.values())
    wanted = [leaf for leaf in torch.utils._pytree.tree_leaves(made) if isinstance(leaf, torch.Tensor)]
    inputs = [value.name for value in model.graph.input]
    feeds = {name: _array(tensor) for name, tensor in examples.items() if name in inputs}
    found = list(run(session(model, optimize=False), feeds).values())
    if len(found) != len(wanted):
        raise VerificationError(f"the module has {len(wanted)} outputs, the exported model {len(found)}")
    half = any(each.dtype in _HALVES for each in (*module.parameters(), *module.buffers()))
    worst = loudest = 0.0
    for output, there, tensor in zip(model.graph.output, found, wanted, strict=True):
        gap = distance(
            tensor.detach().cpu().float().numpy() if tensor.dtype in _HALVES else tensor.cpu().numpy(), there
        )
        worst = max(worst, gap)
        loudest = max(loudest, float(tensor.double().abs().nan_to_num().max()) if tensor.numel() else 0.0)
        if not gap <= (HALF_TOLERANCE if half else TOLERANCE):
            sizes = ", ".join(f"{name} {list(each.shape)}" for name, each in examples.items())
            raise VerificationError(
                f"the exported model differs from the module: output {output.name!r} by {gap:.2g} for inputs {sizes}; "
                "nothing was written (where one batch size agrees and another does not, forward fixes it)"
            )
    return worst, loudest


def _array(tensor: torch.Tensor) -> Any:
    tensor = tensor.detach().cpu()
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    import ml_dtypes

    return tensor.float().numpy().astype(ml_dtypes.bfloat16)


def _renamed(module: nn.Module, model: Model) -> tuple[str, ...]:
    kept = {id(tensor) for name, tensor in _tensors(module) if name in model.weights}
    return tuple(name for name, tensor in _tensors(module) if name not in model.weights and id(tensor) not in kept)


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers of floats, tied ones under each of their names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from ((name, each) for name, each in module.named_buffers(remove_duplicate=False) if each.is_floating_point())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and its doubts."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
