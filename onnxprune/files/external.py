"""Weights beside the model file: where they may be read from, and how they are laid out when written.

External data is read only from regular files in the model's own folder: a model may not name any other file.

A location is checked after all links are resolved, so neither an absolute path, nor `..`, nor a link leads out.
Offsets and lengths are held against the file before they are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import onnx

from onnxprune.errors import InvalidModel
from onnxprune.files import wire
from onnxprune.files.regions import File, Region
from onnxprune.files.tensors import Tensor, stored_bytes

_PAGE_FROM, _PAGE, _LINE = 1 << 20, 4096, 64
"""onnxruntime maps a file by pages, so big tensors start on one; others on a cache line, which suits every type."""

_EMBED_LIMIT = 1 << 30
"""A file of a few KiB can name the same bytes a thousand times: what is read at once has a bound."""


def resolve(tensor: onnx.TensorProto, model: Path, files: dict[Path, File]) -> Region:
    """Where the data of an external tensor lies. `files` keeps what was opened before."""
    said = {item.key: item.value for item in tensor.external_data}
    name, location = tensor.name, said.get("location", "")
    expected = stored_bytes(tensor)
    if tensor.data_type == onnx.TensorProto.STRING:
        raise InvalidModel(f"initializer {name!r}: strings cannot be external data")
    try:
        offset = int(said.get("offset", "0") or 0)
        length = int(said.get("length", "") or expected)
    except ValueError:
        raise InvalidModel(f"initializer {name!r}: the offset or length of its external data is not a number") from None
    file = _open(name, location, model, files)
    if min(offset, length) < 0 or offset + length > file.size:
        raise InvalidModel(
            f"initializer {name!r}: its external data (bytes {offset} to {offset + length} of {location!r}) lies "
            f"beyond the file's end at {file.size}; the file is damaged or incomplete"
        )
    if length != expected:
        raise InvalidModel(
            f"initializer {name!r}: its external data has {length} bytes, but its "
            f"shape {list(tensor.dims)} needs {expected}"
        )
    return Region(file, offset, length)


def embed(proto: onnx.ModelProto, model: Path, files: dict[Path, File]) -> None:
    """Bring in the external data of all tensors that are not initializers of the main graph."""
    room = _EMBED_LIMIT
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            region = resolve(tensor, model, files)
            room -= region.length
            if room < 0:
                raise InvalidModel(
                    f"tensor {tensor.name!r} of a node or subgraph makes its external data too big to be read"
                )
            tensor.raw_data = region.read()
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")


def separable(weight: Tensor) -> bool:
    """Whether a weight is worth a place in a data file; strings cannot have one."""
    return weight.dtype != onnx.TensorProto.STRING and weight.nbytes > wire.INLINE


def layout(weights: Iterable[Tensor]) -> dict[str, int]:
    """Where each weight starts in a data file."""
    offsets, end = {}, 0
    for weight in weights:
        unit = _PAGE if weight.nbytes >= _PAGE_FROM else _LINE
        offsets[weight.name] = -(-end // unit) * unit
        end = offsets[weight.name] + weight.nbytes
    return offsets


def write(file: BinaryIO, weights: Iterable[Tensor], offsets: Mapping[str, int]) -> None:
    """Fill a data file, one weight at a time."""
    for weight in weights:
        file.write(bytes(offsets[weight.name] - file.tell()))
        file.writelines(weight.chunks())


def _open(name: str, location: str, model: Path, files: dict[Path, File]) -> File:
    folder = model.parent.resolve()
    mend = "put the data file into the model's folder"
    try:
        path = (folder / location).resolve()
        if Path(location).is_absolute() or not path.is_relative_to(folder):
            raise InvalidModel(
                f"initializer {name!r}: its external data {location!r} lies outside the model's folder; {mend}"
            )
        if path not in files:
            if not path.is_file():
                raise InvalidModel(f"initializer {name!r}: its external data file {location!r} is missing; {mend}")
            files[path] = File(path)
        return files[path]
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidModel(f"initializer {name!r}: its external data {location!r} cannot be read: {error}") from None


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: in attributes, subgraphs, functions, sparse and training initializers."""
    graphs = [proto.graph]
    for training in proto.training_info:
        graphs += [training.initialization, training.algorithm]
    bodies = [function.node for function in proto.functions]
    while graphs or bodies:
        if graphs:
            graph = graphs.pop()
            bodies.append(graph.node)
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            continue
        for node in bodies.pop():
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR or attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
                    yield from (sparse.values, sparse.indices)
                graphs += [attribute.g, *attribute.graphs]
