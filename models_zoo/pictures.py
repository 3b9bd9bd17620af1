"""Pictures in class folders, as arrays to train on: all of them at once, as bytes.

root/train/cat/1.jpg, root/test/cat/2.jpg      as the folders say
root/cat/1.jpg, root/dog/2.jpg                 every tenth of a class is held out
root.zip                                       likewise
"""

from __future__ import annotations

import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxprune.data import images
from onnxprune.data.preprocess import Preprocess
from onnxprune.errors import UserError

TRAIN, HELD_OUT = ("train", "training"), ("test", "testing", "val", "valid", "validation")
HOLD_OUT_EVERY = 10
MOST_BYTES = 1 << 32
"""Of pictures in memory."""


@dataclass(frozen=True)
class Part:
    """Pictures (N, height, width, 3) of 8 bits, and the number of each one's class."""

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Pictures:
    """What is trained on, and what tells how good the result is."""

    train: Part
    held_out: Part
    classes: tuple[str, ...]


def pictures(root: Path, side: int) -> Pictures:
    """Read and scale all pictures under a folder, or in a `.zip`."""
    if not root.exists():
        raise UserError(f"there is no {str(root)!r}: pictures lie in a folder of class folders, or in a .zip of them")
    found = images.listed(root)
    depth = images.alone(found)
    split = _is_split({parts[depth].lower() for parts in found if len(parts) > depth + 1})
    depth += split
    if any(len(parts) < depth + 2 for parts in found):
        raise UserError(f"{str(root)!r} has pictures outside of class folders: put each into the folder of its class")
    if len(found) * side * side * 3 > MOST_BYTES:
        raise UserError(f"{str(root)!r} holds {len(found)} pictures, too many for {MOST_BYTES >> 30} GiB of memory")
    classes = tuple(sorted({parts[depth] for parts in found}))
    chosen: tuple[list[images.Parts], list[images.Parts]] = ([], [])
    for i, parts in enumerate(found):
        is_held_out = parts[depth - 1].lower() in HELD_OUT if split else i % HOLD_OUT_EVERY == 0
        chosen[is_held_out].append(parts)
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(root)) if root.is_file() else None
        train, held_out = (_part(root, archive, part, side, classes, depth) for part in chosen)
    return Pictures(train, held_out, classes)


def _is_split(names: set[str]) -> bool:
    """Whether these folders are for training and for testing, instead of being classes."""
    return bool(names & set(TRAIN)) and bool(names & set(HELD_OUT)) and names <= {*TRAIN, *HELD_OUT}


def _part(
    root: Path,
    archive: zipfile.ZipFile | None,
    chosen: list[images.Parts],
    side: int,
    classes: tuple[str, ...],
    depth: int,
) -> Part:
    how = Preprocess(size=(side, side), color="rgb")
    number = {name: i for i, name in enumerate(classes)}
    pixels = np.empty((len(chosen), side, side, 3), np.uint8)
    for i, parts in enumerate(chosen):
        try:
            pixels[i] = images.decoded(images.bytes_of(root, archive, parts), how)
        except Exception as error:  # noqa: BLE001  decoders fail in many ways, all of which mean the same here
            raise UserError(f"cannot read {'/'.join(parts)!r} in {str(root)!r}: {error}") from None
    return Part(pixels, np.array([number[parts[depth]] for parts in chosen], np.int64))
