"""What is loaded is checked before it is believed; what is saved appears whole or not at all.

`load` reads no weights: it walks the file and notes where they lie. `save` replaces the model and its data file
together (see `replacing`), and refuses to do so to a file that the model is still read from, unless a model replaces
itself.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import onnx

from onnxprune.errors import InvalidModel, NotWritable, UserError
from onnxprune.files import external, wire
from onnxprune.files.model import Model
from onnxprune.files.regions import File, Region
from onnxprune.files.replacing import check_writable, replacing, unwritable
from onnxprune.files.tensors import Tensor, leftover, stored_bytes

SINGLE_FILE_LIMIT = int(1.9 * (1 << 30))
"""Bytes of weights from which on they go to a file of their own: protobuf ends at 2 GiB."""


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model lazily; whatever is wrong with the file is a `UserError` of one line."""
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"a model is loaded from the path of a file, not from {type(path).__name__}")
    path = Path(path)
    file = _open(path)
    name = str(path)
    skeleton, found = wire.split(file.map(), name)
    proto = wire.parse(skeleton, name)
    found.extend(wire.Found(header) for header in proto.graph.initializer)
    del proto.graph.initializer[:]
    _check(proto, name)
    files: dict[Path, File] = {}
    external.embed(proto, path, files)
    weights: dict[str, Tensor] = {}
    for item in found:
        weight = _weight(item, file, path, files)
        if weight.name in weights:
            raise InvalidModel(f"{name!r} is not a valid ONNX file: it has two initializers named {weight.name!r}")
        weights[weight.name] = weight
    beside = any(item.header.data_location == onnx.TensorProto.EXTERNAL for item in found)
    return Model(proto, weights, path, beside, frozenset((path.resolve(), *files)))


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model, with its weights beside it where they came from there or are too big for one file."""
    path = Path(path)
    check_target(model, path)
    data = data_file(path)
    big = [weight for weight in model.weights.values() if external.separable(weight)] if _is_split(model) else []
    places = external.layout(big)
    try:
        with replacing([data, path] if big else [path]) as files:
            if big:
                external.write(files[0], big, places)
            entries = [_entry(weight, data.name, places) for weight in model.weights.values()]
            files[-1].writelines(wire.join(model.proto, entries))
    except OSError as error:
        raise unwritable(path, error) from None


def data_file(path: Path) -> Path:
    """Where the weights of a model go that do not go into its own file."""
    return path.with_name(f"{path.name}.data")


def check_target(model: Model, path: Path) -> None:
    """Refuse a path that `save` could not write, or must not: what is written must not be what is being read."""
    written = [path, data_file(path)] if _is_split(model) else [path]
    for file in written:
        check_writable(file)
    if model.path is None or path.resolve() != model.path.resolve():
        check_apart(model, written)


def check_apart(model: Model, files: Iterable[Path]) -> None:
    """Refuse to write over anything that the model is read from."""
    for file in files:
        if file.resolve() in model.files:
            raise NotWritable(
                f"cannot write {str(file)!r}: the model {str(model.path)!r} is read from it; choose another name"
            )


def _is_split(model: Model) -> bool:
    return model.external or model.nbytes > SINGLE_FILE_LIMIT


def _open(path: Path) -> File:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UserError(f"{str(path)!r} is a folder, not an ONNX file")
        if not stat.S_ISREG(mode):
            raise UserError(f"{str(path)!r} is not a regular file")
        file = File(path.absolute())
    except FileNotFoundError:
        raise UserError(f"{str(path)!r} does not exist") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
    if not file.size:
        raise InvalidModel(f"{str(path)!r} is not an ONNX file: it is empty")
    return file


def _check(proto: onnx.ModelProto, name: str) -> None:
    if not proto.graph.node:
        raise InvalidModel(f"{name!r} is not a usable model: its graph has no nodes")
    if not proto.graph.output:
        raise InvalidModel(f"{name!r} is not a usable model: its graph has no outputs")
    if not 3 <= proto.ir_version <= onnx.IR_VERSION:
        raise InvalidModel(
            f"{name!r} has IR version {proto.ir_version}; versions 3 to {onnx.IR_VERSION} are understood"
        )
    newest = onnx.defs.onnx_opset_version()
    default = [item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")]
    for version in default:
        if not 1 <= version <= newest:
            raise InvalidModel(f"{name!r} uses operator set version {version}; versions 1 to {newest} are known")
    if not default and any(node.domain in ("", "ai.onnx") for node in proto.graph.node):
        raise InvalidModel(f"{name!r} does not say which version of the default operator set it uses (opset_import)")


def _weight(found: wire.Found, file: File, path: Path, files: dict[Path, File]) -> Tensor:
    header = found.header
    shape = tuple(header.dims)
    if header.data_location == onnx.TensorProto.EXTERNAL:
        region = external.resolve(header, path, files)
    elif found.offset is None:
        return Tensor.of_proto(header)
    else:
        region = Region(file, found.offset, found.length)
        if found.length != stored_bytes(header):
            raise InvalidModel(
                f"initializer {header.name!r} has {found.length} bytes of data, but its shape {list(shape)} "
                f"needs {stored_bytes(header)}; the file is damaged"
            )
    return Tensor(header.name, header.data_type, shape, region, shape, extra=leftover(header))


def _entry(weight: Tensor, data: str, places: dict[str, int]) -> tuple[bytes, Tensor | None]:
    if weight.name in places:
        return wire.placed(weight, data, places[weight.name]).SerializeToString(), None
    if weight.dtype == onnx.TensorProto.STRING:
        return weight.to_proto().SerializeToString(), None
    return weight.header().SerializeToString(), weight
