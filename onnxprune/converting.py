"""One conversion by onnxruntime's tools, as a program: `python -m onnxprune.converting '{"form": "fp16", ...}'`.

It ends with code 0 when the target is written, with code 3 when the last line that it printed says why it is not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
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
            with np.load(job["feeds"]) as arrays:
                feeds = {name: arrays[f"input{index}"] for index, name in enumerate(job["inputs"])}
            to_int8(source, target, feeds if job["form"] == "static" else None, symmetric=job["symmetric"])
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


def to_int8(source: Path, target: Path, feeds: Mapping[str, Any] | None, *, symmetric: bool) -> None:
    """Static with the ranges that occur on `feeds`, dynamic without."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.registry import IntegerOpsRegistry
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class OneInput(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        """What the tool asks for its example inputs."""

        def __init__(self) -> None:
            self.left = [feeds]

        def get_next(self) -> Mapping[str, Any] | None:
            return self.left.pop() if self.left else None

    if _is_quantised(source):
        raise UserError("it is quantised already")
    prepared = source.with_suffix(".prepared.onnx")
    try:
        # fuses batch norms, and looks for shapes; its symbolic way of doing that needs sympy
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        if feeds is None:
            # a dynamic convolution is several times slower than the float one
            quantize_dynamic(prepared, target, op_types_to_quantize=sorted(IntegerOpsRegistry.keys() - {"Conv"}))
        else:
            quantize_static(
                prepared,
                target,
                OneInput(),
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"ActivationSymmetric": symmetric},
            )
    finally:
        prepared.unlink(missing_ok=True)
    if not _is_quantised(target):
        raise UserError("onnxruntime's quantiser finds nothing in it that it could quantise")


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
