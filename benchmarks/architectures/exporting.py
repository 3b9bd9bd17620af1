"""A case becomes a file: drawn, run, exported, run again by onnxruntime and compared before it gets its name.

Where an exporter cannot keep all free dimensions free, or says so and the file does not run at other sizes, it is asked
for the batch alone, then for none: the answer says which were kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from architectures.case import Architecture, Case, positional, tensors
from architectures.weights import calibrate, draw

if TYPE_CHECKING:
    import torch

LEGACY_OPSET = 17
SEED = 20
ERROR = 1e-3
"""Beyond: torch and onnxruntime do not agree, which is the exporter's affair, and is said."""
RESPONSE = 1e-3
"""Below: two samples give the same answer."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    nodes: int
    size: int
    """Bytes."""
    dynamic: str
    """Free dimensions, as one text."""
    note: str
    """What is odd about it; empty: nothing."""


def export(architecture: Architecture, exporter: str, path: Path) -> Exported:
    """Build and write one file. Whatever goes wrong raises."""
    import torch

    warnings.filterwarnings("ignore")
    torch.manual_seed(SEED)
    torch.backends.mha.set_fastpath_enabled(False)  # a fused operator that has no ONNX form
    case = architecture.build(exporter)
    module = positional(case).eval()
    arguments = tuple(case.inputs.values())
    draw(case.network, case.quiet)
    calibrate(module, lambda: module(*arguments))
    kept = _write(architecture, case, module, arguments, exporter, path)
    if architecture.finish:
        architecture.finish(path, {name: value.numpy() for name, value in case.inputs.items()})
    with torch.no_grad():
        expected = tensors(module(*arguments))
    nodes, note = check(path, case, expected)
    free = sorted({name for axes in kept.values() for name in axes.values()})
    return Exported(nodes, path.stat().st_size, ",".join(free), note)


def _write(
    architecture: Architecture, case: Case, module: Any, arguments: tuple[torch.Tensor, ...], exporter: str, path: Path
) -> Mapping[str, Mapping[int, str]]:
    first: Exception | None = None
    for dynamic in _wishes(case.dynamic):
        try:
            if exporter == "legacy":
                _legacy(module, arguments, case, dynamic, path, architecture)
            else:
                _dynamo(module, arguments, case, dynamic, path, architecture)
            other_sizes(path, case, dynamic)
        except Exception as error:  # noqa: BLE001  exporters raise anything
            first = first or error
            continue
        return dynamic
    assert first is not None
    raise first


def _wishes(dynamic: Mapping[str, Mapping[int, str]]) -> Iterator[Mapping[str, Mapping[int, str]]]:
    yield dynamic
    batch = {name: {axis: free for axis, free in axes.items() if axis == 0} for name, axes in dynamic.items()}
    if batch != dynamic:
        yield batch
    if dynamic:
        yield {}


def other_sizes(path: Path, case: Case, dynamic: Mapping[str, Mapping[int, str]]) -> None:
    """Raise unless the file runs with one more sample, step or node, and on a picture of twice the height and width."""
    if not dynamic:
        return
    feeds = {}
    for name, value in case.inputs.items():
        array = value.numpy()
        for axis, free in dynamic.get(name, {}).items():
            size = array.shape[axis] * 2 if free in ("height", "width") else array.shape[axis] + 1
            array = np.take(array, np.arange(size) % array.shape[axis], axis)
        feeds[name] = array
    _run(path, feeds)


def _run(path: Path, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    half = {item.name: item.type == "tensor(float16)" for item in session.get_inputs()}
    taken = {name: value.astype(np.float16) if half[name] else value for name, value in feeds.items() if name in half}
    run_options = ort.RunOptions()
    run_options.log_severity_level = 4
    found = session.run(None, taken, run_options)
    return [np.asarray(out, np.float64) for out in found]


def _legacy(
    module: Any,
    arguments: tuple[torch.Tensor, ...],
    case: Case,
    dynamic: Mapping[str, Mapping[int, str]],
    path: Path,
    architecture: Architecture,
) -> None:
    import torch

    torch.onnx.export(
        module,
        arguments,
        str(path),
        dynamo=False,
        opset_version=architecture.opset or LEGACY_OPSET,
        do_constant_folding=architecture.optimize,
        input_names=list(case.inputs),
        dynamic_axes={name: dict(axes) for name, axes in dynamic.items()},
    )


def _dynamo(
    module: Any,
    arguments: tuple[torch.Tensor, ...],
    case: Case,
    dynamic: Mapping[str, Mapping[int, str]],
    path: Path,
    architecture: Architecture,
) -> None:
    import torch

    shapes = tuple(dict(dynamic[name]) if dynamic.get(name) else None for name in case.inputs)
    program = torch.onnx.export(
        module,
        arguments,
        dynamo=True,
        opset_version=architecture.opset,
        optimize=architecture.optimize,
        input_names=list(case.inputs),
        dynamic_shapes=(shapes,) if dynamic else None,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("the exporter returned nothing")
    program.save(str(path), external_data=False)


def check(path: Path, case: Case, expected: tuple[torch.Tensor, ...]) -> tuple[int, str]:
    """Run the file on the example: it must run, and what else is odd about it is said."""
    import onnx

    nodes = len(onnx.load(str(path), load_external_data=False).graph.node)
    found = _run(path, {name: value.numpy() for name, value in case.inputs.items()})
    return nodes, "; ".join(_oddities(found, [np.asarray(t.detach().double()) for t in expected]))


def _oddities(found: list[np.ndarray], expected: list[np.ndarray]) -> Iterator[str]:
    if any(not np.isfinite(out).all() for out in found):
        yield "output not finite"
        return
    if [out.shape for out in found] != [out.shape for out in expected]:
        yield "outputs differ in shape from torch"
        return
    error = max((_gap(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)
    if error > ERROR:
        yield f"differs from torch by {error:.1e}"
    batches = [out for out in found if out.ndim and out.shape[0] == 2]
    if batches and max(_gap(out[:1], out[1:]) for out in batches) < RESPONSE:
        yield "two samples give the same answer"


def _gap(found: np.ndarray, expected: np.ndarray) -> float:
    if not found.size:
        return 0.0
    return float(np.abs(found - expected).max()) / max(float(np.abs(expected).max()), 1e-30)
