"""Small ONNX graphs, written as they read: every method adds a node and returns the name of what it makes.

    net = Net()
    x = net.input("x", 2, 3, 8, 8)
    y = net.op("Relu", net.conv(x, 8, name="first"))
    net.output(net.conv(y, 4))
    proto = net.proto()

Weights are seeded and never alike, so that nothing in a graph is zero or equal by accident. Where an operator takes
sizes or axes as attributes in old opsets and as inputs in new ones, the method knows which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F = TensorProto.FLOAT
I64 = TensorProto.INT64
MS = "com.microsoft"
OPSETS = (7, 9, 10, 11, 13, 18, 21)
"""Where the forms of operators changed."""

Dim = int | str | None
IMAGE = (2, 3, 6, 6)


class Net:
    """A graph being written."""

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.opset, self.rng = opset, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[str] = []
        self.weights: dict[str, TensorProto] = {}
        self.functions: list[onnx.FunctionProto] = []
        self.made: dict[str, Sequence[Dim]] = {}
        self._count = 0

    def fresh(self, stem: str) -> str:
        self._count += 1
        return f"{stem.lower()}{self._count}"

    # Leaves

    def input(self, name: str, *shape: Dim, dtype: int = F) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def image(self, *shape: Dim) -> str:
        """The network's picture."""
        return self.input("image", *(shape or IMAGE))

    def weight(self, *shape: int, name: str = "", scale: float | None = None) -> str:
        """Random numbers: matrices that keep magnitudes, vectors away from zero."""
        if scale is None:
            scale = (2 / max(1, int(np.prod(shape[1:])))) ** 0.5
        signs = self.rng.choice([-1.0, 1.0], shape)
        return self.const((signs * self.rng.uniform(0.3, 1.2, shape) * scale).astype(np.float32), name=name)

    def positive(self, *shape: int, name: str = "") -> str:
        return self.const(self.rng.uniform(0.5, 1.5, shape).astype(np.float32), name=name)

    def const(self, value: Any, dtype: Any = None, name: str = "") -> str:
        name = name or self.fresh("c")
        self.weights[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def scalar(self, value: float) -> str:
        return self.const(value, np.float32)

    # Nodes

    def op(self, kind: str, *inputs: str, name: str = "", made: Sequence[Dim] | None = None, **attributes: Any) -> str:
        """A node of one output; `made` is its shape where shape inference does not know the operator."""
        output = self.ops(kind, 1, *inputs, name=name, **attributes)[0]
        if made is not None:
            self.made[output] = made
        return output

    def ops(self, kind: str, count: int, *inputs: str, name: str = "", **attributes: Any) -> list[str]:
        """A node of several outputs; `com.microsoft::Gelu` names a domain."""
        domain, _, short = kind.rpartition("::")
        name = name or self.fresh(short)
        outputs = [f"{name}.out" if not i else f"{name}.out{i}" for i in range(count)]
        attributes = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(short, list(inputs), outputs, name=name, domain=domain, **attributes))
        return outputs

    def conv(
        self, x: str, out: int, k: int = 1, *, group: int = 1, bias: bool = True, name: str = "", **more: Any
    ) -> str:
        """Same padding; as many spatial dimensions as `x` has."""
        name = name or self.fresh("conv")
        dims, channels = len(self.shape(x)) - 2, self.size(x, 1)
        w = self.weight(out, channels // group, *[k] * dims, name=f"{name}.weight")
        b = [self.weight(out, name=f"{name}.bias", scale=0.5)] if bias else []
        more = {"pads": [k // 2] * 2 * dims} | more
        return self.op("Conv", x, w, *b, name=name, group=group if group > 1 else None, kernel_shape=[k] * dims, **more)

    def deconv(self, x: str, out: int, k: int = 2, *, group: int = 1, bias: bool = True, name: str = "") -> str:
        name = name or self.fresh("deconv")
        dims, channels = len(self.shape(x)) - 2, self.size(x, 1)
        w = self.weight(channels, out // group, *[k] * dims, name=f"{name}.weight")
        b = [self.weight(out, name=f"{name}.bias", scale=0.5)] if bias else []
        return self.op("ConvTranspose", x, w, *b, name=name, group=group, strides=[k] * dims, kernel_shape=[k] * dims)

    def gemm(self, x: str, out: int, *, name: str = "") -> str:
        """As PyTorch exports nn.Linear on matrices."""
        name = name or self.fresh("gemm")
        w = self.weight(out, self.size(x, 1), name=f"{name}.weight")
        return self.op("Gemm", x, w, self.weight(out, name=f"{name}.bias", scale=0.5), name=name, transB=1)

    def linear(self, x: str, out: int, *, name: str = "") -> str:
        """As PyTorch exports nn.Linear on anything else."""
        name = name or self.fresh("linear")
        inner = self.size(x, -1)
        w = self.weight(inner, out, name=f"{name}.weight", scale=(2 / inner) ** 0.5)
        product = self.op("MatMul", x, w, name=name)
        return self.op("Add", self.weight(out, name=f"{name}.bias", scale=0.5), product, name=f"{name}.add")

    def norm(self, x: str, *, name: str = "") -> str:
        name = name or self.fresh("bn")
        n = self.size(x, 1)
        scale, mean = self.positive(n, name=f"{name}.weight"), self.weight(n, name=f"{name}.mean", scale=0.3)
        shift, var = self.weight(n, name=f"{name}.bias", scale=0.3), self.positive(n, name=f"{name}.var")
        return self.op("BatchNormalization", x, scale, shift, mean, var, name=name)

    # Forms that depend on the opset

    def _with(self, since: int, kind: str, x: str, key: str, values: Sequence[int] | None, **more: Any) -> str:
        """An operator whose integers became an input with opset `since`."""
        if values is None:
            return self.op(kind, x, **more)
        if self.opset >= since:
            return self.op(kind, x, self.ints(*values), **more)
        return self.op(kind, x, **{key: list(values)}, **more)

    def squeeze(self, x: str, *axes: int) -> str:
        return self._with(13, "Squeeze", x, "axes", axes or None)

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self._with(13, "Unsqueeze", x, "axes", axes)

    def reduce(self, kind: str, x: str, *axes: int, **more: Any) -> str:
        return self._with(13 if kind == "ReduceSum" else 18, kind, x, "axes", axes or None, **more)

    def split(self, x: str, axis: int, *sizes: int) -> list[str]:
        if self.opset >= 13:
            return self.ops("Split", len(sizes), x, self.ints(*sizes), axis=axis)
        return self.ops("Split", len(sizes), x, axis=axis, split=list(sizes))

    def slice(self, x: str, start: int, end: int, axis: int = 1, step: int = 1) -> str:
        if self.opset < 10:
            return self.op("Slice", x, starts=[start], ends=[end], axes=[axis])
        steps = [self.ints(step)] if step != 1 else []
        return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis), *steps)

    def pad(self, x: str, pads: Sequence[int], mode: str = "constant", value: float | None = None) -> str:
        if self.opset < 11:
            return self.op("Pad", x, pads=list(pads), mode=mode, value=value)
        return self.op("Pad", x, self.ints(*pads), *([self.scalar(value)] if value is not None else []), mode=mode)

    def reshape(self, x: str, *sizes: int, **more: Any) -> str:
        return self.op("Reshape", x, self.ints(*sizes), **more)

    def transpose(self, x: str, *perm: int) -> str:
        return self.op("Transpose", x, perm=list(perm) or None)

    def length(self, x: str, axis: int) -> str:
        """Shape -> Gather -> Unsqueeze, as exporters write a size."""
        return self.unsqueeze(self.op("Gather", self.op("Shape", x), self.const(axis, np.int64), axis=0), 0)

    def concat(self, *xs: str, axis: int) -> str:
        return self.op("Concat", *xs, axis=axis)

    # Ends

    def close(self, y: str, out: int = 5) -> str:
        """A layer that reads the channels of `y`, and the end of the graph."""
        if len(self.shape(y)) > 2:
            return self.output(self.conv(y, out, name="last"))
        return self.output(
            self.gemm(y, out, name="last") if len(self.shape(y)) == 2 else self.linear(y, out, name="last")
        )

    def output(self, *names: str) -> str:
        self.outputs += names
        return names[-1]

    # What is known

    def shape(self, name: str) -> list[Dim]:
        """As shape inference finds it in what is written so far."""
        if name in self.weights:
            return list(self.weights[name].dims)
        inferred = onnx.shape_inference.infer_shapes(self._proto([]), data_prop=True).graph
        for item in (*inferred.input, *inferred.value_info):
            if item.name == name and item.type.tensor_type.HasField("shape"):
                dims = item.type.tensor_type.shape.dim
                return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims]
        raise LookupError(f"no shape for {name!r}")

    def size(self, name: str, axis: int) -> int:
        size = self.shape(name)[axis]
        assert isinstance(size, int), f"axis {axis} of {name} has no known length"
        return size

    def proto(self) -> onnx.ModelProto:
        """The model; its outputs' types come from shape inference."""
        inferred = onnx.shape_inference.infer_shapes(self._proto(self.outputs), data_prop=True)
        del inferred.graph.value_info[:]
        return inferred

    def _proto(self, outputs: Sequence[str]) -> onnx.ModelProto:
        ends = [
            helper.make_tensor_value_info(x, F, self.made[x]) if x in self.made else onnx.ValueInfoProto(name=x)
            for x in outputs
        ]
        graph = helper.make_graph(self.nodes, "net", self.inputs, ends, list(self.weights.values()))
        domains = {node.domain for node in self.nodes if node.domain}
        graph.value_info.extend(
            helper.make_tensor_value_info(x, F, dims) for x, dims in self.made.items() if x not in outputs
        )
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(name, 1) for name in sorted(domains))]
        return helper.make_model(graph, opset_imports=opsets, functions=self.functions, ir_version=8)
