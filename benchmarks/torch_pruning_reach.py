"""How many MACs Torch-Pruning keeps on the networks of zoo.py: the reach that `onnxprune prune` is compared with.

Each network is pruned by BasePruner with GroupMagnitudeImportance(p=2), the final classifier ignored, exported, and
what is left is counted in the exported file: multiply-accumulates of Conv, ConvTranspose, Gemm and MatMul, and
elements of float initializers.

    python benchmarks/torch_pruning_reach.py --models resnet18,mobilenet_v2 [--ratio 0.5] [--json reach.json]

Needs torch, torchvision and torch-pruning.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import child
import zoo

if TYPE_CHECKING:
    import onnx
    from torch import nn

CLASSES = {1000, 21}
"""Of ImageNet and of torchvision's segmentation networks: no hidden layer of these networks is that wide."""


def count(path: Path) -> tuple[int, int]:
    """Parameters and multiply-accumulates for one image."""
    import onnx

    model = onnx.load(str(path))
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes: dict[str, list[int]] = {w.name: list(w.dims) for w in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        shapes.setdefault(value.name, [dim.dim_value for dim in value.type.tensor_type.shape.dim])
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
    params = sum(math.prod(w.dims) for w in model.graph.initializer if w.data_type in floats)
    return params, sum(macs(node, shapes) for node in model.graph.node)


def macs(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    """Multiply-accumulates of one node: outputs times the terms of each.

    For a ConvTranspose, inputs times what each is spread to.
    """
    import onnx

    if node.op_type == "Conv":
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "MatMul":
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        a = shapes[node.input[0]]
        return math.prod(shapes[node.output[0]]) * a[0 if attributes.get("transA") else 1]
    return 0


def classifiers(model: nn.Module) -> list[nn.Module]:
    """The layers that put out one channel for each class."""
    from torch import nn

    return [
        module
        for module in model.modules()
        if (isinstance(module, nn.Linear) and module.out_features in CLASSES)
        or (isinstance(module, nn.Conv2d) and module.out_channels in CLASSES)
    ]


def measure(name: str, ratio: float, size: int | None) -> dict[str, Any]:
    """Prune one network; everything that the table shows about it."""
    import torch
    import torch_pruning as tp

    torch.set_num_threads(1)
    model, image = zoo.build(zoo.NETWORKS[name], size=size)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        zoo.export(model, image, before, "legacy")
        start = time.perf_counter()
        tp.pruner.BasePruner(
            model,
            image,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=classifiers(model),
        ).step()
        seconds = time.perf_counter() - start
        zoo.export(model.eval(), image, after, "legacy")
        (params, total), (kept_params, kept) = count(before), count(after)
    return {
        "model": name,
        "ratio": ratio,
        "params": params,
        "macs": total,
        "params_kept": kept_params / params,
        "macs_kept": kept / total,
        "seconds": seconds,
    }


def main() -> int:
    """Each network in a process of its own."""
    parser = argparse.ArgumentParser(description="MACs that Torch-Pruning keeps.")
    parser.add_argument("--models", default=",".join(zoo.NETWORKS), help="comma-separated; default: all")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--size", type=int, help="height and width of the input; default: the network's own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    parser.add_argument(
        "--memory", type=float, default=12.0, metavar="GIB", help="address space for each network (default 12)"
    )
    parser.add_argument("--timeout", type=float, default=300.0, metavar="S", help="for each network (default 300)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = zoo.chosen(options.models, tuple(zoo.NETWORKS), "model")
    if options.one:
        print(json.dumps(measure(names[0], options.ratio, options.size)))
        return 0
    print(f"{'model':30s} {'params':>9s} {'MACs':>9s}  {'params kept':>11s}  {'MACs kept':>9s}  {'seconds':>7s}")
    rows = []
    for name in names:
        command = [sys.executable, "-W", "ignore", __file__, "--one", "--models", name, "--ratio", str(options.ratio)]
        command += ["--size", str(options.size)] if options.size else []
        done = child.run(command, memory_gib=options.memory, timeout=options.timeout)
        row: dict[str, Any] = {"model": name, "error": done.failure} if done.status else json.loads(done.last_line)
        rows.append(row)
        print(line(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    if "error" in row:
        return f"{row['model']:30s} {row['error']}"
    return (
        f"{row['model']:30s} {row['params'] / 1e6:7.2f} M {row['macs'] / 1e9:7.3f} G  "
        f"{100 * row['params_kept']:9.1f} %  {100 * row['macs_kept']:7.1f} %  {row['seconds']:7.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
