"""Which widths the runtime likes, found by timing: `round_to="auto"`.

Kernels work on blocks of channels (8 or 16 with most vector units), and a width that does not fill them costs as much
as the next block, or falls back to a slower kernel. Which widths these are depends on the processor, the runtime's
version, the type and the number of threads, so it is measured: chains of four equal layers, at every width from 4 to
96. For a block b, every width from 32 on is rounded to the nearest multiple of b, and

    cost(b) = mean over the widths of time(nearest multiple of b)

The mean width is the same for all b, so the costs compare. The block is the smallest whose cost is within 3 % of the
least: bigger ones would only make the choice coarser. A group narrower than two blocks takes the largest smaller block
with which about half of it takes at least a tenth less time than the whole; it stays whole where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxprune.analysis.coupling import Group
from onnxprune.files.model import Model
from onnxprune.machine.measured import Machine, remembered
from onnxprune.text.kinds import is_number
from onnxprune.timing.rounds import time_rounds

BLOCKS = (32, 16, 8, 4, 2, 1)
WIDTHS = range(4, 97)
WIDE = 32
"""Narrower layers are all overhead: they do not tell which block is best."""
NEAR = 1.03
"""A cost this close to the least is as good."""
PAYS = 0.9
"""A narrower layer pays where it takes less than this part of the time."""
SIDE, TOKENS = 14, 128
"""Of the images and sequences that the layers are timed on."""
LONG = 86400.0
"""Seconds: no small layer takes a day."""
LAYERS = 4
PASSES = 3
RUNS = 5
"""Of every width, in each of the passes; the fastest counts."""

CONVOLUTIONS = ("conv1x1", "conv3x3", "depthwise")
CONV = {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv", "BatchNormalization"}
_TYPES: Mapping[int, str] = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "float16"}
_INTEGER = {"QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul"}

Curve = Mapping[int, float]
"""Width -> time."""


@dataclass(frozen=True)
class Alignment:
    """What was measured, and what follows from it."""

    times: Mapping[str, Curve]
    """Kind of layer -> how long it takes at which width."""
    notes: tuple[str, ...] = ()
    """Of the file that the measurements are kept in."""

    @cached_property
    def conv(self) -> int:
        """The block for convolutions."""
        return max(best(self.times[kind]) for kind in CONVOLUTIONS)

    @cached_property
    def matmul(self) -> int:
        """The block for matrix products."""
        return best(self.times["matmul"])

    def __str__(self) -> str:
        return f"auto ({self.conv} for convolutions, {self.matmul} for matrix products)"

    def block(self, group: Group) -> int:
        """Of how many channels the group should keep a multiple; 0: it should stay whole.

        By the operators whose weights it cuts; of several kinds the wider block counts.
        """
        convolved = any(slot.op in CONV for slot in group.weights)
        multiplied = any(slot.op not in CONV and slot.role in ("out", "in") for slot in group.weights)
        wide = max(self.conv if convolved else 1, self.matmul if multiplied or not convolved else 1)
        kinds = CONVOLUTIONS if convolved else ("matmul",)
        width = max((slot.size for slot in group.weights if slot.role == "out"), default=group.size)
        if width >= 2 * wide:
            return wide
        return next((block for block in BLOCKS if block <= wide and self._pays(width, block, kinds)), 0)

    def _pays(self, width: int, block: int, kinds: Sequence[str]) -> bool:
        kept = max(block, (width // 2 + block // 2) // block * block)
        if kept >= width or kept not in WIDTHS or width not in WIDTHS:
            return False
        parts = [self.times[kind][kept] / self.times[kind][width] for kind in kinds]
        return sum(parts) / len(parts) <= PAYS


def measured(model: Model, *, threads: int = 1, provider: str = "CPUExecutionProvider") -> Alignment:
    """What this machine likes for models of this type; measured if it is not known yet, which takes seconds."""
    kind = type_of(model)
    machine = Machine.this(threads=threads, provider=provider)
    found = remembered(
        "alignment",
        machine,
        lambda: {layer: [*curve(layer, kind, threads, provider).items()] for layer in LAYER_KINDS},
        of=conditions(kind),
        valid=_valid,
    )
    curves = {layer: {int(width): float(time) for width, time in rows} for layer, rows in found.value.items()}
    return Alignment(curves, found.notes)


def conditions(kind: str) -> dict[str, Any]:
    """What the measurement depends on, besides the machine."""
    return {"type": kind, "widths": [WIDTHS.start, WIDTHS.stop]}


def best(times: Curve) -> int:
    """The smallest block with which layers are about as fast as with any."""
    costs = {block: cost(times, block) for block in BLOCKS}
    least = min(costs.values())
    return min(block for block in BLOCKS if costs[block] <= NEAR * least)


def cost(times: Curve, block: int) -> float:
    """The mean time of layers rounded to whole blocks; one in the middle between two counts half for each of them."""
    wide = [width / block for width in times if width >= WIDE]
    nearest = [math.floor(blocks + 0.5) for blocks in wide] + [math.ceil(blocks - 0.5) for blocks in wide]
    return float(np.mean([times[blocks * block] for blocks in nearest]))


def type_of(model: Model) -> str:
    """What most of its arithmetic is done in: float32, float16 or int8."""
    ops = {node.op_type for node in model.graph.node}
    if ops & _INTEGER or {"QuantizeLinear", "DequantizeLinear"} <= ops:
        return "int8"
    sizes: dict[str, int] = {}
    for weight in model.weights.values():
        kind = _TYPES.get(weight.dtype, "float32")
        sizes[kind] = sizes.get(kind, 0) + math.prod(weight.shape)
    return max(sizes, key=lambda kind: sizes[kind], default="float32")


def curve(layer: str, kind: str, threads: int, provider: str) -> dict[int, float]:
    """Time by width, the fastest of several runs at different moments."""
    calls = [_call(layer, width, kind, threads, provider) for width in WIDTHS]
    best = np.full(len(calls), np.inf)
    for _ in range(PASSES):
        rows = time_rounds(calls, runs=RUNS, warmup=1)
        best = np.minimum(best, rows.min(axis=0))
    return {width: float(time) for width, time in zip(WIDTHS, best, strict=True)}


def _valid(value: Any) -> bool:
    return set(value) == set(LAYER_KINDS) and all(
        [width for width, _ in rows] == list(WIDTHS) and all(is_number(time) and 0 < time < LONG for _, time in rows)
        for rows in value.values()
    )


def _call(layer: str, width: int, kind: str, threads: int, provider: str) -> Callable[[], object]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    options.add_session_config_entry("session.force_spinning_stop", "1")
    proto = _chain(layer, width, kind)
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=[provider])
    value = proto.graph.input[0].type.tensor_type
    shape = [dim.dim_value for dim in value.shape.dim]
    binding = session.io_binding()
    x = np.ones(shape, helper.tensor_dtype_to_np_dtype(value.elem_type))
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
    binding.bind_output("y")
    return lambda: session.run_with_iobinding(binding)


LAYER_KINDS: Mapping[str, Callable[[int], list[tuple[tuple[int, ...], int]]]] = {
    "conv1x1": lambda width: [((width, width, 1, 1), 1)],
    "conv3x3": lambda width: [((width, width, 3, 3), 1)],
    "depthwise": lambda width: [((width, 1, 3, 3), width), ((width, width, 1, 1), 1)],
    "matmul": lambda width: [((width, width), 1)],
}
"""What is chained: (shape of the weight, groups) of each product; two of them where one alone is never met."""


def _chain(layer: str, width: int, kind: str) -> onnx.ModelProto:
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    x = "x"
    for index, (shape, group) in enumerate(LAYER_KINDS[layer](width) * LAYERS):
        for node in _layer(weights, x, index, shape, group, kind):
            nodes.append(node)
            x = node.output[0]
    nodes.append(helper.make_node("Identity", [x], ["y"]))
    shape = (1, TOKENS, width) if layer == "matmul" else (1, width, SIDE, SIDE)
    dtype = {"float16": TensorProto.FLOAT16, "int8": TensorProto.UINT8}.get(kind, TensorProto.FLOAT)
    given, made = helper.make_tensor_value_info("x", dtype, shape), helper.make_tensor_value_info("y", dtype, None)
    graph = helper.make_graph(nodes, layer, [given], [made], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _layer(
    weights: list[onnx.TensorProto], x: str, index: int, shape: tuple[int, ...], group: int, kind: str
) -> list[onnx.NodeProto]:
    """One product and, on floats, a Relu behind it."""

    def weight(name: str, values: NDArray[Any] | np.generic) -> str:
        weights.append(numpy_helper.from_array(np.asarray(values), f"{name}{index}"))
        return f"{name}{index}"

    def product(operator: str, inputs: list[str]) -> onnx.NodeProto:
        made = [f"p{index}"]
        if len(shape) == 2:
            return helper.make_node(operator, inputs, made)
        return helper.make_node(operator, inputs, made, group=group, pads=[shape[2] // 2] * 4)

    values = np.random.default_rng(index).standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
    name = "Conv" if len(shape) > 2 else "MatMul"
    if kind == "int8":
        scale, zero = weight("s", np.float32(0.02)), weight("z", np.uint8(128))
        w = weight("w", (values * 64).clip(-127, 127).astype(np.int8))
        side = [weight("t", np.float32(0.02)), weight("o", np.int8(0))]
        return [product(f"QLinear{name}", [x, scale, zero, w, *side, scale, zero])]
    dtype = np.float16 if kind == "float16" else np.float32
    made = product(name, [x, weight("w", values.astype(dtype))])
    return [made, helper.make_node("Relu", made.output, [f"r{index}"])]
