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

import onnx
import torch
from torch import Tensor, nn

from onnxprune.bridge.exporting import tidy


def export(
    network: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], *, keep_batchnorm: bool = True
) -> onnx.ModelProto:
    """The network as ONNX; its inputs get these names, in the order of its forward's arguments."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch warns of its own use of itself
        warnings.filterwarnings("ignore", "# The axis name: batch will not be used")  # two inputs have one batch
        warnings.filterwarnings("ignore", "The tensor attributes self")  # weights of an LSTM, which it keeps in a list
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
    if keep_batchnorm:
        tidy(program.model, {name for name, _ in network.named_parameters()})
    with tempfile.TemporaryDirectory() as folder:
        program.save(Path(folder) / "model.onnx")
        proto = onnx.load(Path(folder) / "model.onnx")
    _drop_traces(proto)
    _name_layers(proto.graph)
    onnx.checker.check_model(proto, full_check=True)
    return proto


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
