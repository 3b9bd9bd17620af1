"""The slot graph in Graphviz' language: `dot -Tsvg slots.dot -o slots.svg`.

Weights are boxes, activations are ellipses, lines are operators; one colour per group, grey where several own a slot.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.analysis.coupling import Coupling
from onnxprune.files.model import Model


def dot(model: Model, coupling: Coupling) -> str:
    """The text of the drawing."""
    return "\n".join(_lines(model, coupling)) + "\n"


def quoted(text: str) -> str:
    """A string of the language: a backslash would start an escape, a quote would end it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "") + '"'


def _lines(model: Model, coupling: Coupling) -> Iterator[str]:
    ops = {node.name: node.op_type for node in model.graph.node}
    hues = {group.name: index / max(1, len(coupling.groups)) for index, group in enumerate(coupling.groups)}
    yield "graph onnxprune {"
    yield "  rankdir=LR;"
    yield '  node [fontname="sans-serif", style=filled];'
    for (tensor, axis), slot in coupling.graph.nodes(data=True):
        owners = slot["groups"]
        colour = f"{hues[owners[0]]:.3f} 0.250 1.000" if len(owners) == 1 else "0.000 0.000 0.900"
        shape = "box" if slot["weight"] else "ellipse"
        name = f"{tensor}:{axis}"
        label, tip = quoted(f"{name}\n{slot['size']}"), quoted(", ".join(owners))
        yield f'  {quoted(name)} [label={label}, shape={shape}, fillcolor="{colour}", tooltip={tip}];'
    for (one, axis), (two, other), tie in coupling.graph.edges(data=True):
        label, tip = quoted(ops.get(tie["node"], "")), quoted(tie["node"])
        yield f"  {quoted(f'{one}:{axis}')} -- {quoted(f'{two}:{other}')} [label={label}, tooltip={tip}];"
    yield "}"
