"""One process of several: `torchrun --nproc-per-node N -m onnxprune finetune ...` says in the environment which.

Each process takes its part of every step's samples and gradients are averaged (DistributedDataParallel), so N processes
do what one does with N times the batch. Process 0 alone writes and talks.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from onnxprune.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """Which process this is."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wrapped(self, module: nn.Module) -> nn.Module:
        """A module whose gradients are averaged over all processes."""
        if self.count == 1:
            return module
        warnings.filterwarnings("ignore", "find_unused_parameters=True")
        # a frozen tail, or an output that the loss does not use, leaves parameters without gradients
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)

    def summed(self, numbers: list[float]) -> list[float]:
        """Over all processes."""
        if self.count == 1:
            return numbers
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        found: list[float] = total.tolist()
        return found

    def share(self, module: nn.Module) -> None:
        """Everybody gets the running statistics of process 0; parameters are the same already."""
        if self.count > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, 0)

    def told(self, thing: Any) -> Any:
        """What process 0 has."""
        if self.count == 1:
            return thing
        box = [thing]
        distributed.broadcast_object_list(box, device=self.device)
        return box[0]

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            distributed.barrier()


def device_of(name: str) -> torch.device:
    """`auto`: a GPU if there is one; else as torch calls it."""
    if name == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(accelerator)
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot compute on device {name!r}: {said}") from None
    return device


@contextmanager
def joined(device: str = "auto") -> Iterator[Ranks]:
    """This process among those that torchrun has started, or alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(device=device_of(device))
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    mine = device_of(device)
    if mine.type == "cuda":
        mine = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(mine)
    distributed.init_process_group("nccl" if mine.type == "cuda" else "gloo")
    try:
        yield Ranks(rank, count, mine)
    finally:
        distributed.destroy_process_group()


def copied(tensor: Tensor) -> Tensor:
    """On the CPU, apart from the original."""
    return tensor.detach().to("cpu", copy=True)
