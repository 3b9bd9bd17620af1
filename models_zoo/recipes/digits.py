"""Trains the shipped network and writes `digits.onnx` and `digits.npz`; the held-out images are read once, at the end.

    python -m onnxprune.models_zoo.recipes.digits [--seed 0] [--folder models_zoo]

About half a minute on one core. What makes the network worth pruning is how it is trained: channels are dropped at
random, whole (Dropout2d), so that no single one carries much, and the BatchNormalization scales pay for their size
(network slimming, Liu et al. 2017), so that some come to carry less than others.

BatchNormalization nodes stay in the file (`onnxprune.models_zoo.exporting`).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from onnxprune import models_zoo
from onnxprune.models_zoo.digits import INPUT, OUTPUT, Split
from onnxprune.models_zoo.exporting import export

WIDTHS = (16, 32, 64)
HELD_OUT = 500
EPOCHS = 60
BATCH = 128
PEAK_RATE = 0.15
WEIGHT_DECAY = 5e-4
SLIMMING = 1e-2
DROPOUT = 0.1


class Block(nn.Module):
    """relu(conv(relu(conv(x))) + x), the way round x strided where the block is."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        y = self.dropout(functional.relu(self.bn1(self.conv1(x))))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Digits(nn.Module):
    """Stem, three stages of two blocks, mean over the picture, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.stem = nn.Sequential(nn.Conv2d(1, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        self.stage1 = nn.Sequential(Block(first, first, 1), Block(first, first, 1), nn.Dropout2d(DROPOUT))
        self.stage2 = nn.Sequential(Block(first, second, 2), Block(second, second, 1), nn.Dropout2d(DROPOUT))
        self.stage3 = nn.Sequential(Block(second, third, 2), Block(third, third, 1), nn.Dropout2d(DROPOUT))
        self.head = nn.Linear(third, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch of images."""
        features: Tensor = self.stage3(self.stage2(self.stage1(self.stem(image))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def split() -> dict[str, NDArray[np.uint8]]:
    """The 1,797 images, shuffled once and for all, in the form in which they are shipped."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    arrays = {}
    for name, chosen in (("held_out", order[:HELD_OUT]), ("train", order[HELD_OUT:])):
        arrays[f"{name}_images"] = digits.images[np.sort(chosen)].astype(np.uint8)
        arrays[f"{name}_labels"] = digits.target[np.sort(chosen)].astype(np.uint8)
    return arrays


def tensors(arrays: dict[str, NDArray[np.uint8]], part: Split) -> tuple[Tensor, Tensor]:
    """Images from 0 to 1 with a channel axis, and labels."""
    images = torch.from_numpy(arrays[f"{part}_images"]).float()[:, None] / 16
    return images, torch.from_numpy(arrays[f"{part}_labels"]).long()


def augment(images: Tensor) -> Tensor:
    """Turned by up to 10 degrees, scaled by up to 10 %, moved by up to 0.8 pixels."""
    count = len(images)
    turn = (torch.rand(count) - 0.5) * 0.35
    scale = 1 + (torch.rand(count, 2) - 0.5) * 0.2
    move = (torch.rand(count, 2) - 0.5) * 0.4
    rows = [
        torch.stack([scale[:, 0] * turn.cos(), -turn.sin(), move[:, 0]], 1),
        torch.stack([turn.sin(), scale[:, 1] * turn.cos(), move[:, 1]], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(images: Tensor, labels: Tensor) -> Digits:
    """A network after a fixed number of epochs; nothing is chosen by looking at results."""
    network = Digits()
    scales = [module.weight for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    optimizer = torch.optim.SGD(network.parameters(), PEAK_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=EPOCHS * steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(images))
        for chosen in order[: steps * BATCH].reshape(steps, BATCH):
            loss = functional.cross_entropy(network(augment(images[chosen])), labels[chosen], label_smoothing=0.05)
            loss = loss + SLIMMING * torch.stack([scale.abs().sum() for scale in scales]).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return network.eval()


def main() -> None:
    """Train, measure once, write."""
    parser = argparse.ArgumentParser(description="Train the shipped network anew.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(models_zoo.__path__[0]))
    options = parser.parse_args()
    start = time.perf_counter()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # tensors this small gain nothing from more, and sums stay in one order
    arrays = split()
    network = train(*tensors(arrays, "train"))
    images, labels = tensors(arrays, "held_out")
    with torch.no_grad():
        accuracy = (network(images).argmax(1) == labels).float().mean().item()
    proto = export(network, {INPUT: torch.zeros(2, 1, 8, 8)}, [OUTPUT])
    onnx.save(proto, options.folder / "digits.onnx")
    np.savez_compressed(options.folder / "digits.npz", **arrays)  # type: ignore[arg-type]  # the stubs see an option
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"{count} parameters, {accuracy:.1%} of {HELD_OUT} held-out digits, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
