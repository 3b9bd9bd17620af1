"""One conversion by onnxruntime's tools, as a program: `python -m onnxprune.timing.converting '{"form": "fp16", ...}'`.

It ends with code 0 when the target is written, with code 3 when the last line that it printed says why it is not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.errors import UserError


def main(argument: str) -> int:
    """Do the job that the argument describes, and return the exit code."""
    job = json.loads(argument)
    source, target = Path(job["source"]), Path(job["target"])
    try:
        if job["form"] == "fp16":
            to_half(source, target)
        else:
            batches = _batches(job["feeds"], job["inputs"]) if job["form"] == "static" else None
            to_int8(source, target, batches, symmetric=job["symmetric"], per_channel=job["per_channel"])
    except Exception as error:  # noqa: BLE001  the tools raise whatever they come across
        sys.stdout.write(f"\n{_reason(error)}\n")
        return 3
    return 0


def to_half(source: Path, target: Path) -> None:
    """Floats inside become half floats; inputs and outputs stay."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    before = onnx.load(source)
    after = convert_float_to_float16(before, keep_io_types=True)
    if list(after.graph.node) == list(before.graph.node) and not _floats(before) - _floats(after):
        raise UserError("there is nothing in it that is float32")
    onnx.save(after, target)


def to_int8(
    source: Path,
    target: Path,
    batches: Iterator[Mapping[str, Any]] | None,
    *,
    symmetric: bool,
    per_channel: bool = False,
) -> None:
    """Static with the ranges that occur on the batches, dynamic without."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.registry import IntegerOpsRegistry
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        """What the tool asks for its example inputs."""

        def get_next(self) -> Mapping[str, Any] | None:
            return next(batches, None) if batches is not None else None

    if _is_quantised(source):
        raise UserError("it is quantised already")
    prepared = source.with_suffix(".prepared.onnx")
    try:
        # fuses batch norms, and looks for shapes; its symbolic way of doing that needs sympy
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        if batches is None:
            # a dynamic convolution is several times slower than the float one
            types = sorted(IntegerOpsRegistry.keys() - {"Conv"})
            quantize_dynamic(prepared, target, op_types_to_quantize=types, per_channel=per_channel)
        else:
            quantize_static(
                prepared,
                target,
                Batches(),
                per_channel=per_channel,
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"ActivationSymmetric": symmetric},
            )
    finally:
        prepared.unlink(missing_ok=True)
    if not _is_quantised(target):
        raise UserError("onnxruntime's quantiser finds nothing in it that it could quantise")


def _batches(files: Sequence[str], inputs: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    for file in files:
        with np.load(file) as arrays:
            yield {name: arrays[f"input{index}"] for index, name in enumerate(inputs)}


def _floats(proto: onnx.ModelProto) -> set[str]:
    return {item.name for item in proto.graph.initializer if item.data_type == onnx.TensorProto.FLOAT}


def _is_quantised(path: Path) -> bool:
    nodes = onnx.load(path, load_external_data=False).graph.node
    return any("Quantize" in node.op_type or node.op_type.startswith("QLinear") for node in nodes)


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())[:300]
    if isinstance(error, UserError):
        return said
    return f"onnxruntime's tool fails: {said or type(error).__name__}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
