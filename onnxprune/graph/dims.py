"""Every free dimension of the inputs gets one number, and the same name gets the same number everywhere.

A dimension's key is its symbol (`batch`), or `input:axis` where the file gives it none. What the user did not bind is
bound by what it means, read off its name, its reader (see `uses`) or its place:

    pixels      [batch, 3, height, width]   1 3 224 224
    input_ids   [batch, sequence]           1 16
    past.0.key  [batch, 12, past, 64]       1 12 16 64
    mask        [batch, "past + sequence"]  1 32           arithmetic is evaluated

Guesses can fail, so every meaning has a short list of sizes: `candidates` gives one binding after another to try.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral

import onnx

from onnxprune.errors import OpenSizes, UserError
from onnxprune.files.model import Model
from onnxprune.graph.symbols import evaluate, names
from onnxprune.graph.uses import Readers, Uses
from onnxprune.text.names import suggest

Dims = Mapping[str, int]

_SIZES: dict[str, tuple[int, ...]] = {
    "image": (224, 64, 256, 320, 640, 224),
    "sequence": (16, 8, 32, 128, 1, 16),
    "past": (16, 8, 32, 128, 16, 16),
    "samples": (16000, 16, 8, 128, 1, 16000),
    "channels": (3, 1, 4, 3, 3, 3),
}
"""What to try, in this order; `batch` is the caller's, and its alternative comes last."""
_ATTEMPTS = 6
_KINDS = (
    (r"past|cache", "past"),
    (r"total|kv_?len", "total"),
    (r"batch|^(n|b|bs|bsz)$", "batch"),
    (r"height|width|^(h|w)$|pixel", "image"),
    (r"channel|^c$", "channels"),
    (r"audio|sample|wav", "samples"),
    (r"seq|len|tok|time|frame|step|ctx|^(t|s|l)$", "sequence"),
)
LONGEST = 2**31 - 1
"""The longest axis that can be asked for."""
_ANONYMOUS = re.compile(r"(\?|none|unk|unknown|dynamic|-1|\*)?", re.IGNORECASE)
"""Exporters write these for any unknown length, so two of them need not be equal."""
_FLOATS = frozenset({1, 10, 11, 16})


@dataclass(frozen=True)
class Input:
    """A graph input that is not an initializer."""

    name: str
    dtype: int
    shape: tuple[int | str, ...]
    """Numbers, and keys of free dimensions."""
    uses: Uses

    def sizes(self, binding: Dims) -> tuple[int, ...]:
        return tuple(d if isinstance(d, int) else binding[d] for d in self.shape)


def inputs_of(model: Model, dims: Dims | None = None) -> tuple[Input, ...]:
    """The inputs that must be fed; `dims` settle the rank where the file leaves it open (`x:3=8` means rank 4)."""
    readers = Readers(model)
    return tuple(_input(value, readers, dims or {}) for value in model.graph.input if value.name not in model.weights)


def candidates(inputs: Iterable[Input], dims: Dims | None = None, *, batch: int = 1) -> list[dict[str, int]]:
    """Bindings of all free dimensions, the most likely first; `dims` hold in each of them."""
    inputs = tuple(inputs)
    given = _given(inputs, dims or {})
    lengths = {key: _length(inputs, key) for key in _keys(inputs)}
    found: list[dict[str, int]] = []
    for attempt in range(_ATTEMPTS):
        asked = batch if attempt < _ATTEMPTS - 1 else 1 if batch > 1 else 2
        sizes = {kind: tries[attempt] for kind, tries in _SIZES.items()} | {"batch": asked}
        binding = {key: given.get(key, only or sizes.get(kind, 0)) for key, (kind, only) in lengths.items()}
        sizes |= {kind: binding[key] for key, (kind, _) in lengths.items()}
        past = sizes["past"] if any(kind == "past" for kind, _ in lengths.values()) else 0
        binding |= {key: sizes["sequence"] + past for key, size in binding.items() if size == 0}
        binding |= {key: given.get(key, evaluate(key, binding)) for key in _symbols(inputs)}
        if binding not in found:
            found.append(binding)
    return found


def default_dims(model: Model, dims: Dims | None = None, *, batch: int = 1) -> dict[str, int]:
    """The most likely binding of every free dimension."""
    return candidates(inputs_of(model, dims), dims, batch=batch)[0]


def kind_of(inputs: Iterable[Input], key: str) -> str:
    """What the free dimension means: batch, image, sequence, past, total, samples or channels."""
    return _length(tuple(inputs), key)[0]


def bound(model: Model, binding: Dims, inputs: Iterable[Input] | None = None) -> Model:
    """The model with the shapes of its inputs written out."""
    shapes = {x.name: x.sizes(binding) for x in (inputs_of(model, binding) if inputs is None else inputs)}
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for value in proto.graph.input:
        if value.name in shapes:
            dtype = value.type.tensor_type.elem_type
            value.type.CopyFrom(onnx.helper.make_tensor_type_proto(dtype, shapes[value.name]))
    return model.replace(proto=proto)


def parse_dims(items: Iterable[str], *models: Model) -> dict[str, int]:
    """`["batch=4", "x:2=64"]` as a mapping; every name must occur in one of the models, where some are given."""
    dims: dict[str, int] = {}
    for item in items:
        name, _, size = (part.strip() for part in item.rpartition("="))
        if not name:
            raise UserError(f"--dim {item!r}: write NAME=SIZE, for instance batch=4")
        if not re.fullmatch(r"[+-]?\d+", size):
            raise UserError(f"--dim {item!r}: {size!r} is not a whole number")
        if len(size) > 18:  # int() itself refuses thousands of digits
            raise UserError(f"--dim {name}: the size must be at most {LONGEST}")
        if int(size) < 1:
            raise UserError(f"--dim {item!r}: the size must be at least 1")
        if dims.setdefault(name, int(size)) != int(size):
            raise UserError(f"--dim {name}: given twice, as {dims[name]} and as {size}")
    every = tuple(x for model in models for x in inputs_of(model, dims))
    if models:
        check_dims(every, dims)
    return dims


def known(inputs: Iterable[Input], dims: Dims) -> dict[str, int]:
    """Those of the sizes that these inputs have a free dimension for."""
    inputs = tuple(inputs)
    names_of = {*_keys(inputs), *_symbols(inputs), *_aliases(inputs)}
    return {name: size for name, size in dims.items() if name in names_of}


def check_dims(inputs: Iterable[Input], dims: Dims) -> None:
    """A size below 1, or a name that no input has, is the user's mistake."""
    if not isinstance(dims, Mapping):
        raise UserError(f"dims must map names to sizes, as {{'batch': 4}}, not {dims!r}")
    inputs = tuple(inputs)
    aliases = _aliases(inputs)
    known = list(dict.fromkeys([*_keys(inputs), *_symbols(inputs)]))
    for name, size in dims.items():
        if not _is_integer(size) or size < 1:
            raise OpenSizes(f"dimension {name!r}: {size!r} is not possible, the size must be at least 1")
        if size > LONGEST:
            raise OpenSizes(f"dimension {name!r}: {size} is not possible, the size must be at most {LONGEST}")
        if name in known or name in aliases:
            continue
        for x in inputs:
            for axis, length in enumerate(x.shape):
                if name == f"{x.name}:{axis}":
                    raise OpenSizes(f"dimension {name!r} is fixed at {length} in the model and cannot be set")
        listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        end = suggest(name, known) or (f"; the free ones are {listed}" if known else "; all its inputs are fixed")
        raise OpenSizes(f"the model has no free dimension {name!r}{end}")


def _is_integer(size: object) -> bool:
    return isinstance(size, Integral)  # NumPy's integers as well


def _input(value: onnx.ValueInfoProto, readers: Readers, dims: Dims) -> Input:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        word = (kind or "untyped").removesuffix("_type").replace("_", " ")
        raise OpenSizes(f"input {value.name!r} is not a tensor but {word}: no inputs can be made for this model")
    tensor = value.type.tensor_type
    integer = tensor.elem_type not in _FLOATS
    declared = tensor.shape.dim if tensor.HasField("shape") else None
    uses = readers.uses(value.name, None if declared is None else len(declared), integer=integer)
    if declared is not None:
        shape = tuple(_dim(value.name, axis, dim) for axis, dim in enumerate(declared))
        return Input(value.name, tensor.elem_type, shape, uses)
    named = [int(key[len(value.name) + 1 :]) for key in dims if re.fullmatch(re.escape(value.name) + r":\d+", key)]
    rank = uses.rank or max(named, default=1) + 1
    uses.axes = {axis % rank: length for axis, length in uses.axes.items()}
    return Input(value.name, tensor.elem_type, tuple(f"{value.name}:{axis}" for axis in range(rank)), uses)


def _dim(name: str, axis: int, dim: onnx.TensorShapeProto.Dimension) -> int | str:
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return dim.dim_value
    return f"{name}:{axis}" if _ANONYMOUS.fullmatch(dim.dim_param) else dim.dim_param


def _symbols(inputs: Iterable[Input]) -> list[str]:
    """Free dimensions as the file writes them, arithmetic included."""
    return list(dict.fromkeys(d for x in inputs for d in x.shape if isinstance(d, str)))


def _keys(inputs: Iterable[Input]) -> list[str]:
    """The names that a binding must hold, arithmetic taken apart."""
    return list(dict.fromkeys(name for symbol in _symbols(inputs) for name in names(symbol)))


def _aliases(inputs: Iterable[Input]) -> dict[str, str]:
    """A named dimension can be given by its place, too."""
    return {f"{x.name}:{i}": d for x in inputs for i, d in enumerate(x.shape) if isinstance(d, str)}


def _given(inputs: tuple[Input, ...], dims: Dims) -> dict[str, int]:
    check_dims(inputs, dims)
    aliases = _aliases(inputs)
    return {aliases.get(name, name): size for name, size in dims.items()}


def _length(inputs: tuple[Input, ...], key: str) -> tuple[str, int | None]:
    """What the dimension means, and the only length that its readers allow."""
    places = [(x, axis) for x in inputs for axis, d in enumerate(x.shape) if d == key]
    only = next((x.uses.axes[axis] for x, axis in places if axis in x.uses.axes), None)
    by_name = next((kind for pattern, kind in _KINDS if re.search(pattern, key.lower())), None)
    anonymous = any(key == f"{x.name}:{axis}" for x, axis in places)
    if by_name is not None and not anonymous:
        # [batch, sequence_length] floats are sound, and a convolution over sound needs far more than 16 of them
        sound = by_name == "sequence" and any(len(x.shape) == 2 and x.dtype in _FLOATS for x, _ in places)
        return ("samples" if sound else by_name), only
    if places and all("mask" in x.name.lower() and axis > 0 for x, axis in places) and any(map(_is_past, inputs)):
        return "total", only  # a mask over the cache as well: no other input is as long
    return (_by_place(*places[0]) if places else "sequence"), only


def _is_past(x: Input) -> bool:
    return len(x.shape) > 2 and re.search(r"past|cache", x.name.lower()) is not None


def _by_place(x: Input, axis: int) -> str:
    rank = len(x.shape)
    if _is_past(x):
        return "batch" if axis == 0 else "past"
    if rank == 3 and 3 in (x.shape[0], x.shape[2]) and x.dtype in _FLOATS | {2}:
        return "image"
    if axis == 0:
        return "batch"
    last = x.shape[-1] in (1, 3, 4) and not isinstance(x.shape[1], int)
    if rank >= 4:
        pixels = (rank - 3, rank - 2) if last else (rank - 2, rank - 1)
        channel = rank - 1 if last else 1
        return "image" if axis in pixels else "channels" if axis == channel else "sequence"
    return "samples" if rank == 2 and x.dtype in _FLOATS else "sequence"
