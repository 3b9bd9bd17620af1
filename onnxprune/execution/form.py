"""What a model asks of its data: for each input a type and lengths, and where the samples lie.

    image   float32 [batch, 3, 224, 224]    stacked: samples lie along the first axis of every input,
    mask    int64   [batch, 16]             so batches can be cut and joined

    sound   float32 [batch, 512]            not stacked: a piece of the state's first axis is no sample
    state   float32 [2, batch, 64]

Numbers are converted where that changes none of them but by the rounding of floats; everything else is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.errors import UnfitData, UserError
from onnxprune.execution.inputs import Feeds
from onnxprune.files.model import Model
from onnxprune.graph.dims import Dims, Input, check_dims, inputs_of, kind_of
from onnxprune.graph.probes import FLOATS
from onnxprune.graph.symbols import evaluate, names
from onnxprune.text.names import suggest

Array = NDArray[Any]


@dataclass(frozen=True)
class Form:
    """What a model asks of its data."""

    inputs: tuple[Input, ...]
    """With the sizes that the user bound written out."""
    stacked: bool
    """Samples lie along the first axis of every input, so that batches can be cut and joined."""
    fixed: int | None
    """The only batch size that the model takes."""
    place: tuple[str, int] | None
    """The input and the axis along which samples are counted; None: each run is one sample."""

    def __str__(self) -> str:
        return ", ".join(described(x) for x in self.inputs)

    def only(self, what: str) -> Input:
        """The one input of a model; `what` has no names to tell several apart."""
        if len(self.inputs) != 1:
            raise UnfitData(
                f"{what} feeds a model of one input, and this one takes {self}: use .npz files, whose arrays have names"
            )
        return self.inputs[0]


def form_of(model: Model, dims: Dims | None = None) -> Form:
    """The form of the model's data."""
    free = inputs_of(model, dims)
    if not free:
        raise UnfitData("the model takes no inputs, so there is nothing that data could be fed to")
    check_dims(free, dims or {})
    inputs = tuple(replace(x, shape=tuple(_size(x, axis, dims or {}) for axis in range(len(x.shape)))) for x in free)
    stacked = _stacked(free)
    first = inputs[0].shape[0] if stacked else None
    return Form(inputs, stacked, first if isinstance(first, int) else None, _place(free, stacked))


def fit(form: Form, arrays: Mapping[str, Array], where: str) -> Feeds:
    """Every array as its input asks for it; `where` is what errors call their origin."""
    made: Feeds = {}
    sizes: dict[str, int] = {}
    for x in form.inputs:
        if x.name not in arrays:
            raise missing(form, x.name, list(arrays), where)
        array = np.asarray(arrays[x.name])
        _check_shape(form, x, array, sizes, where)
        made[x.name] = _converted(x, array, where)
    return made


def missing(form: Form, name: str, there: list[str], where: str) -> UserError:
    """What to say where an input has no array."""
    listed = f"only {', '.join(map(repr, there[:8]))}" if there else "nor any other"
    return UnfitData(f"{where} has no array {name!r}, {listed}{suggest(name, there)}; the model takes {form}")


def _size(x: Input, axis: int, dims: Dims) -> int | str:
    """A length with what the user bound filled in."""
    key = x.shape[axis]
    if isinstance(key, int):
        return key
    if f"{x.name}:{axis}" in dims:
        return dims[f"{x.name}:{axis}"]
    if key in dims:
        return dims[key]
    return evaluate(key, dims) if all(name in dims for name in names(key)) else key


def _stacked(inputs: tuple[Input, ...]) -> bool:
    if not all(x.shape for x in inputs):
        return False
    firsts = {x.shape[0] for x in inputs}
    elsewhere = {d for x in inputs for d in x.shape[1:]}
    lengths = {d for d in firsts if isinstance(d, int)}
    if lengths:
        return len(firsts) == 1
    return not firsts & elsewhere


def _place(inputs: tuple[Input, ...], stacked: bool) -> tuple[str, int] | None:
    if stacked:
        return inputs[0].name, 0
    places = ((x, axis) for x in inputs for axis, d in enumerate(x.shape) if isinstance(d, str))
    return next(((x.name, axis) for x, axis in places if kind_of(inputs, str(x.shape[axis])) == "batch"), None)


def described(x: Input) -> str:
    """An input with what it takes, for people."""
    dims = ", ".join(map(str, x.shape))
    return f"{x.name!r} ({'text' if _dtype(x).kind == 'O' else _dtype(x)} [{dims}])"


def _dtype(x: Input) -> np.dtype[Any]:
    return onnx.helper.tensor_dtype_to_np_dtype(x.dtype)


def _check_shape(form: Form, x: Input, array: Array, sizes: dict[str, int], where: str) -> None:
    """Refuse lengths that the input does not take, or that differ where one name stands for both."""
    wrong = UnfitData(f"{where} holds {array.dtype} {list(array.shape)} for input {described(x)}")
    if array.ndim != len(x.shape):
        raise wrong
    for axis, (wanted, size) in enumerate(zip(x.shape, array.shape, strict=True)):
        if form.stacked and axis == 0:
            key = ""  # however many there are, all inputs must have as many
        elif isinstance(wanted, int):
            if size != wanted:
                raise wrong
            continue
        else:
            key = wanted
        if not size:
            raise UnfitData(f"{where} holds an empty array for input {described(x)}")
        if sizes.setdefault(key, size) != size:
            what = f"{key!r} is" if key else "there are"
            raise UnfitData(f"{where}: {what} {sizes[key]} in one input and {size} in {described(x)}")


def _converted(x: Input, array: Array, where: str) -> Array:
    """The array in the input's type, where no value changes but by the rounding of floats."""
    dtype = _dtype(x)
    what = f"{where}: input {described(x)}"
    if dtype.kind == "O":
        if array.dtype.kind != "U" and not (
            array.dtype.kind == "O" and all(isinstance(item, str) for item in array.flat)
        ):
            raise UnfitData(f"{what} takes text, not {array.dtype}")
        return array.astype(object)
    if array.dtype.kind not in "biuf":
        raise UnfitData(f"{what} takes numbers, not {array.dtype}")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise UnfitData(f"{what} is given NaN")
    if x.dtype in FLOATS:
        with np.errstate(over="ignore"):
            made = array.astype(dtype, copy=False)
        if made.dtype != array.dtype and (np.isinf(made) & np.isfinite(array)).any():
            raise UnfitData(f"{what} is given numbers that are too large for it")
        return made
    if array.dtype.kind == "f":
        raise UnfitData(f"{what} takes whole numbers, and is given {array.dtype}: convert the data, nothing is rounded")
    made = array.astype(dtype, copy=False)
    if made.dtype != array.dtype and not np.array_equal(made, array):
        raise UnfitData(f"{what} is given numbers outside its range ({array.min()} to {array.max()})")
    return made
