"""The shipped network and its data: what is asked of a pruned copy is what was asked of the original.

A residual network of three stages (widths 16, 32 and 64, two blocks each, BatchNormalization nodes kept) that reads the
UCI 8x8 handwritten digits. 1,297 of the 1,797 images trained it (`onnxprune.models_zoo.recipes.digits`); the other 500
were held out, and only they say how good a network is: this one reads 99.2 % of them right.

The data set: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49 (CC BY 4.0); these are the images that scikit-learn carries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import UserError
from onnxprune.execution import runtime
from onnxprune.files.model import Model

Split = Literal["train", "held_out"]

INPUT = "image"
"""The network's input: float32 (batch, 1, 8, 8), from 0 (paper) to 1 (ink)."""
OUTPUT = "logits"
"""Its output: float32 (batch, 10)."""


def model_path() -> Path:
    """The trained network. A real file, so that its weights can be mapped."""
    return _shipped("digits.onnx")


def data(split: Split) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images (N, 1, 8, 8) from 0 to 1, and their digits (N,); `split` is "train" or "held_out"."""
    arrays = _arrays()
    if f"{split}_images" not in arrays:
        raise UserError(f"the digits have no split {split!r}; there are 'train' and 'held_out'")
    images = arrays[f"{split}_images"][:, None].astype(np.float32) / np.float32(16)  # stored as counts from 0 to 16
    return images, arrays[f"{split}_labels"].astype(np.int64)


def held_out() -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """The images that were held out, and their digits: `onnxprune.models_zoo.digits:held_out` as data."""
    yield data("held_out")


def training() -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """The images that it was trained on, and their digits: `onnxprune.models_zoo.digits:training` as data."""
    yield data("train")


def seen() -> Iterator[NDArray[np.float32]]:
    """The images that it was trained on, without their digits: what it may be calibrated on."""
    yield data("train")[0]


def accuracy(
    network: Model | Callable[[NDArray[np.float32]], NDArray[np.float32]],
    *,
    split: Split = "held_out",
    threads: int = 1,
) -> float:
    """The fraction of digits read right, by a model or by anything that maps images to logits."""
    images, labels = data(split)
    logits = _logits(network, images, threads) if isinstance(network, Model) else network(images)
    if logits.shape != (len(labels), 10):
        raise UserError(f"the digits need ten logits per image, shape {(len(labels), 10)}; got {logits.shape}")
    return float(np.mean(logits.argmax(axis=1) == labels))


def _logits(model: Model, images: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
    inputs, outputs = [[value.name for value in values] for values in (model.graph.input, model.graph.output)]
    if inputs != [INPUT] or outputs != [OUTPUT]:
        raise UserError(f"a network for the digits maps {INPUT!r} to {OUTPUT!r}; this one maps {inputs} to {outputs}")
    logits: NDArray[np.float32] = runtime.run(runtime.session(model, threads=threads), {INPUT: images})[OUTPUT]
    return logits


@cache
def _arrays() -> dict[str, NDArray[np.uint8]]:
    with np.load(_shipped("digits.npz"), allow_pickle=False) as archive:
        return dict(archive)


def _shipped(name: str) -> Path:
    return Path(str(files("onnxprune.models_zoo") / name))
