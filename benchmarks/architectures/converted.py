"""What people do to an exported file: quantise it, halve its precision, fuse it, ask for an older or newer opset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from architectures import blocks, detectors, huggingface, images, sequences, torchvision_models
from architectures.case import Architecture, Feeds


class _Samples:
    """Calibration data: the example, and the same a little louder."""

    def __init__(self, feeds: Feeds) -> None:
        self.samples = iter([feeds, {k: v * np.float32(1.2) if v.dtype.kind == "f" else v for k, v in feeds.items()}])

    def get_next(self) -> Feeds | None:
        return next(self.samples, None)


def _static(path: Path, feeds: Feeds, *, qdq: bool = True, per_channel: bool = True, **options: Any) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(_Samples, CalibrationDataReader):  # type: ignore[misc]  # untyped base
        pass

    prepared = _prepared(path)
    quantize_static(
        str(prepared),
        str(path),
        Reader(feeds),
        quant_format=QuantFormat.QDQ if qdq else QuantFormat.QOperator,
        per_channel=per_channel,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
        extra_options=options,
    )
    prepared.unlink()


def _prepared(path: Path) -> Path:
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_name(f"{path.name}.prepared")
    model = onnx.load(str(path))
    del model.graph.value_info[:]  # dynamo's have names for sizes that onnxruntime's inference stumbles over
    onnx.save(model, str(path))
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    return prepared


def _dynamic(path: Path, feeds: Feeds, **options: Any) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    prepared = _prepared(path)
    quantize_dynamic(str(prepared), str(path), weight_type=QuantType.QInt8, **options)
    prepared.unlink()


def _four_bits(path: Path, feeds: Feeds) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(str(path)), block_size=16, is_symmetric=False)
    quantizer.process()
    onnx.save(quantizer.model.model, str(path))


def _half(path: Path, feeds: Feeds, *, keep_io: bool = True) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(str(path)), keep_io_types=keep_io), str(path))


def _fused(path: Path, feeds: Feeds, *, kind: str) -> None:
    from onnxruntime.transformers import optimizer

    model = optimizer.optimize_model(str(path), model_type=kind, num_heads=4, hidden_size=64, opt_level=0)
    model.save_model_to_file(str(path))


def _optimised(path: Path, feeds: Feeds) -> None:
    """As onnxruntime saves it after its own optimisations: fused operators of its own domain."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    written = path.with_name(f"{path.name}.optimised")
    options.optimized_model_filepath = str(written)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    written.replace(path)


_KNOWN = {
    item.name: item
    for family in (blocks, detectors, huggingface, images, sequences, torchvision_models)
    for item in family.ARCHITECTURES
}
_KNOWN["resnet_small"] = Architecture(
    "resnet_small",
    partial(torchvision_models._short_resnet, 64, layers=[1, 1, 1, 1], bottleneck=False, width_per_group=64),
    "converted",
)

Change = dict[str, Any]


def _made() -> Iterator[Architecture]:
    finishes: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
        "qdq": (_static, ("resnet_small", "mobilenet_v3_small", "block_se", "yolov8_like", "unet_resized", "lstm")),
        "qdq_per_tensor": (partial(_static, per_channel=False), ("resnet_small", "shufflenet_v2_x0_5")),
        "qlinear": (partial(_static, qdq=False), ("resnet_small", "mobilenet_v2")),
        "int8_dynamic": (_dynamic, ("resnet_small", "bert", "lstm", "hf_vit")),
        "four_bits": (_four_bits, ("llama_gqa", "hf_vit")),
        "half": (_half, ("resnet_small", "bert", "unet_resized")),
        "half_io": (partial(_half, keep_io=False), ("mobilenet_v3_small", "hf_vit")),
        "fused_bert": (partial(_fused, kind="bert"), ("bert", "roberta", "hf_vit")),
        "fused_gpt2": (partial(_fused, kind="gpt2"), ("gpt2", "llama_gqa")),
        "optimised": (_optimised, ("resnet_small", "bert", "hf_convnext", "yolov5_like")),
    }
    for label, (finish, names) in finishes.items():
        for name in names:
            yield replace(_KNOWN[name], name=f"{label}_{name}", family="converted", finish=finish)
    changes: dict[str, tuple[Change, tuple[str, ...]]] = {
        "opset9": ({"opset": 9, "exporters": ("legacy",)}, ("resnet_small", "unet_transposed", "lstm")),
        "opset13": ({"opset": 13, "exporters": ("legacy",)}, ("hf_vit", "bert", "yolov5_like")),
        "opset23": ({"opset": 23, "exporters": ("dynamo",)}, ("bert", "llama_gqa", "qwen3", "hf_vit", "whisper")),
        "raw": ({"optimize": False}, ("resnet_small", "bert", "convnext_short", "shufflenet_v2_x0_5", "swin_short")),
    }
    for label, (change, names) in changes.items():
        for name in names:
            yield replace(_KNOWN[name], name=f"{label}_{name}", family="converted", **change)


ARCHITECTURES = tuple(_made())
