"""The masked original: everything that a plan cuts reads as zero. It is what the pruned model must agree with.

The zero of a quantised weight is its zero point. Divisors, scales and variances (role `keep`) stay: nothing is ever
divided by what was masked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxprune.cutting.plan import Plan
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.dequantize import QUANTISED, Quantisation, quantisations
from onnxprune.graph.probes import FLOATS

Array = np.ndarray[Any, Any]


def mask(model: Model, plan: Plan) -> Model:
    """The original with the cut slices of every weight set to zero."""
    weights = dict(model.weights)
    stored: dict[str, Quantisation] | None = None
    for cut in plan.cuts:
        index = np.array(cut.index, np.int64)
        for slot in cut.slots:
            tensor = weights.get(slot.tensor)
            if tensor is None or slot.role == "keep":
                continue
            if tensor.dtype in FLOATS:
                weights[slot.tensor] = tensor.zero(slot.axis, index)
            elif slot.role or tensor.dtype in QUANTISED:
                stored = quantisations(model) if stored is None else stored
                weights[slot.tensor] = _filled(tensor, slot.axis, index, stored.get(slot.tensor))
    return model.replace(weights=weights)


def _filled(tensor: Tensor, axis: int, index: Array, stored: Quantisation | None) -> Tensor:
    """Bytes that hold several numbers have no zero of their own; the scales beside them become zero instead."""
    if stored is None or stored.bits or not stored.zero.any():
        return tensor.zero(axis, index)
    array = tensor.array().copy()
    where = (slice(None),) * axis + (index,)
    array[where] = np.broadcast_to(stored.zero, array.shape)[where]
    return Tensor.of(tensor.name, array)
