"""What can be saved, as terms in the widths: multiply-accumulates, parameters, activations; time is in `latency`."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx

from onnxprune.counting.cost import is_param
from onnxprune.counting.macs import macs
from onnxprune.counting.meter import Meter
from onnxprune.files.model import Model
from onnxprune.targets.grammar import parse
from onnxprune.targets.terms import Term, Terms, Widths, fitted

COSTS = ("macs", "activation", "params", "latency")
"""What importance may be divided by."""

_LIMITED = {"latency": "latency", "macs": "macs", "params": "params", "bytes": "params", "peak-memory": "activation"}
"""Kind of target -> the cost that it limits; the first that is asked for counts."""
_SAMPLES = 9
_RECURRENT = {"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"}


def limited_by(targets: Iterable[str]) -> str:
    """What importance is divided by, if it compares between groups: the cost that the targets limit, or `none`."""
    kinds = {target.kind for target in parse(targets)}
    return next((cost for kind, cost in _LIMITED.items() if kind in kinds), "none")


def terms_of(kind: str, model: Model, meter: Meter, widths: Widths) -> Terms:
    """Everything but time, which has to be measured."""
    if kind == "params":
        return Terms(widths, _params(meter))
    return Terms(widths, _macs(model, meter, widths) if kind == "macs" else _activation(model, meter))


def _params(meter: Meter) -> list[Term]:
    weights = [weight for weight in meter.weights.values() if is_param(weight.dtype, weight.shape)]
    return [Term(w.name, None, w.name, (0.0, 0.0, float(math.prod(w.shape)), 0.0)) for w in weights]


def _activation(model: Model, meter: Meter) -> list[Term]:
    """Elements that the nodes which multiply write: what group Fisher calls memory."""
    terms = []
    for node in model.graph.node:
        made = node.output[0] if node.output else ""
        if made in meter.shapes and macs(node, meter.shapes):
            terms.append(Term(node.name or made, None, made, (0.0, 0.0, float(math.prod(meter.shapes[made])), 0.0)))
    return terms


def _macs(model: Model, meter: Meter, widths: Widths) -> list[Term]:
    """The formulas as functions of two tensors: exact, unless three lengths of one product change at once."""
    rng = np.random.default_rng(0)
    counts = [{}, *(meter.random_counts(rng) for _ in range(_SAMPLES - 1))]
    samples = [(widths.ratios(widths.array(each)), meter.after(each)) for each in counts]
    terms = []
    for node in model.graph.node:
        if not macs(node, meter.shapes):
            continue
        values = np.array([float(macs(node, shapes) or 0) for _, shapes in samples])
        ends = _ends(node, model, meter)
        u, v = (np.array([ratios[widths.index(name)] for ratios, _ in samples]) for name in ends)
        terms.append(Term(node.name or node.output[0], *ends, fitted(u, v, values)))
    return terms


def _ends(node: onnx.NodeProto, model: Model, meter: Meter) -> tuple[str | None, str | None]:
    """What a node reads and writes; of a recurrent layer its two weights, whose products are added."""
    if node.op_type in _RECURRENT:
        return node.input[1], node.input[2]
    reads = (name for name in node.input if name in meter.shapes and name not in model.weights)
    makes = (name for name in node.output if name in meter.shapes)
    return next(reads, None), next(makes, None)
