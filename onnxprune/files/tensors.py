"""A weight is where its bytes lie, plus which positions of each axis are kept or zeroed; `array()` reads.

Both edits act on one axis at a time and commute with each other, so a chain of them folds into two index sets per
axis, in the coordinates of the source:

    source axis     0 1 2 3 4 5
    zero [1]          0                    zeros = {1}
    take [0 1 4]    ^ ^     ^              keep  = [0 1 4]
    zero [2]                0              zeros = {1, 4}       array() reads positions 0 1 4 and clears the last two
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxprune.errors import InvalidModel
from onnxprune.files.regions import Region

Array = NDArray[Any]
Index = NDArray[np.intp]

CHUNK = 16 << 20
"""Bytes that streaming holds at once, about."""

_PACKED_BITS = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2, 27: 6, 28: 6}
"""Bits per element of the types that share bytes, by TensorProto number (older onnx releases lack the newer names)."""

_KNOWN = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}


def item_bits(dtype: int) -> int:
    """Bits that one element takes in a file; 0 for strings."""
    if dtype == onnx.TensorProto.STRING:
        return 0
    return _PACKED_BITS.get(dtype) or int(helper.tensor_dtype_to_np_dtype(dtype).itemsize) * 8


def stored_bytes(proto: onnx.TensorProto) -> int:
    """Bytes that a TensorProto's type and shape ask for; `UserError` where either is nonsense."""
    if proto.data_type not in _KNOWN or proto.HasField("segment"):
        raise InvalidModel(f"tensor {proto.name!r} has the element type {proto.data_type}, which is not known")
    # bounded before anything is computed from them: numpy must never see dims that it cannot hold
    if len(proto.dims) > 32 or min(proto.dims, default=0) < 0 or math.prod(d or 1 for d in proto.dims) >= 1 << 48:
        raise InvalidModel(f"tensor {proto.name!r} has an impossible shape {list(proto.dims)[:8]}")
    return (math.prod(map(int, proto.dims)) * item_bits(proto.data_type) + 7) // 8


def leftover(proto: onnx.TensorProto) -> bytes:
    """What a TensorProto says beside name, type, shape and data."""
    rest = onnx.TensorProto(metadata_props=proto.metadata_props)
    if proto.HasField("doc_string"):  # an empty one is a difference too
        rest.doc_string = proto.doc_string
    return bytes(rest.SerializeToString())


@dataclass(frozen=True, eq=False)
class Tensor:
    """A named weight, read lazily."""

    name: str
    dtype: int
    """The TensorProto number of the element type."""
    shape: tuple[int, ...]
    """As `array()` will give it, edits included."""
    source: Region | Array = field(repr=False)
    """Bytes in a file, as ONNX stores them, or an array in memory."""
    extent: tuple[int, ...] = field(repr=False)
    """Shape of the source, before edits."""
    keep: Mapping[int, Index] = field(default_factory=dict, repr=False)
    """Per axis: the kept positions of the source; an absent axis keeps all."""
    zeros: Mapping[int, Index] = field(default_factory=dict, repr=False)
    """Per axis: positions of the source that read as zero."""
    extra: bytes = field(default=b"", repr=False)
    """The rest of the TensorProto (doc string, metadata), serialised, so that it survives a round trip."""

    @classmethod
    def of(cls, name: str, array: Any) -> Tensor:
        """A weight in memory."""
        array = np.asarray(array)
        if array.dtype.kind in "US":
            array = array.astype(object)
        return cls(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array, array.shape)

    @classmethod
    def of_proto(cls, proto: onnx.TensorProto) -> Tensor:
        """A weight in memory, decoded from a TensorProto that carries its data; `UserError` where that does not fit."""
        expected, shape = stored_bytes(proto), tuple(proto.dims)
        try:
            if proto.data_type == onnx.TensorProto.STRING:
                # numpy_helper decodes strictly; ONNX strings are bytes, and what is not UTF-8 must survive too
                words = [item.decode("utf-8", "surrogateescape") for item in proto.string_data]
                array: Array = np.array(words, dtype=object).reshape(shape)
            elif proto.HasField("raw_data") and len(proto.raw_data) != expected:
                raise ValueError(f"{len(proto.raw_data)} bytes of data where {expected} are needed")
            else:
                array = numpy_helper.to_array(proto).reshape(shape)
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidModel(
                f"the data of tensor {proto.name!r} does not fit its shape {list(shape)}: {error}"
            ) from None
        return cls(proto.name, proto.data_type, shape, array, shape, extra=leftover(proto))

    @property
    def nbytes(self) -> int:
        """Bytes the data takes in a file (packed types count packed)."""
        if self.dtype == onnx.TensorProto.STRING:
            return sum(len(item.encode("utf-8", "surrogateescape")) for item in self.array().ravel())
        return (math.prod(self.shape) * item_bits(self.dtype) + 7) // 8

    @property
    def edited(self) -> bool:
        """Whether `array()` differs from the source."""
        return bool(self.keep or self.zeros)

    def rename(self, name: str) -> Tensor:
        """The same weight under another name."""
        return replace(self, name=name)

    def take(self, axis: int, keep: Array) -> Tensor:
        """Only these positions of this axis, in this order."""
        index = self._positions(axis, keep)
        if len(np.unique(index)) != len(index):
            raise ValueError(f"{self.name}:{axis}: a kept position is given twice")
        old = self.keep.get(axis)
        shape = (*self.shape[:axis], len(index), *self.shape[axis + 1 :])
        return replace(self, shape=shape, keep={**self.keep, axis: index if old is None else old[index]})

    def zero(self, axis: int, index: Array) -> Tensor:
        """These positions of this axis read as zero."""
        index = self._positions(axis, index)
        if not len(index):
            return self
        old = self.keep.get(axis)
        index = index if old is None else old[index]
        return replace(self, zeros={**self.zeros, axis: np.union1d(self.zeros.get(axis, index), index)})

    def array(self) -> Array:
        """Read it now. Unedited weights of a file come as a read-only view of the mapped file."""
        return self._rows(0, None)

    def to_proto(self) -> onnx.TensorProto:
        """With its data inside."""
        proto = self.header()
        if self.dtype == onnx.TensorProto.STRING:
            proto.string_data.extend(item.encode("utf-8", "surrogateescape") for item in self.array().ravel())
        else:
            proto.raw_data = b"".join(self.chunks())
        return proto

    def header(self) -> onnx.TensorProto:
        """Without its data."""
        proto: onnx.TensorProto = onnx.TensorProto.FromString(self.extra)
        proto.name, proto.data_type = self.name, self.dtype
        proto.dims.extend(self.shape)
        return proto

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The data as ONNX's raw_data stores it, in pieces, so that the whole is never held."""
        if isinstance(self.source, Region) and not self.edited:
            yield from self.source.chunks(CHUNK)
            return
        if self.dtype in _PACKED_BITS:
            yield numpy_helper.from_array(self.array()).raw_data
            return
        rows = self.shape[0] if self.shape else 1
        step = max(1, rows * CHUNK // max(self.nbytes, 1)) if self.shape else 1
        for start in range(0, rows, step):
            block = np.ascontiguousarray(self._rows(start, start + step))
            yield block.reshape(-1).view(np.uint8).data

    def _positions(self, axis: int, index: Array) -> Index:
        if not 0 <= axis < len(self.shape):
            raise ValueError(f"{self.name} has no axis {axis}: its shape is {self.shape}")
        found: Index = np.array(index, dtype=np.intp)  # a copy: the caller may go on to change its array
        if found.ndim != 1 or (len(found) and not 0 <= found.min() <= found.max() < self.shape[axis]):
            raise ValueError(f"{self.name}:{axis}: positions must lie in 0..{self.shape[axis] - 1}")
        return found

    def _rows(self, start: int, stop: int | None) -> Array:
        data = self._source()
        if not self.shape:
            return data
        first = self.keep.get(0)
        data = data[start:stop] if first is None else data[first[start:stop]]
        for axis, index in self.keep.items():
            if axis:
                # not np.take: it copies a whole unaligned source first, and the mapped ones mostly are unaligned
                data = data[(slice(None),) * axis + (index,)]
        if self.zeros and not self.keep:
            data = data.copy()
        for axis, dead in self.zeros.items():
            left = self.keep.get(axis, np.arange(self.extent[axis]))
            left = left[start:stop] if axis == 0 else left
            data[(slice(None),) * axis + (np.flatnonzero(np.isin(left, dead)),)] = 0
        return data

    def _source(self) -> Array:
        if not isinstance(self.source, Region):
            view = self.source.view()
            view.flags.writeable = False  # others may hold the same weight
            return view
        if self.dtype in _PACKED_BITS:
            proto = onnx.TensorProto(data_type=self.dtype, dims=self.extent, raw_data=self.source.read())
            return numpy_helper.to_array(proto)
        dtype = helper.tensor_dtype_to_np_dtype(self.dtype)
        return self.source.array(dtype).reshape(self.extent)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two weights hold the same bits; equal provenance is noticed without reading."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    if a.source is b.source and a.extent == b.extent and _equal(a.keep, b.keep) and _equal(a.zeros, b.zeros):
        return True
    x, y = a.array(), b.array()
    if x.dtype == object:
        return bool(np.array_equal(x, y))
    # bits, not values: NaN equals itself, and -0.0 is not 0.0
    return np.ascontiguousarray(x).tobytes() == np.ascontiguousarray(y).tobytes()


def _equal(a: Mapping[int, Index], b: Mapping[int, Index]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[axis], b[axis]) for axis in a)
