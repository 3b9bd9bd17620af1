"""Small networks of well-known kinds, written in code: for goldens and whatever needs a network as people have it."""

from __future__ import annotations

from collections.abc import Callable

import onnx
from building import Net


def _block(n: Net, x: str, name: str, out: int, *, relu: bool = True) -> str:
    y = n.norm(n.conv(x, out, 3, bias=False, name=f"{name}.conv"), name=f"{name}.bn")
    return n.op("Relu", y, name=f"{name}.relu") if relu else y


def resnet() -> onnx.ModelProto:
    """Two stages of one block each, the second with a projection."""
    n = Net()
    x = _block(n, n.image(2, 3, 8, 8), "stem", 8)
    y = _block(n, _block(n, x, "layer1.0", 6), "layer1.1", 8, relu=False)
    x = n.op("Relu", n.op("Add", y, x, name="layer1.add"), name="layer1.out")
    y = _block(n, _block(n, x, "layer2.0", 10), "layer2.1", 12, relu=False)
    x = n.op("Relu", n.op("Add", y, n.conv(x, 12, name="layer2.down"), name="layer2.add"), name="layer2.out")
    x = n.op("Flatten", n.op("GlobalAveragePool", x, name="pool"), name="flatten")
    n.output(n.gemm(x, 5, name="fc"))
    return n.proto()


def mobilenet() -> onnx.ModelProto:
    """An inverted residual with squeeze and excitation."""
    n = Net()
    x = n.op("HardSwish", n.conv(n.image(2, 3, 8, 8), 6, 3, name="stem"), name="stem.act")
    y = n.op("HardSwish", n.conv(x, 12, name="expand"), name="expand.act")
    y = n.op("HardSwish", n.conv(y, 12, 3, group=12, name="dw"), name="dw.act")
    gate = n.op("Relu", n.conv(n.op("GlobalAveragePool", y, name="se.pool"), 4, name="se.down"), name="se.relu")
    y = n.op("Mul", y, n.op("HardSigmoid", n.conv(gate, 12, name="se.up"), name="se.gate"), name="se.mul")
    x = n.op("Add", x, n.conv(y, 6, name="project"), name="add")
    n.output(n.conv(x, 5, name="head"))
    return n.proto()


def densenet() -> onnx.ModelProto:
    n = Net()
    x = n.conv(n.image(2, 3, 8, 8), 6, 3, name="stem")
    for i in range(2):
        y = n.op("Relu", n.norm(x, name=f"dense{i}.bn"), name=f"dense{i}.relu")
        x = n.op("Concat", x, n.conv(y, 4, 3, name=f"dense{i}.conv"), axis=1, name=f"dense{i}.cat")
    x = n.conv(n.op("Relu", n.norm(x, name="transition.bn"), name="transition.relu"), 8, name="transition.conv")
    n.output(n.conv(n.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], name="pool"), 5, name="head"))
    return n.proto()


def shufflenet() -> onnx.ModelProto:
    """Split, one half through a depthwise block, concatenate, shuffle."""
    n = Net()
    x = n.conv(n.image(2, 3, 8, 8), 8, 3, name="stem")
    left, right = n.ops("Split", 2, x, n.ints(4, 4), axis=1, name="split")
    right = n.conv(n.op("Relu", n.conv(right, 4, name="branch.0"), name="branch.relu"), 4, 3, group=4, name="branch.dw")
    right = n.conv(right, 4, name="branch.1")
    x = n.op("Concat", left, right, axis=1, name="cat")
    y = n.op("Reshape", x, n.ints(2, 2, 4, 8, 8), name="shuffle.split")
    y = n.op("Transpose", y, perm=[0, 2, 1, 3, 4], name="shuffle.swap")
    y = n.op("Reshape", y, n.ints(2, 8, 8, 8), name="shuffle.merge")
    n.output(n.conv(y, 5, name="head"))
    return n.proto()


def transformer() -> onnx.ModelProto:
    """One encoder block of 4 heads, batch and time not known."""
    n = Net()
    x = n.linear(n.input("x", "batch", "time", 5), 12, name="embed")
    q, k, v = (
        n.op("Transpose", n.reshape(n.linear(x, 12, name=name), 0, 0, 4, 3), perm=perm, name=f"{name}.heads")
        for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3]))
    )
    scores = n.op("Mul", n.op("MatMul", q, k, name="scores"), n.scalar(0.577), name="scale")
    y = n.op("MatMul", n.op("Softmax", scores, axis=-1, name="softmax"), v, name="mix")
    y = n.reshape(n.op("Transpose", y, perm=[0, 2, 1, 3], name="merge"), 0, 0, 12)
    x = n.op("Add", x, n.linear(y, 12, name="o"), name="add1")
    y = n.op("LayerNormalization", x, n.positive(12, name="ln.weight"), n.weight(12, name="ln.bias"), name="ln")
    y = n.linear(n.op("Relu", n.linear(y, 20, name="up"), name="up.relu"), 12, name="down")
    n.output(n.linear(n.op("Add", x, y, name="add2"), 7, name="head"))
    return n.proto()


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet": resnet,
    "mobilenet": mobilenet,
    "densenet": densenet,
    "shufflenet": shufflenet,
    "transformer": transformer,
}
DIMS = {"transformer": {"batch": 2, "time": 3}}
