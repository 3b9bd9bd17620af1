"""What is loaded is checked before it is believed; what is saved appears whole or not at all.

`load` reads no weights: it walks the file and notes where they lie. `save` writes under temporary names in the
target's own folder and renames at the end, data file first; until then the old files are untouched, and after any
exception they still are.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import onnx

from onnxprune import external, wire
from onnxprune.errors import UserError
from onnxprune.model import Model
from onnxprune.regions import File, Region
from onnxprune.tensors import Tensor, leftover, stored_bytes

SINGLE_FILE_LIMIT = int(1.9 * (1 << 30))
"""Bytes of weights from which on they go to a file of their own: protobuf ends at 2 GiB."""


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model lazily; whatever is wrong with the file is a `UserError` of one line."""
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
            raise UserError(f"{name!r} is not a valid ONNX file: it has two initializers named {weight.name!r}")
        weights[weight.name] = weight
    beside = any(item.header.data_location == onnx.TensorProto.EXTERNAL for item in found)
    return Model(proto, weights, path, beside)


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model, with its weights beside it where they came from there or are too big for one file."""
    path = Path(path)
    check_writable(path)
    data = path.with_name(f"{path.name}.data")
    big = []
    if model.external or model.nbytes > SINGLE_FILE_LIMIT:
        big = [weight for weight in model.weights.values() if external.separable(weight)]
        check_writable(data)
    places = external.layout(big)
    try:
        with _replacing([data, path] if big else [path]) as files:
            if big:
                external.write(files[0], big, places)
            entries = [_entry(weight, data.name, places) for weight in model.weights.values()]
            files[-1].writelines(wire.join(model.proto, entries))
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}") from None


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse an output path that a later `save` could not write."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"cannot write {str(path)!r}: it is not a regular file")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {str(path)!r}: the folder {str(path.parent)!r} does not exist")
    if not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise UserError(f"cannot write {str(path)!r}: permission denied")


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
        raise UserError(f"{str(path)!r} is not an ONNX file: it is empty")
    return file


def _check(proto: onnx.ModelProto, name: str) -> None:
    if not proto.graph.node:
        raise UserError(f"{name!r} is not a usable model: its graph has no nodes")
    if not 3 <= proto.ir_version <= onnx.IR_VERSION:
        raise UserError(f"{name!r} has IR version {proto.ir_version}; versions 3 to {onnx.IR_VERSION} are understood")
    newest = onnx.defs.onnx_opset_version()
    default = [item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")]
    for version in default:
        if not 1 <= version <= newest:
            raise UserError(f"{name!r} uses operator set version {version}; versions 1 to {newest} are known")
    if not default and any(node.domain in ("", "ai.onnx") for node in proto.graph.node):
        raise UserError(f"{name!r} does not say which version of the default operator set it uses (opset_import)")


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
            raise UserError(
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


@contextmanager
def _replacing(targets: list[Path]) -> Iterator[list[BinaryIO]]:
    """Files that take the targets' places together when the block ends well, and vanish when it does not."""
    token = secrets.token_hex(4)
    temps = [path.with_name(f".{path.name}.{token}.tmp") for path in targets]
    backups = [path.with_name(f".{path.name}.{token}.old") for path in targets]
    files: list[BinaryIO] = []
    renaming = False
    try:
        files.extend(temp.open("xb") for temp in temps)
        yield files
        for file in files:
            file.close()
        for target, temp, backup in zip(targets, temps, backups, strict=True):
            if target.exists():
                temp.chmod(stat.S_IMODE(target.stat().st_mode))
                _second_name(target, backup)
        # two renames are not one: until the last has happened, the first can be taken back
        renaming = True
        for target, temp in zip(targets, temps, strict=True):
            temp.replace(target)
    except BaseException:
        for target, temp, backup in zip(targets, temps, backups, strict=True):
            if backup.exists():
                backup.replace(target)
            elif renaming and not temp.exists():
                target.unlink(missing_ok=True)
        raise
    finally:
        for file in files:
            file.close()
        for path in temps + backups:
            with suppress(OSError):
                path.unlink()


def _second_name(target: Path, backup: Path) -> None:
    try:
        os.link(target, backup)
    except OSError:  # a file system without hard links
        target.replace(backup)
