"""In a sorted graph every node stands behind whatever feeds it, its subgraphs' captured values included.

Sorting is stable: a graph that is sorted already is not touched, and otherwise the earliest node that can run comes
next.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator

import onnx

from onnxprune.errors import InvalidModel
from onnxprune.graph.attributes import subgraphs


def sort_nodes(graph: onnx.GraphProto, weights: Container[str]) -> None:
    """Sort the nodes in place; `UserError` where a value has no producer, two producers, or feeds itself."""
    given = {value.name for value in graph.input} | {item.values.name for item in graph.sparse_initializer}
    makers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in makers or name in given or name in weights:
                raise InvalidModel(
                    f"the model is not valid: {name!r}, an output of node {node.name!r}, has two producers"
                )
            makers[name] = index
    reads = [set(filter(None, _reads(node))) for node in graph.node]
    for node, names in zip(graph.node, reads, strict=True):
        for name in names:
            if name not in makers and name not in given and name not in weights:
                raise InvalidModel(f"the model is not valid: node {node.name!r} reads {name!r}, which nothing produces")
    for value in graph.output:
        if value.name not in makers and value.name not in given and value.name not in weights:
            raise InvalidModel(f"the model is not valid: nothing produces its output {value.name!r}")
    feeds = [{makers[name] for name in names if name in makers} for names in reads]
    if all(max(before, default=-1) < index for index, before in enumerate(feeds)):
        return
    order = _order(feeds)
    if len(order) < len(feeds):
        stuck = graph.node[min(set(range(len(feeds))) - set(order))].name
        raise InvalidModel(f"the model is not valid: node {stuck!r} is part of a cycle or behind one")
    nodes = onnx.GraphProto()
    nodes.node.extend(graph.node[index] for index in order)
    del graph.node[:]
    graph.node.extend(nodes.node)


def _order(feeds: list[set[int]]) -> list[int]:
    users: list[list[int]] = [[] for _ in feeds]
    missing = [len(before) for before in feeds]
    for index, before in enumerate(feeds):
        for other in before:
            users[other].append(index)
    ready = [index for index, count in enumerate(missing) if not count]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, user)
    return order


def captured(graph: onnx.GraphProto) -> Iterator[str]:
    """Names from outside that a subgraph reads."""
    own = {value.name for value in graph.input} | {value.name for value in graph.initializer}
    own |= {item.values.name for item in graph.sparse_initializer}
    own |= {name for inner in graph.node for name in inner.output}
    for inner in graph.node:
        yield from (name for name in _reads(inner) if name not in own)
    yield from (value.name for value in graph.output if value.name not in own)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, through its subgraphs too."""
    yield from node.input
    for graph in subgraphs(node):
        yield from captured(graph)
