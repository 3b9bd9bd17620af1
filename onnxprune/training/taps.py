"""Tensors on the way become outputs: a model that also returns them is translated like any other.

Pruning keeps names, so a tensor of the original and the one of the same name in the pruned model are the same thing.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxprune.files.model import Model
from onnxprune.graph.probes import FLOATS
from onnxprune.graph.shapes import Shape, infer
from onnxprune.training.distil import Common


def in_common(student: Model, teacher: Model) -> list[Common]:
    """Tensors of floats of known rank that both models compute on the way, in the student's order."""
    shapes = (infer(student), infer(teacher))
    theirs = {name for node in teacher.graph.node for name in node.output} - {x.name for x in student.graph.output}
    made = {name for node in student.graph.node for name in node.output} | {x.name for x in student.graph.input}
    found = []
    for node in student.graph.node:
        for name in node.output:
            own, other = (_known(table.get(name)) for table in shapes)
            if name in theirs and own and other:
                shortcut = node.op_type == "Add" and all(x in made for x in node.input)
                found.append(Common(name, own, other, shortcut))
    return found


def tapped(model: Model, names: Sequence[str]) -> Model:
    """The model with these tensors as outputs, behind its own."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    shapes = infer(model)
    there = {value.name for value in proto.graph.output}
    for name in names:
        if name not in there:
            proto.graph.output.append(onnx.helper.make_tensor_value_info(name, shapes[name][0], shapes[name][1]))
    return model.replace(proto=proto)


def _known(shape: Shape | None) -> tuple[int | str | None, ...]:
    """With the batch left out of the comparison; empty: not known, or no floats."""
    if shape is None or shape[0] not in FLOATS or not shape[1] or any(d is None for d in shape[1][1:]):
        return ()
    return ("batch", *shape[1][1:])
