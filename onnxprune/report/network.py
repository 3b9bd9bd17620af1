"""How layers follow each other, cut into blocks that can be looked at one by one.

Every value comes from one place: a layer, a graph input, or a *joint*, which is a node where several such places meet.
So all that is neither passes its place on, and the graph shrinks to layers, joints and the edges between them:

    conv1 ─ bn ─ relu ─┬─ conv2 ─ bn ─┐                conv1 ─┬─ conv2 ─┐
                       └──────────────Add ─ relu   =>         └─────────Add

A place that no edge jumps over ends a *block*. Blocks that are built alike and follow each other are shown once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import TensorProto

from onnxprune.files.model import Model
from onnxprune.report.layers import Layer

MOST_DEEP = 6
"""Places one below the other in a block that is put together from several."""
LONGEST_PERIOD = 8
"""Blocks that may take turns, as attention and feed-forward do."""
MOST_PLACES = 400
"""Of a block that is drawn: what is larger no one could read."""

_NUMBERS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.UNDEFINED)
_SIZES = {"Shape", "Size"}
"""Where what comes out is about the tensor, and no longer what the layer made."""


@dataclass(frozen=True)
class Place:
    """A layer, a joint, or an input of the graph."""

    kind: str
    """`layer`, `joint` or `input`."""
    name: str
    op: str = ""
    layer: Layer | None = None


@dataclass(frozen=True)
class Block:
    """Places and edges between them; an edge from -1 comes from the block before."""

    places: tuple[Place, ...]
    edges: tuple[tuple[int, int], ...]
    repeats: tuple[str, ...] = ()
    """Names of the blocks that follow and are built alike."""
    turn: tuple[int, int] = (1, 1)
    """Of blocks that repeat together, which one it is, of how many."""

    @property
    def layers(self) -> list[Layer]:
        return [place.layer for place in self.places if place.layer is not None]

    @property
    def name(self) -> str:
        """What its layers' names begin with; the first and the last of them where they have nothing in common."""
        labels = [layer.label for layer in self.layers]
        return self.prefix or " to ".join(dict.fromkeys([*labels[:1], *labels[-1:]]))

    @property
    def prefix(self) -> str:
        """The part of their names that the layers share."""
        return common([layer.label for layer in self.layers])

    @property
    def drawable(self) -> bool:
        return len(self.places) <= MOST_PLACES


def common(labels: Sequence[str]) -> str:
    """`layer1.0` of `layer1.0.conv1` and `layer1.0.conv2`; a single name is its own."""
    if len(set(labels)) == 1:
        return labels[0]
    kept = []
    for parts in zip(*(label.split(".") for label in labels), strict=False):
        if len(set(parts)) > 1:
            break
        kept.append(parts[0])
    return ".".join(kept)


def blocks_of(model: Model, layers: Sequence[Layer]) -> list[Block]:
    """The network, block by block."""
    places, edges = connected(model, layers)
    return joined(folded(list(_split(places, edges))))


def connected(model: Model, layers: Sequence[Layer]) -> tuple[list[Place], list[tuple[int, int]]]:
    """Layers, joints and inputs in graph order, and the edges between them, by index."""
    by_node = {layer.node: layer for layer in layers}
    places: list[Place] = []
    edges: list[tuple[int, int]] = []
    source: dict[str, int] = {}
    side: set[int] = set()
    """Inputs of whole numbers and flags: masks and the like, which are no part of the flow where something else is."""
    for item in model.graph.input:
        source[item.name] = len(places)
        if item.type.tensor_type.elem_type not in _NUMBERS:
            side.add(len(places))
        places.append(Place("input", item.name))
    for node in model.graph.node:
        read = list(dict.fromkeys(source[name] for name in node.input if name in source))
        if len(read) > 1:
            read = [place for place in read if place not in side] or read[:1]
        layer = by_node.get(node.name)
        if layer is None and len(read) < 2:
            if read and node.op_type not in _SIZES:
                source.update(dict.fromkeys(filter(None, node.output), read[0]))
            continue
        here = len(places)
        kind = "joint" if layer is None else "layer"
        places.append(Place(kind, node.name, node.op_type, layer))
        edges += [(place, here) for place in read]
        source.update(dict.fromkeys(filter(None, node.output), here))
    return _without_loose_inputs(places, edges)


def _without_loose_inputs(
    places: list[Place], edges: list[tuple[int, int]]
) -> tuple[list[Place], list[tuple[int, int]]]:
    used = {place for edge in edges for place in edge}
    kept = [at for at, place in enumerate(places) if place.kind != "input" or at in used]
    new = {old: at for at, old in enumerate(kept)}
    return [places[at] for at in kept], [(new[a], new[b]) for a, b in edges]


def _split(places: Sequence[Place], edges: Sequence[tuple[int, int]]) -> Iterator[Block]:
    """After each place that no edge jumps over."""
    farthest = list(range(len(places)))
    for a, b in edges:
        farthest[a] = max(farthest[a], b)
    leading: list[list[int]] = [[] for _ in places]
    for a, b in edges:
        leading[b].append(a)
    start, reach = 0, 0
    for at in range(len(places)):
        if reach <= at:
            yield _block(places, leading, start, at + 1)
            start = at + 1
        reach = max(reach, farthest[at])
    if start < len(places):
        yield _block(places, leading, start, len(places))


def _block(places: Sequence[Place], leading: Sequence[Sequence[int]], start: int, stop: int) -> Block:
    inner = [(a - start if a >= start else -1, b - start) for b in range(start, stop) for a in leading[b]]
    return Block(tuple(places[start:stop]), tuple(dict.fromkeys(inner)))


def joined(blocks: Sequence[Block]) -> list[Block]:
    """Blocks put one below the other while what comes out is small and its layers have more of a name in common."""
    found: list[Block] = []
    for block in blocks:
        if found and _belong(found[-1], block):
            found[-1] = _below(found[-1], block)
        else:
            found.append(block)
    return found


def _belong(first: Block, second: Block) -> bool:
    if first.repeats or second.repeats:
        return False
    if depth(first) + depth(second) > MOST_DEEP:
        return False
    if not first.layers or not second.layers:
        return True
    both = common([layer.label for layer in (*first.layers, *second.layers)])
    own = [common([layer.label for layer in part.layers]) for part in (first, second) if len(part.layers) > 1]
    return all(len(both) >= len(name) for name in own)


def _below(first: Block, second: Block) -> Block:
    last, shift = len(first.places) - 1, len(first.places)
    moved = tuple((a + shift if a >= 0 else last, b + shift) for a, b in second.edges)
    return Block((*first.places, *second.places), (*first.edges, *moved))


def depth(block: Block) -> int:
    """Places on the longest way through."""
    return max(ranks(block), default=-1) + 1


def ranks(block: Block) -> list[int]:
    """How many places come before each on the longest way to it."""
    found = [0] * len(block.places)
    for a, b in block.edges:  # in the order of b, and edges only lead on
        if a >= 0:
            found[b] = max(found[b], found[a] + 1)
    return found


def folded(blocks: Sequence[Block]) -> list[Block]:
    """Runs that repeat, with a period of one or more blocks, shown once."""
    signs = [_sign(block) for block in blocks]
    found: list[Block] = []
    at = 0
    while at < len(blocks):
        period, times = _longest_run(signs, at)
        for offset in range(period):
            others = tuple(blocks[at + offset + period * turn].name for turn in range(1, times))
            first = blocks[at + offset]
            found.append(Block(first.places, first.edges, others, (offset + 1, period) if others else (1, 1)))
        at += period * times
    return found


def _longest_run(signs: Sequence[object], at: int) -> tuple[int, int]:
    """(period, times) of what repeats from here on; the one that covers most, the shortest period of these."""
    best, covered = (1, 1), 1
    for period in range(1, min(LONGEST_PERIOD, (len(signs) - at) // 2) + 1):
        times = 1
        while signs[at : at + period] == signs[at + period * times : at + period * (times + 1)]:
            times += 1
        if times > 1 and period * times > covered:
            best, covered = (period, times), period * times
    return best


def _sign(block: Block) -> object:
    """Equal for blocks that look alike but for their names and colours."""
    marks = tuple((place.kind, place.op, _widths(place.layer)) for place in block.places)
    return marks, block.edges


def _widths(layer: Layer | None) -> object:
    return None if layer is None else (layer.width, layer.kept, bool(layer.group), layer.macs)


def colours(layers: Sequence[Layer], number: int) -> Mapping[str, int]:
    """Group -> one of so many colours, in the order in which groups first occur: neighbours differ."""
    names = dict.fromkeys(layer.group for layer in layers if layer.group)
    return {name: index % number for index, name in enumerate(names)}
