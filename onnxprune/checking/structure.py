"""What can be said of a pruned model without running it: its interface, its weights' shapes, and the checker's word."""

from __future__ import annotations

import onnx

from onnxprune.cutting.plan import Plan
from onnxprune.files import external
from onnxprune.files.model import Model


def structure(original: Model, pruned: Model, plan: Plan) -> tuple[str, list[str]]:
    """What can be said without running: the same interface, weights cut as planned, and the checker with shapes.

    What the checker already says of the original is a note, not a failure.
    """
    problem = _interface(original, pruned) or _extent(original, pruned, plan)
    if problem:
        return problem, []
    problem = _checked(pruned)
    if problem and _checked(original):
        return "", [f"onnx.checker refuses the original model, too: {problem}"]
    return (f"onnx.checker refuses the pruned model: {problem}" if problem else ""), []


def _interface(original: Model, pruned: Model) -> str:
    for kind in ("input", "output"):
        a, b = ([(x.name, x.type.tensor_type.elem_type) for x in getattr(m.graph, kind)] for m in (original, pruned))
        if a != b:
            return f"the {kind}s are {[name for name, _ in b]} where the original has {[name for name, _ in a]}"
    return ""


def _extent(original: Model, pruned: Model, plan: Plan) -> str:
    """Every weight has the shape that the plan leaves it, and no output is cut."""
    removed = plan.removed()
    outputs = {item.name for item in original.graph.output}
    for tensor, axis in removed:
        if tensor in outputs:
            return f"the plan cuts axis {axis} of the graph output {tensor!r}"
    for name in {tensor for tensor, _ in removed} & original.weights.keys():
        shape = original.weights[name].shape
        wanted = tuple(n - len(removed.get((name, axis), ())) for axis, n in enumerate(shape))
        found = pruned.weights.get(name)
        if found is not None and found.shape != wanted:
            return f"weight {name!r} has the shape {found.shape} where the plan leaves {wanted}"
        if found is None and sum(n > 1 for n in shape) > 1:
            return f"the pruned model has no weight {name!r}"
    return ""


def _checked(model: Model) -> str:
    """Weights are declared as inputs, so that no data is needed to check types and shapes."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for tensor in model.weights.values():
        if external.separable(tensor):
            proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.dtype, tensor.shape))
        else:
            proto.graph.initializer.append(tensor.to_proto())
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # noqa: BLE001  the checker and shape inference raise several unrelated types
        return " ".join(str(error).split())[:300]
    return ""
