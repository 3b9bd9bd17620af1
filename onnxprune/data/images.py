"""A folder of images, or a `.zip` of them, as what an image classifier takes.

    root/cat/1.jpg, root/cat/more/2.jpg, root/dog/3.jpg      labels 0 0 1: the folders in order of their names
    root/1.jpg, root/2.jpg                                   no labels
    root/val/cat/1.jpg, root/val/dog/3.jpg                   a folder that is alone is gone into

    decode -> cover (H, W): scale until both sides are filled, cut the rest off evenly -> see preprocess

Only the plain formats are decoded (none that runs programs), none that is absurdly large, and an archive is read where
it lies, so no name in it can lead anywhere. An image that cannot be read is left out, counted and named.
"""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.data.arrays import spread
from onnxprune.data.preprocess import Preprocess, decided, prepared
from onnxprune.errors import MissingExtra, UnfitData
from onnxprune.execution.batches import Chunk
from onnxprune.execution.form import Form
from onnxprune.graph.dims import Input

Array = NDArray[Any]
Parts = tuple[str, ...]
"""The names on the way from the root to an image."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's names for pixels of 8 bits; deeper ones it would clip."""
MOST_BYTES = 1 << 28
"""Of the file of one image; how many pixels are too many is for Pillow to say."""
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass(frozen=True)
class ImageFiles:
    """A source of samples: images, each decoded when its turn comes."""

    root: Path
    images: tuple[Parts, ...]
    labels: tuple[int, ...] | None
    names: tuple[str, ...]
    """Of the classes."""
    x: Input
    how: Preprocess
    """With everything decided but the size, which may be each image's own."""
    limit: int | None
    left_out: dict[str, str] = field(default_factory=dict)
    """Images that could not be read, and why; filled on the way."""
    empty: tuple[str, ...] = ()
    """Classes without images: they have numbers all the same, else those behind them would have others."""

    @property
    def samples(self) -> int:
        """How many samples there are to read."""
        return len(self.images) if self.limit is None else min(len(self.images), self.limit)

    @property
    def classes(self) -> int:
        """How many class folders there are, if there are any."""
        return len(self.names)

    def notes(self) -> list[str]:
        """What to know about these images."""
        said = []
        if self.left_out:
            first = "; ".join(f"{name} ({why})" for name, why in list(self.left_out.items())[:3])
            more = ", ..." if len(self.left_out) > 3 else ""
            said.append(f"{len(self.left_out)} of {self.samples} images cannot be read and are left out: {first}{more}")
        if self.empty:
            said.append(f"class folders without images keep their numbers: {', '.join(self.empty)}")
        if all(name.isdecimal() for name in self.names) and list(self.names) != sorted(self.names, key=int):
            said.append("class folders are numbered in order of their names as text, 10 before 2")
        return said

    def chunks(self, size: int) -> Iterator[Chunk]:
        """One image at a time."""
        with self.opened() as archive:
            for i in spread(len(self.images), self.limit):
                pixels = self.pixels(i, archive)
                if pixels is not None:
                    labels = None if self.labels is None else np.array([self.labels[i]])
                    name = "/".join(self.images[i])
                    yield Chunk({self.x.name: prepared(pixels, self.how, self.x)[None]}, labels, repr(name))

    @contextmanager
    def opened(self) -> Iterator[zipfile.ZipFile | None]:
        """The archive, if the images lie in one; it may be read by several threads."""
        with ExitStack() as stack:
            yield stack.enter_context(zipfile.ZipFile(self.root)) if self.root.is_file() else None

    def pixels(self, index: int, archive: zipfile.ZipFile | None) -> Array | None:
        """An image as (height, width, channels) of 0 to 255; None: it cannot be read, which is noted."""
        try:
            return decoded(bytes_of(self.root, archive, self.images[index]), self.how)
        except Exception as error:  # noqa: BLE001  decoders fail in many ways, all of which mean the same here
            name = "/".join(self.images[index])
            said = str(error).partition(" <_io.")[0]  # Pillow names an object of ours, where it knows no format
            self.left_out[name] = " ".join(said.split())[:120] or type(error).__name__
            return None


def image_files(root: Path, form: Form, how: Preprocess, limit: int | None) -> ImageFiles:
    """The images under a root, and how they become what the model takes."""
    x = form.only("a folder of images")
    images = listed(root)
    depth = alone(images)
    foldered = sum(len(parts) > depth + 1 for parts in images)
    if 0 < foldered < len(images):
        raise UnfitData(
            f"{str(root)!r} holds {len(images) - foldered} images beside folders with {foldered} more: put all of them "
            f"into class folders, or none"
        )
    filled = {parts[depth] for parts in images} if foldered else set()
    empty = _empty(root.joinpath(*images[0][:depth]), filled) if filled else set()
    classes = tuple(sorted(filled | empty))
    if classes and {name.lower() for name in classes} <= _SPLITS:
        raise UnfitData(f"{str(root)!r} holds {' and '.join(classes)}, which are no classes: name one of these folders")
    labels = tuple(classes.index(parts[depth]) for parts in images) if classes else None
    return ImageFiles(root, tuple(images), labels, classes, x, decided(x, how), limit, empty=tuple(sorted(empty)))


def listed(root: Path) -> list[Parts]:
    """The images under a folder, or in a `.zip`, in order of their names."""
    _require_pillow()
    if root.exists() and not root.is_dir() and not root.is_file():
        raise UnfitData(f"{str(root)!r} is neither a folder nor a file")
    images = sorted(_zipped(root) if root.is_file() else _walked(root))
    if not images:
        raise UnfitData(f"{str(root)!r} holds no images ({', '.join(SUFFIXES)})")
    return images


def alone(images: list[Parts]) -> int:
    """How many folders, each alone in the one before, lead from the root to where there is a choice."""
    depth = 0
    while all(len(parts) > depth + 1 for parts in images) and len({parts[depth] for parts in images}) == 1:
        depth += 1
    return depth


def _empty(folder: Path, filled: set[str]) -> set[str]:
    """Folders beside those of the classes in which there is nothing at all; archives do not list such."""
    if not folder.is_dir():
        return set()
    beside = [item for item in folder.iterdir() if item.name not in filled and item.is_dir()]
    return {item.name for item in beside if not item.name.startswith(".") and not any(item.iterdir())}


def _walked(root: Path) -> Iterator[Parts]:
    """Images in a folder; class folders may be links, what lies in them is not followed further."""
    links = (item for item in root.iterdir() if item.is_symlink() and item.is_dir())
    for top in (root, *links):
        for folder, _, names in os.walk(top):
            path = Path(folder).relative_to(root).parts
            yield from ((*path, name) for name in names if is_image(name))


def _zipped(path: Path) -> Iterator[Parts]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [item.filename for item in archive.infolist() if not item.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise UnfitData(f"cannot read {str(path)!r}: {error}") from None
    return (tuple(name.split("/")) for name in names if is_image(name.rpartition("/")[2]))


def is_image(name: str) -> bool:
    """Whether a file is called like an image."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")  # ._x.jpg is what macOS leaves beside x.jpg


def bytes_of(root: Path, archive: zipfile.ZipFile | None, parts: Parts) -> bytes:
    """The file of one image; an error where that is no regular file, or absurdly large."""
    path, name = root.joinpath(*parts), "/".join(parts)
    if archive is None and not path.is_file():  # a pipe would never end
        raise ValueError("no regular file")
    size = path.stat().st_size if archive is None else archive.getinfo(name).file_size
    if size > MOST_BYTES:
        raise ValueError(f"{size >> 20} MiB are too many for an image")
    return path.read_bytes() if archive is None else archive.read(name)


def decoded(data: bytes, how: Preprocess) -> Array:
    """Pixels (height, width, channels) of 8 bits."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
        except UnidentifiedImageError:
            raise ValueError("no image of a known format") from None
        if image.mode not in _MODES:
            raise ValueError(f"its pixels are {image.mode}, not 8 bits per channel")
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA")  # straight to RGB, Pillow warns of transparency
        image = image.convert("L" if how.color == "gray" else "RGB")
    if how.size is not None:
        height, width = how.size
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.atleast_3d(np.asarray(image))


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401  to see whether it is there
    except ImportError:
        raise MissingExtra("to read images, install Pillow: pip install 'onnxprune[images]'") from None
