"""A .onnx file is walked, not parsed: every length is checked before it is followed, and weight data is never copied.

    ModelProto  .. 7:graph [ GraphProto  .. 5:initializer [ TensorProto  dims name .. 9:raw_data [ ######## ] ] .. ] ..
                                                                                                 ^offset ^length

What is left when the initializers are lifted out is small and goes to onnx as it is, so unknown fields survive.
`Constant` nodes of more than 64 KiB (some exporters keep all weights in such) are lifted out too, as the
initializers that they are in all but name. Writing is the reverse: all lengths are known before the first byte,
then one tensor at a time is streamed.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf comes without types

from onnxprune.errors import InvalidModel, UserError
from onnxprune.files.tensors import Tensor

GRAPH, NODE, INITIALIZER = 7, 1, 5
_RAW, _FLOATS, _DOUBLES = 9, 4, 10
_OUTPUT, _OP_TYPE, _ATTRIBUTE, _DOMAIN = 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_TENSOR = 1, 5
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_IR_VERSION = 1 << 3 | VARINT
INLINE = 1024
"""Weights up to this many bytes stay in the graph's own bytes, where shape inference can see them."""

_BIG_NODE = 64 << 10

_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""Wire types of ModelProto's fields: what contradicts them is another format."""

Buffer = bytes | mmap.mmap


class Malformed(Exception):
    """The bytes at this position are not protobuf."""

    def __init__(self, at: int, *, overrun: bool = False) -> None:
        super().__init__(f"malformed at byte {at}")
        self.at = at
        self.overrun = overrun
        """Whether it is well formed as far as it goes, but longer than the message around it."""


@dataclass(frozen=True)
class Found:
    """An initializer in a file."""

    header: onnx.TensorProto
    """All of it, or all but the data if `offset` is set."""
    offset: int | None = None
    length: int = 0


def split(buffer: Buffer, name: str) -> tuple[bytes, list[Found]]:
    """The model's bytes without the main graph's initializers, and those initializers."""
    known, graph = 0, (0, 0, 0)
    try:
        for number, wire, begin, value, end in _fields(buffer, 0, len(buffer)):
            if _MODEL_FIELDS.get(number, wire) != wire:
                raise Malformed(begin)
            known += number in _MODEL_FIELDS
            if number == GRAPH and not graph[2]:
                graph = (begin, value, end)  # a second one stays where it is: protobuf merges them
    except Malformed as error:
        # all writers put ir_version first; without it, a few lucky bytes of text are not yet a model
        if buffer[0] != _IR_VERSION and known < 3:
            raise _foreign(name, buffer) from None
        where = f"truncated at byte {len(buffer)}" if error.overrun else str(error)
        raise InvalidModel(f"{name!r} is not a valid ONNX file ({where})") from None
    if not known:
        raise _foreign(name, buffer)
    if not graph[2]:
        return buffer[: len(buffer)], []
    begin, value, end = graph
    try:
        pieces, found = _split_graph(buffer, value, end)
    except Malformed as error:
        raise InvalidModel(f"{name!r} is not a valid ONNX file ({error})") from None
    rest = b"".join(pieces)
    return b"".join([buffer[:begin], frame(GRAPH, len(rest)), rest, buffer[end : len(buffer)]]), found


def parse(skeleton: bytes, name: str) -> onnx.ModelProto:
    """What `split` left, parsed."""
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(skeleton)
    except DecodeError:
        raise InvalidModel(f"{name!r} is not a valid ONNX file (its protobuf is malformed)") from None
    return proto


def _split_graph(buffer: Buffer, start: int, stop: int) -> tuple[list[bytes], list[Found]]:
    pieces, found, run = [], [], start
    for number, wire, begin, value, end in _fields(buffer, start, stop):
        item = None
        if number == INITIALIZER and wire == BYTES:
            item = _tensor(buffer, value, end)
        elif number == NODE and end - value > _BIG_NODE:
            item = _constant(buffer, value, end)
        if item is not None:
            pieces.append(buffer[run:begin])
            found.append(item)
            run = end
    pieces.append(buffer[run:stop])
    return pieces, found


def _tensor(buffer: Buffer, start: int, stop: int) -> Found:
    if stop - start <= INLINE:
        return Found(_parse(buffer[start:stop], start))
    data = [
        (number, begin, value, end)
        for number, wire, begin, value, end in _fields(buffer, start, stop)
        if number in (_RAW, _FLOATS, _DOUBLES) and wire == BYTES
    ]
    if len(data) != 1:
        return Found(_parse(buffer[start:stop], start))
    number, begin, value, end = data[0]
    header = _parse(buffer[start:begin] + buffer[end:stop], start)
    # packed little-endian floats are laid out like raw data, if the type agrees
    same = {_RAW: header.data_type, _FLOATS: onnx.TensorProto.FLOAT, _DOUBLES: onnx.TensorProto.DOUBLE}
    if same[number] != header.data_type or header.data_location == onnx.TensorProto.EXTERNAL:
        return Found(_parse(buffer[start:stop], start))
    return Found(header, value, end - value)


def _constant(buffer: Buffer, start: int, stop: int) -> Found | None:
    """The value of a Constant node; None for any other node."""
    spans = [(number, value, end) for number, _, _, value, end in _fields(buffer, start, stop)]
    texts = {number: buffer[value:end] for number, value, end in spans if number in (_OUTPUT, _OP_TYPE, _DOMAIN)}
    attributes = [span[1:] for span in spans if span[0] == _ATTRIBUTE]
    plain = texts.get(_OP_TYPE) == b"Constant" and texts.get(_DOMAIN, b"") in (b"", b"ai.onnx")
    if not plain or len(attributes) != 1 or not texts.get(_OUTPUT):
        return None
    inner = [(number, value, end) for number, _, _, value, end in _fields(buffer, *attributes[0])]
    named = [buffer[value:end] for number, value, end in inner if number == _ATTRIBUTE_NAME]
    tensors = [span[1:] for span in inner if span[0] == _ATTRIBUTE_TENSOR]
    if named != [b"value"] or len(tensors) != 1:
        return None
    found = _tensor(buffer, *tensors[0])
    found.header.name = texts[_OUTPUT].decode("utf-8", "replace")
    return found


def _parse(data: bytes, at: int) -> onnx.TensorProto:
    try:
        proto: onnx.TensorProto = onnx.TensorProto.FromString(data)
    except DecodeError:
        raise Malformed(at) from None
    return proto


def _fields(buffer: Buffer, at: int, stop: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(number, wire type, begin, value's begin, end) of each field; never reads outside at..stop."""
    while at < stop:
        begin = at
        tag, at = _varint(buffer, at, stop)
        wire = tag & 7
        value = at
        if wire == BYTES:
            length, value = _varint(buffer, at, stop)
            at = value + length
        elif wire == VARINT:
            _, at = _varint(buffer, at, stop)
        elif wire == FIXED32:
            at += 4
        elif wire == FIXED64:
            at += 8
        else:
            raise Malformed(begin)
        if not 8 <= tag < 1 << 32:
            raise Malformed(begin)
        if at > stop:
            raise Malformed(begin, overrun=True)
        yield tag >> 3, wire, begin, value, at


def _varint(buffer: Buffer, at: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    for here in range(at, min(at + 10, stop)):
        byte = buffer[here]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, here + 1
        shift += 7
    raise Malformed(at, overrun=stop - at < 10)


def _foreign(name: str, buffer: Buffer) -> UserError:
    """The one-line refusal of another format."""
    if buffer[:43] == b"version https://git-lfs.github.com/spec/v1\n":
        return InvalidModel(
            f"{name!r} is not an ONNX file but a Git LFS pointer; fetch the real one with: git lfs pull"
        )
    return InvalidModel(f"{name!r} is not an ONNX file")


def frame(number: int, length: int) -> bytes:
    """The bytes that open a length-delimited field."""
    return _encode(number << 3 | BYTES) + _encode(length)


def _encode(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def join(proto: onnx.ModelProto, entries: Iterable[tuple[bytes, Tensor | None]]) -> Iterator[bytes | memoryview]:
    """The bytes of the model with these initializers: TensorProto bytes, and a weight whose data completes them."""
    skeleton = proto.SerializeToString()
    begin, value, end = next(
        (
            (begin, value, end)
            for number, _, begin, value, end in _fields(skeleton, 0, len(skeleton))
            if number == GRAPH
        ),
        (len(skeleton),) * 3,
    )
    sized = [(head, weight, weight.nbytes if weight is not None else 0) for head, weight in entries]
    heads = [(head + frame(_RAW, size) if weight is not None else head, weight, size) for head, weight, size in sized]
    heads = [(frame(INITIALIZER, len(head) + size) + head, weight, size) for head, weight, size in heads]
    yield skeleton[:begin]
    yield frame(GRAPH, end - value + sum(len(head) + size for head, _, size in heads))
    yield skeleton[value:end]
    for head, weight, _ in heads:
        yield head
        if weight is not None:
            yield from weight.chunks()
    yield skeleton[end:]


def placed(weight: Tensor, location: str, offset: int) -> onnx.TensorProto:
    """The TensorProto of a weight whose data lies in another file."""
    proto = weight.header()
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(weight.nbytes))):
        proto.external_data.add(key=key, value=value)
    return proto
