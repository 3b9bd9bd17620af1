"""How the small networks of the zoo are trained: one recipe, a few numbers per network, one core.

    bytes -> crop out of a border of 4 px, flip -> network -> cross-entropy with smoothed labels
    SGD with momentum, or AdamW, under one cycle of the learning rate (Smith and Topin 2019)

The held-out pictures are read once, at the end: nothing is chosen by them. The same seed gives the same network on the
same machine with the same torch: sums are made by one thread, in one order. Products are of bfloat16 (autocast), which
halves the time where a processor has it; weights stay float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from onnxprune.errors import UserError
from onnxprune.models_zoo.pictures import Part
from onnxprune.models_zoo.trainable import Recipe

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of CIFAR-10's pixels, from 0 to 1, per channel: what the networks' input is normalised by."""
BORDER = 4
SMOOTHING = 0.1
WARM_UP = 0.25
"""The share of the steps in which the rate rises."""
LEAST_STEPS = 5
"""Of the cycle: in one of four the rise would end where it starts, and torch divides by its length."""
_EVALUATION = 500


def train(
    network: nn.Module, part: Part, recipe: Recipe, *, seed: int = 0, on_step: Callable[[int, int, float], None]
) -> nn.Module:
    """The network, trained on one thread; `on_step` hears the step, how many there are, and the loss."""
    if len(part.labels) < recipe.batch:
        raise UserError(f"{len(part.labels)} pictures to train on are less than one batch of {recipe.batch}")
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    network = network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # missing in its stubs
    steps = len(part.labels) // recipe.batch * recipe.epochs
    optimizer = _optimizer(network, recipe)
    length = max(steps, LEAST_STEPS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=length, pct_start=WARM_UP)
    padded = np.pad(part.pictures, ((0, 0), (BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="reflect")
    labels = torch.from_numpy(part.labels)
    done = 0
    for _ in range(recipe.epochs):
        order = torch.randperm(len(labels), generator=generator)
        for chosen in order[: steps // recipe.epochs * recipe.batch].reshape(-1, recipe.batch):
            batch = normalised(augmented(padded, chosen, generator))
            with torch.autocast("cpu", torch.bfloat16):
                loss = functional.cross_entropy(network(batch), labels[chosen], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            done += 1
            on_step(done, steps, loss.item())
    return network.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload,no-any-return]  # likewise


def accuracy(network: nn.Module, part: Part) -> float:
    """The fraction of pictures that it tells right, in float32."""
    right = 0
    with torch.no_grad():
        for start in range(0, len(part.labels), _EVALUATION):
            here = slice(start, start + _EVALUATION)
            found = network(normalised(part.pictures[here])).argmax(1).numpy()
            right += int((found == part.labels[here]).sum())
    return right / len(part.labels)


def augmented(padded: NDArray[np.uint8], chosen: Tensor, generator: torch.Generator) -> NDArray[np.uint8]:
    """Each picture at a place of its own within its border, half of them mirrored."""
    count, side = len(chosen), padded.shape[1] - 2 * BORDER
    moves = torch.randint(2 * BORDER + 1, (2, count, 1), generator=generator).numpy()
    rows, columns = moves + np.arange(side)
    mirrored = torch.rand(count, generator=generator).numpy() < 0.5
    columns[mirrored] = columns[mirrored, ::-1]
    cut: NDArray[np.uint8] = padded[chosen.numpy()[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cut


def normalised(pictures: NDArray[np.uint8]) -> Tensor:
    """Bytes (N, H, W, 3) as what the networks take: (N, 3, H, W)."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        network.parameters(), recipe.rate, momentum=0.9, weight_decay=recipe.weight_decay, nesterov=True
    )
