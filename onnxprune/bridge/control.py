"""Control flow: bodies are modules of their own, called as often as the data says.

Bodies in which layers stand run without gradients; those that only move values pass gradients on. `which_train` says
which are which, and a pattern for a weight that gets its gradient only through bodies opens them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn

from onnxprune.bridge.registry import Step, op


def whole(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Quantised values are whole floats inside, and integers where they leave."""
    return x.to(dtype)


def entered(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype)


class Frozen(nn.Module):
    """Runs bodies in which layers stand: nothing in them trains."""

    def __init__(self, runs: nn.Module) -> None:
        super().__init__()
        self.runs = runs

    def forward(self, *args: Any) -> tuple[Tensor, ...]:
        with torch.no_grad():
            made: tuple[Tensor, ...] = self.runs(*args)
        return made


def _run(s: Step, module: nn.Module, *args: Any) -> list[fx.Node | None]:
    return s.several(s.apply(Frozen(module) if s.node.output[0] in s.build.frozen else module, *args))


class Branch(nn.Module):
    """Runs one of two bodies."""

    def __init__(self, yes: nn.Module, no: nn.Module) -> None:
        super().__init__()
        self.yes, self.no = yes, no

    def forward(self, condition: Tensor, yes: Sequence[Any], no: Sequence[Any]) -> tuple[Tensor, ...]:
        made: tuple[Tensor, ...] = self.yes(*yes) if bool(condition) else self.no(*no)
        return made


@op("If")
def branch(s: Step) -> Sequence[fx.Node | None]:
    yes, reads_yes = s.build.subgraph(s.attr("then_branch"))
    no, reads_no = s.build.subgraph(s.attr("else_branch"))
    return _run(s, Branch(yes, no), s.tensor(0), reads_yes, reads_no)


class Repeat(nn.Module):
    """Runs a body until its condition or its count says so; the states go round, the rest is stacked."""

    def __init__(
        self, body: nn.Module, states: int, listed: bool, empty: Sequence[tuple[list[int], torch.dtype]]
    ) -> None:
        super().__init__()
        self.body, self.states = body, states
        self.listed = listed
        """Whether the body counts in a list of one number, as some exporters write it."""
        self.empty = empty
        """Of each stack its shape and type if nothing runs."""

    def forward(
        self, most: Any, condition: Tensor | None, states: Sequence[Tensor], taken: Sequence[Any], like: Tensor
    ) -> tuple[Tensor, ...]:
        most = most[0] if isinstance(most, list) else most
        going = torch.ones((), dtype=torch.bool, device=like.device) if condition is None else condition
        stacks: list[list[Tensor]] = []
        count = 0
        while bool(going) and (most is None or count < most):
            number = torch.tensor([count] if self.listed else count, device=like.device)
            going, *made = self.body(number, going, *states, *taken)
            states, scanned = made[: self.states], made[self.states :]
            stacks = stacks or [[] for _ in scanned]
            for stack, item in zip(stacks, scanned, strict=True):
                stack.append(item)
            count += 1
        if not count:
            return (*states, *(torch.empty(shape, dtype=dtype, device=like.device) for shape, dtype in self.empty))
        return (*states, *(torch.stack(stack) for stack in stacks))


@op("Loop", sizes=(0,))
def loop(s: Step) -> Sequence[fx.Node | None]:
    body, taken = s.build.subgraph(s.attr("body"))
    states = [s.tensor(index) for index in range(2, len(s.node.input))]
    graph = s.attr("body")
    listed = len(graph.input[0].type.tensor_type.shape.dim) == 1
    empty = [_nothing(s, value.type.tensor_type) for value in graph.output[1 + len(states) :]]
    module = Repeat(body, len(states), listed, empty)
    return _run(s, module, s.numbers(0), s.tensor(1), states, taken, s.build.device)


def _nothing(s: Step, kind: onnx.TypeProto.Tensor) -> tuple[list[int], torch.dtype]:
    """A stack of nothing, as onnxruntime makes it: lengths that are not known are 0."""
    return [0, *(dim.dim_value for dim in kind.shape.dim)], s.build.dtype_of(kind.elem_type)


class Sweep(nn.Module):
    """Runs a body over the slices of some inputs."""

    def __init__(self, body: nn.Module, axes: Sequence[Sequence[int]], reverse: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.body = body
        self.axes, self.reverse = axes, reverse

    def forward(self, states: Sequence[Tensor], scanned: Sequence[Tensor], taken: Sequence[Any]) -> tuple[Any, ...]:
        rows = [x.movedim(axis, 0) for x, axis in zip(scanned, self.axes[0], strict=True)]
        rows = [x.flip(0) if turn else x for x, turn in zip(rows, self.reverse[0], strict=True)]
        stacks: list[list[Tensor]] = [[] for _ in self.axes[1]]
        for index in range(rows[0].shape[0]):
            made = self.body(*states, *(x[index] for x in rows), *taken)
            states = made[: len(states)]
            for stack, item in zip(stacks, made[len(states) :], strict=True):
                stack.append(item)
        for stack, turn in zip(stacks, self.reverse[1], strict=True):
            if turn:
                stack.reverse()
        stacked = (torch.stack(stack, axis) for stack, axis in zip(stacks, self.axes[1], strict=True))
        return (*states, *stacked)


@op("Scan")
def scan(s: Step) -> Sequence[fx.Node | None]:
    if s.opset < 9:
        raise s.refuse("its form before opset 9 is not known; convert the model to a newer opset")
    body, taken = s.build.subgraph(s.attr("body"))
    count = s.attr("num_scan_inputs")
    inputs = s.tensors()
    states, scanned = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    made = len(s.node.output) - len(states)
    axes = (list(s.attr("scan_input_axes", [0] * count)), list(s.attr("scan_output_axes", [0] * made)))
    turns = (list(s.attr("scan_input_directions", [0] * count)), list(s.attr("scan_output_directions", [0] * made)))
    return _run(s, Sweep(body, axes, turns), states, scanned, taken)
