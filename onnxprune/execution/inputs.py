"""Random inputs on which any model runs, the same for the same seed.

Shapes come from `dims`. Values must be valid as well as random: an index below the length of the table it is looked up
in, a mask that hides nothing, a sequence length within the sequence. Where the guess of a shape is wrong, onnxruntime
says so, and `runnable_feeds` goes on to the next one.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.errors import OpenSizes, UserError
from onnxprune.files.model import Model
from onnxprune.graph.dims import Dims, Input, candidates, default_dims, inputs_of, kind_of, known, parse_dims

__all__ = ["Feeds", "Runnable", "default_dims", "parse_dims", "random_feeds", "runnable_feeds", "runnable_together"]

Array = NDArray[Any]
Feeds = dict[str, Array]
Session = Any
"""An onnxruntime.InferenceSession; not imported here, it takes 150 ms."""

_MASK = re.compile(r"mask")
_HIDES = re.compile(r"pad|ignore")
"""torch's key_padding_mask hides where it is true; everybody else's mask hides where it is false."""
_POSITION = re.compile(r"position|pos_id")
_TYPE = re.compile(r"token_type|segment|type_id")
_LENGTH = re.compile(r"len")
_RATE = re.compile(r"^sr$|sampl\w*_?rate")
_IMAGE_SIZE = re.compile(r"(im|image|img|orig\w*|target)_?(shape|size|info)|^(h|w|height|width)$")
_SCALE = re.compile(r"scale|sigma|time_?step|alpha|temperature|strength|threshold")
_MAX_MESSAGE = 240
LARGEST = 2 << 30
"""Bytes that one input may take while it is made."""
_MADE_AS = 4
"""Bytes per entry: random numbers are drawn in nothing smaller."""


@dataclass(frozen=True)
class Runnable:
    """Inputs that onnxruntime has run."""

    feeds: Feeds
    dims: dict[str, int]
    """How their free dimensions were bound."""


def random_feeds(model: Model, *, dims: Dims | None = None, seed: int = 0, batch: int = 1) -> Feeds:
    """An array for every input; free dimensions that `dims` does not bind get their most likely size."""
    inputs = inputs_of(model, dims)
    return _feeds(inputs, candidates(inputs, dims, batch=batch)[0], seed)


def runnable_feeds(
    model: Model,
    session: Session | Callable[[], Session] | None = None,
    *,
    dims: Dims | None = None,
    seed: int = 0,
    batch: int = 1,
) -> Runnable:
    """Inputs on which the session runs without error: the first of a few candidate bindings that does."""
    if session is None:
        from onnxprune.execution.runtime import session as open_session

        session = open_session(model)
    elif not hasattr(session, "run"):
        session = session()
    return runnable_together([(model, session)], dims=dims, seed=seed, batch=batch)[0]


def runnable_together(
    pairs: Sequence[tuple[Model, Session]],
    *,
    names: Sequence[str] = (),
    dims: Dims | None = None,
    seed: int = 0,
    batch: int = 1,
) -> list[Runnable]:
    """The same for several models: equal names get equal sizes in all of them, and all of them must run."""
    inputs = [inputs_of(model, dims) for model, _ in pairs]
    every = tuple(x for own in inputs for x in own)
    bindings = candidates(every, dims, batch=batch)
    first, said = "", ""
    tries: Iterator[dict[str, int]] = iter(bindings)
    for told in (False, True):
        for binding in tries:
            found: list[Runnable] = []
            for index, (own, (_, session)) in enumerate(zip(inputs, pairs, strict=True)):
                sizes = known(own, binding)
                try:
                    feeds = _feeds(own, sizes, seed)
                    caller(session, feeds, quiet=True)()
                except UserError as error:
                    first = first or str(error)
                    break
                except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
                    first = first or (f"{names[index]}: " if names else "") + _advice(own, bindings, dims or {}, error)
                    said += str(error)
                    break
                found.append(Runnable(feeds, sizes))
            else:
                return found
        if not told:
            tries = _told(every, bindings[0], dims or {}, said)
    raise UserError(first)


def _told(inputs: tuple[Input, ...], binding: Dims, dims: Dims, said: str) -> Iterator[dict[str, int]]:
    """Bindings of the sizes that onnxruntime's complaints mention: an exporter may have baked its example's in."""
    mentioned = re.findall(r"\{([0-9,]+)\}|\b([0-9]+) by ([0-9]+)\b", said)
    numbers = [int(n) for parts in mentioned for part in parts for n in part.split(",") if n]
    sizes = [n for n in dict.fromkeys(numbers) if 1 < n <= 4096][:6]
    given = known(inputs, dims)
    free = {key: kind_of(inputs, key) for key in binding if key not in given}
    for batch in (1, *(n for n in sizes if n <= 16)):
        for size in sizes:
            yield {**binding, **{key: batch if kind == "batch" else size for key, kind in free.items()}}


def caller(session: Session, feeds: Feeds, *, quiet: bool = False) -> Callable[[], object]:
    """One run of the session, ready to be repeated: inputs converted beforehand, outputs left where they are made."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    if quiet:
        options.log_severity_level = 4  # a failed attempt is no news
    if any(array.dtype.kind in "OU" for array in feeds.values()):
        return lambda: session.run(None, feeds, options)  # there are no OrtValues of strings
    values = {name: ort_value(array) for name, array in feeds.items()}
    return lambda: session.run_with_ort_values(None, values, options)


def ort_value(array: Array) -> Any:
    """The array as onnxruntime takes it, also where NumPy itself has no such type (bfloat16, float8)."""
    import onnxruntime

    if array.dtype.isbuiltin == 1:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    dtype = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    bits = array.view(np.uint8 if array.dtype.itemsize == 1 else np.uint16)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, dtype)


def _feeds(inputs: tuple[Input, ...], binding: Dims, seed: int) -> Feeds:
    sizes = {kind_of(inputs, key): size for key, size in binding.items()}
    # seeded by name: an input more or less does not change the others
    rngs = (np.random.default_rng([seed, zlib.crc32(x.name.encode())]) for x in inputs)
    return {x.name: _values(rng, x, binding, sizes) for x, rng in zip(inputs, rngs, strict=True)}


def _values(rng: np.random.Generator, x: Input, binding: Dims, sizes: dict[str, int]) -> Array:
    shape, name = x.sizes(binding), x.name.lower()
    dtype = onnx.helper.tensor_dtype_to_np_dtype(x.dtype)
    size = math.prod(shape) * max(dtype.itemsize, _MADE_AS)
    if size > LARGEST:
        raise OpenSizes(
            f"input {x.name!r} of shape {list(shape)} would take {size / 2**30:,.0f} GiB, and inputs are made up to "
            f"{LARGEST >> 30} GiB: give smaller sizes with --dim where they are free; --verify structural needs none"
        )
    if dtype.kind == "O":
        return np.full(shape, "a", dtype=object)
    if _MASK.search(name) and (dtype.kind in "biu" or len(shape) < 4):
        return np.full(shape, 0 if dtype.kind == "b" and _HIDES.search(name) else 1, dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if x.uses.below is None:
        if _RATE.search(name):
            return np.full(shape, 16000, dtype)
        if _IMAGE_SIZE.search(name):
            return np.full(shape, sizes.get("image", 224), dtype)
    return _integers(rng, x, shape, sizes, dtype) if dtype.kind in "iu" else _floats(rng, name, shape, dtype)


def _floats(rng: np.random.Generator, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    # scales and time steps end up in roots and logarithms
    positive = len(shape) < 2 or _SCALE.search(name)
    values = rng.uniform(0.1, 1.0, shape) if positive else rng.standard_normal(shape, dtype=np.float32)
    return np.asarray(values).astype(dtype)


def _integers(
    rng: np.random.Generator, x: Input, shape: tuple[int, ...], sizes: dict[str, int], dtype: np.dtype[Any]
) -> Array:
    name, below = x.name.lower(), x.uses.below
    if _POSITION.search(name) and shape:
        return np.broadcast_to(np.arange(shape[-1]) % (below or shape[-1] or 1), shape).astype(dtype)
    if _TYPE.search(name):
        return np.zeros(shape, dtype)
    if below is not None:
        return rng.integers(0, max(below, 1), shape).astype(dtype)
    if x.uses.is_length or (_LENGTH.search(name) and len(shape) < 2):
        return np.full(shape, sizes.get("sequence", sizes.get("samples", 1)), dtype)
    if dtype.itemsize == 1 and len(shape) > 2:  # pixels
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype) if shape else np.ones(shape, dtype)


def _advice(inputs: tuple[Input, ...], bindings: Sequence[Dims], dims: Dims, error: Exception) -> str:
    message = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip().split("\n")[0])
    message = message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "..."
    given = known(inputs, dims)
    free = [key for key in known(inputs, bindings[0]) if key not in given]
    if not free:
        return f"onnxruntime cannot run the model on random inputs: {message}"
    tried = "; ".join(",".join(f"{key}={binding[key]}" for key in free) for binding in bindings[:3])
    options = " ".join(f"--dim '{key}=N'" for key in free)
    shapes = ", ".join(f"{x.name}{list(x.shape)}" for x in inputs if any(isinstance(d, str) for d in x.shape))
    guess = f"onnxruntime cannot run the model on inputs of guessed size, give {options} ({shapes}; tried {tried})"
    return f"{guess}: {message}"
