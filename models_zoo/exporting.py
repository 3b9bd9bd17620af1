"""A module as ONNX with every parameter under its own name, BatchNormalization kept, and the batch free.

The exporter's own optimiser folds BatchNormalization and renames weights, so it is left out; constants are folded
afterwards, and what it leaves behind otherwise is tidied up here.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxscript.optimizer
import torch
from torch import Tensor, nn


def export(
    network: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], *, keep_batchnorm: bool = True
) -> onnx.ModelProto:
    """The network as ONNX; its inputs get these names, in the order of its forward's arguments."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch warns of its own use of itself
        program = torch.onnx.export(
            network.eval(),
            tuple(inputs.values()),
            dynamo=True,
            optimize=not keep_batchnorm,
            dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in inputs),
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        program.save(Path(folder) / "model.onnx")
        proto = onnx.load(Path(folder) / "model.onnx")
    if keep_batchnorm:
        named = {name for name, _ in network.named_parameters()}
        onnxscript.optimizer.fold_constants(proto, should_fold=lambda node: _may_fold(node, named))
        onnxscript.optimizer.remove_unused_nodes(proto)
        _drop_zero_biases(proto.graph)
    _drop_traces(proto)
    _name_layers(proto.graph)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _may_fold(node: Any, named: set[str]) -> bool | None:
    """A small weight, transposed beforehand, would lose its name. None: as usual."""
    return False if any(value is not None and value.name in named for value in node.inputs) else None


def _drop_zero_biases(graph: onnx.GraphProto) -> None:
    """Without its optimiser the exporter gives a bias of zeros to every convolution that has none."""
    zeros = {weight.name for weight in graph.initializer if not onnx.numpy_helper.to_array(weight).any()}
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 3 and node.input[2] in zeros:
            del node.input[2]
    used = {name for node in graph.node for name in node.input}
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _drop_traces(proto: onnx.ModelProto) -> None:
    """The exporter notes on every node and value the stack that led to it, with the paths of the machine it ran on."""
    graph = proto.graph
    del graph.value_info[:]
    for item in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def _name_layers(graph: onnx.GraphProto) -> None:
    """A node that owns a weight is called as its module is: `layer1.0.conv1`, not `node_conv2d_1`.

    Where a module runs several times, its nodes are `head`, `head@2`, `head@3`: onnxruntime takes no name twice.
    """
    runs: Counter[str] = Counter()
    for node in graph.node:
        if len(node.input) > 1 and node.input[1].endswith(".weight"):
            name = node.input[1].removesuffix(".weight")
            runs[name] += 1
            node.name = name if runs[name] == 1 else f"{name}@{runs[name]}"
