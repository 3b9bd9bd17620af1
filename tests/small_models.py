"""Small models to train: one that reads images, with BatchNormalization and a shortcut."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.normalize import normalize


def image_model(size: int | None = 8, channels: int = 3, classes: int = 10, width: int = 8, seed: int = 0) -> Model:
    """conv1 and conv3 are coupled by the shortcut (`width` units), conv2 stands alone (twice as many)."""
    rng = np.random.default_rng(seed)
    found: list[TensorProto] = []

    def weight(name: str, *shape: int) -> str:
        values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        found.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def even(name: str, count: int, value: float) -> str:
        found.append(numpy_helper.from_array(np.full(count, value, np.float32), name))
        return name

    def conv_bn(x: str, name: str, n: int, inputs: int, stride: int = 1) -> list[onnx.NodeProto]:
        w = weight(f"{name}.weight", n, inputs, 3, 3)
        conv = helper.make_node("Conv", [x, w], [f"{name}_out"], name=name, pads=[1] * 4, strides=[stride] * 2)
        parts = [even(f"{name}.bn.{part}", n, value) for part, value in _PARTS]
        return [
            conv,
            helper.make_node("BatchNormalization", [f"{name}_out", *parts], [f"{name}_bn"], name=f"{name}_bn"),
        ]

    nodes = [
        *conv_bn("image", "conv1", width, channels),
        helper.make_node("Relu", ["conv1_bn"], ["act1"], name="relu1"),
        *conv_bn("act1", "conv2", 2 * width, width),
        helper.make_node("Relu", ["conv2_bn"], ["act2"], name="relu2"),
        *conv_bn("act2", "conv3", width, 2 * width),
        helper.make_node("Add", ["conv3_bn", "act1"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["act3"], name="relu3"),
        helper.make_node("GlobalAveragePool", ["act3"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node(
            "Gemm", ["flat", weight("head.weight", classes, width), even("head.bias", classes, 0.0)], ["logits"],
            name="head", transB=1,
        ),
    ]  # fmt: skip
    side = ["h", "w"] if size is None else [size, size]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", channels, *side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return normalize(Model(proto, {item.name: Tensor.of_proto(item) for item in found}))


_PARTS = (("scale", 1.0), ("shift", 0.0), ("mean", 0.0), ("var", 1.0))
