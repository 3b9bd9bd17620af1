"""From samples as they are kept to what a module takes: on its device, augmented, as preprocessing says.

bytes (N, H, W, C) -> floats (N, C, H, W) of 0 to 255 -> augment -> * scale - mean, / std -> layout of the input
arrays             -> augment, where an input is a stack of images -> as they are
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onnxprune.data.preprocess import COLORS, Preprocess
from onnxprune.errors import UserError
from onnxprune.training.augment import Augment, draw
from onnxprune.training.recipe import Recipe
from onnxprune.training.samples import Array, Raw, Samples


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step works on; what a task is handed."""

    inputs: Mapping[str, Tensor]
    """By name, in the order in which the module takes them."""
    labels: Tensor | None
    count: int
    """Samples that count; behind them come copies of the last one, where a model takes full batches only."""


@dataclass(frozen=True)
class Feed:
    """How samples reach a module."""

    names: tuple[str, ...]
    """Of its inputs."""
    device: torch.device
    augment: Augment | None = None
    fixed: int | None = None
    """The only number of samples that it takes at once."""
    dtype: torch.dtype = torch.float32
    """Of images."""

    def training(self, samples: Samples, recipe: Recipe, epoch: int, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
        """The batches of an epoch, functions of (seed, epoch, step) alone."""
        size = self.size(recipe)
        part = slice(rank * size, (rank + 1) * size)
        order = np.random.default_rng([recipe.seed, epoch])
        for step, raw in enumerate(samples.shuffled(order, size * ranks, part)):
            draws = None
            if self.augment:
                draws = draw(np.random.default_rng([recipe.seed, epoch, step]), size * ranks, part)
            yield self.batch(raw, samples.pixels, draws)

    def measuring(self, samples: Samples, size: int, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
        """All samples as they are, every process its share of the batches."""
        for step, raw in enumerate(samples.ordered(self.fixed or size)):
            if step % ranks == rank:
                yield self.batch(raw, samples.pixels, None)

    def size(self, recipe: Recipe) -> int:
        """Samples per step and process."""
        return self.fixed or recipe.batch

    def steps(self, samples: Samples, recipe: Recipe, ranks: int = 1) -> int:
        """Steps per epoch."""
        return max(1, samples.count // (self.size(recipe) * ranks))

    def batch(self, raw: Raw, pixels: Preprocess | None, draws: NDArray[np.float32] | None) -> Batch:
        """One batch on the device."""
        count = len(raw)
        if self.fixed is not None and count < self.fixed:
            raw = raw.taken(np.minimum(np.arange(self.fixed), count - 1))
        if pixels is not None:
            tensors = [self._image(raw.arrays[0], pixels, draws)]
        else:
            tensors = [_tensor(array).to(self.device) for array in raw.arrays]
            if self.augment is not None and draws is not None:
                tensors = [_augmented(self.augment, tensors, draws)]
        tensors = [x.contiguous(memory_format=torch.channels_last) if _is_map(x) else x for x in tensors]
        labels = None if raw.labels is None else _labels(raw.labels[:count]).to(self.device)
        return Batch(dict(zip(self.names, tensors, strict=True)), labels, count)

    def _image(self, array: Array, how: Preprocess, draws: NDArray[np.float32] | None) -> Tensor:
        images = torch.from_numpy(array).to(self.device).permute(0, 3, 1, 2)
        if how.color == "bgr":
            images = images.flip(1)
        if draws is not None or self.dtype.is_floating_point:
            images = images.float()
        if self.augment is not None and draws is not None:
            images = self.augment.apply(images, draws, 255.0)
        if self.dtype.is_floating_point:
            images = images * np.float32(how.scale or 1).item()
            if how.mean is not None:
                images = images - images.new_tensor(how.mean).view(1, -1, 1, 1)
            if how.std is not None:
                images = images / images.new_tensor(how.std).view(1, -1, 1, 1)
        else:
            images = images.round() if draws is not None else images
        images = images.to(self.dtype)
        return images.contiguous() if how.layout == "nchw" else images.permute(0, 2, 3, 1).contiguous()


def laid_out(module: nn.Module) -> nn.Module:
    """The module with its kernels as inputs come, channels last, which convolutions are quickest with."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # not in its stubs


def _is_map(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_floating_point()


def _augmented(augment: Augment, tensors: list[Tensor], draws: NDArray[np.float32]) -> Tensor:
    """The only input, if it is a stack of images."""
    x = tensors[0]
    axis = next((i for i in (1, 3) if x.dim() == 4 and x.shape[i] in COLORS.values()), None)
    if len(tensors) > 1 or axis is None or not x.is_floating_point():
        raise UserError("flip, crop, jitter and cutout are for models of one input that takes images of floats")
    if augment.jitter:
        raise UserError("jitter needs images as files: of arrays nobody knows which value is white")
    moved = x if axis == 1 else x.permute(0, 3, 1, 2)
    made = augment.apply(moved, draws, float("inf"))
    return made if axis == 1 else made.permute(0, 2, 3, 1).contiguous()


def _tensor(array: Array) -> Tensor:
    """NumPy's bfloat16 is nothing that torch knows."""
    known = array.dtype.kind in "biuf" and array.dtype.name in _KNOWN
    return torch.from_numpy(np.ascontiguousarray(array if known else array.astype(np.float32)))


_KNOWN = {"bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64"}


def _labels(labels: Array) -> Tensor:
    """Class numbers, or what a task makes of floats."""
    if labels.dtype.kind not in "biu":
        return _tensor(labels)
    flat = labels.reshape(len(labels)) if labels.size == len(labels) else labels
    return torch.from_numpy(np.ascontiguousarray(flat.astype(np.int64)))
