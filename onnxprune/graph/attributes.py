"""Reading a node's attributes as Python values."""

from __future__ import annotations

from typing import Any

import onnx


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The attribute's value, strings decoded, or `default` where it is absent."""
    for item in node.attribute:
        if item.name == name:
            value = onnx.helper.get_attribute_value(item)
            return value.decode(errors="replace") if isinstance(value, bytes) else value
    return default


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Replace or add an attribute."""
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The bodies of If, Loop and Scan."""
    found: list[onnx.GraphProto] = []
    for item in node.attribute:
        if item.type == onnx.AttributeProto.GRAPH:
            found.append(item.g)
        elif item.type == onnx.AttributeProto.GRAPHS:
            found.extend(item.graphs)
    return found
