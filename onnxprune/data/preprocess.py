"""From pixels to the numbers that a model was trained on.

    (H, W, C) of 0 to 255 -> color: rgb, bgr or gray -> * scale - mean, / std -> layout: nchw or nhwc

What is not said, the model's input mostly shows: its type, where its 1 or 3 channels are, how large it is. Where it
does not, nothing is guessed but asked for.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import UserError
from onnxprune.graph.dims import Input
from onnxprune.graph.probes import FLOATS
from onnxprune.text.kinds import is_number, is_whole
from onnxprune.text.names import suggest
from onnxprune.text.toml_reader import table_of

Array = NDArray[Any]

LAYOUTS = ("nchw", "nhwc")
COLORS = {"rgb": 3, "bgr": 3, "gray": 1}
MOST_SIDE = 1 << 14
"""Of an image as the model gets it."""


@dataclass(frozen=True)
class Preprocess:
    """From pixels to numbers; None: what the model's input suggests."""

    size: tuple[int, int] | None = None
    """Height and width; None: those of the input, and where it leaves them open, each image's own."""
    mean: tuple[float, ...] | None = None
    """Taken off each channel, after scaling."""
    std: tuple[float, ...] | None = None
    """Each channel is divided by it, after the mean was taken off."""
    layout: str | None = None
    """`nchw` or `nhwc`."""
    color: str | None = None
    """`rgb`, `bgr` or `gray`."""
    scale: float | None = None
    """What pixels from 0 to 255 are multiplied by; None: 1/255, and 1 where the input takes whole numbers."""

    def __post_init__(self) -> None:
        _require(self.size is None or _is_size(self.size), "size", "two whole numbers, height and width", self.size)
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            _require(numbers is None or _is_colors(numbers), name, "one number, or one for each channel", numbers)
        _require(self.std is None or all(self.std), "std", "other than 0", self.std)
        _require(self.layout in (None, *LAYOUTS), "layout", " or ".join(LAYOUTS), self.layout)
        _require(self.color in (None, *COLORS), "color", " or ".join(COLORS), self.color)
        _require(self.scale is None or _is_scale(self.scale), "scale", "a number above 0", self.scale)


def read_preprocess(path: str | Path) -> Preprocess:
    """The options of a TOML file, whose keys are the fields of `Preprocess`."""
    return preprocess_of(table_of(path), repr(str(path)))


def preprocess_of(data: Mapping[str, Any], where: str) -> Preprocess:
    """The options of a table; `where` is how errors call it."""
    known = [item.name for item in fields(Preprocess)]
    for key in data:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}{suggest(key, known)} (there are: {', '.join(known)})")
    try:
        return Preprocess(**{key: _read(key, value) for key, value in data.items()})
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _read(key: str, value: Any) -> Any:
    if key == "size" and is_whole(value):
        return value, value
    if key in ("mean", "std") and is_number(value):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def decided(x: Input, how: Preprocess) -> Preprocess:
    """The same with nothing left open that the input settles."""
    what = f"input {x.name!r} of shape [{', '.join(map(str, x.shape))}]"
    if len(x.shape) != 4:
        raise UserError(f"images need an input of 4 axes (batch, channels, height, width), not {what}")
    lengths = [d if isinstance(d, int) else x.uses.axes.get(axis) for axis, d in enumerate(x.shape)]
    layout = how.layout or _layout(lengths, what)
    channels, *sides = (lengths[axis] for axis in ((1, 2, 3) if layout == "nchw" else (3, 1, 2)))
    color = how.color or ("gray" if channels == 1 else "rgb")
    if channels not in (None, COLORS[color]):
        raise UserError(f"{what} takes {channels} channels as {layout}, and color {color} makes {COLORS[color]}")
    for name, numbers in (("mean", how.mean), ("std", how.std)):
        if numbers is not None and len(numbers) not in (1, COLORS[color]):
            raise UserError(f"{name} has {len(numbers)} numbers, and color {color} makes {COLORS[color]} channels")
    if x.dtype not in FLOATS and (how.mean, how.std, how.scale) != (None, None, None):
        raise UserError(f"{what} takes whole numbers, pixels as they are: mean, std and scale are for floats")
    scale = how.scale if how.scale is not None else 1 / 255 if x.dtype in FLOATS else 1
    return replace(how, layout=layout, color=color, scale=scale, size=_sides(sides, how.size, what))


def prepared(pixels: Array, how: Preprocess, x: Input) -> Array:
    """From (height, width, channels) of 0 to 255 to what the input takes, without the batch axis."""
    made = pixels[..., ::-1] if how.color == "bgr" else pixels
    if x.dtype in FLOATS:
        made = made.astype(np.float32) * np.float32(how.scale or 1)
        if how.mean is not None:
            made -= np.array(how.mean, np.float32)
        if how.std is not None:
            made /= np.array(how.std, np.float32)
    return np.ascontiguousarray(made.transpose(2, 0, 1) if how.layout == "nchw" else made)


def _layout(lengths: Sequence[int | None], what: str) -> str:
    found = [name for name, axis in zip(LAYOUTS, (1, 3), strict=True) if lengths[axis] in COLORS.values()]
    if len(found) != 1:
        raise UserError(f"{what} does not show where its channels are: give the layout, {' or '.join(LAYOUTS)}")
    return found[0]


def _sides(sides: Sequence[int | None], asked: tuple[int, int] | None, what: str) -> tuple[int, int] | None:
    height, width = sides
    if asked is not None:
        if height not in (None, asked[0]) or width not in (None, asked[1]):
            raise UserError(f"size {asked[0]}x{asked[1]} does not fit {what}")
        return asked
    if height is not None and width is not None:
        return height, width
    if height is not None or width is not None:
        raise UserError(f"{what} leaves one side of the images open: give their size")
    return None


def _require(holds: bool, name: str, what: str, value: object) -> None:
    if not holds:
        raise UserError(f"{name} must be {what}, not {reprlib.repr(value)}")


def _is_size(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(is_whole(n) and 0 < n <= MOST_SIDE for n in value)


def _is_colors(value: object) -> bool:
    return isinstance(value, tuple) and len(value) in (1, 3) and all(is_number(n) and math.isfinite(n) for n in value)


def _is_scale(value: object) -> bool:
    return isinstance(value, int | float) and is_number(value) and 0 < value < math.inf
