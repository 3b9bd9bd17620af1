"""Forward plus backward of a translated model against the torchvision module that it was exported from, interleaved.

    python benchmarks/bridge_speed.py resnet18=resnet18.onnx mobilenet_v3_small=mobilenet_v3_small.onnx

Both train on the same random images; every round runs both, in turns first; the median of their ratios counts.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from pathlib import Path
from typing import Any

import torch


def torchvision_module(name: str) -> Any:
    """Without its compiled operators where these do not match this torch: no classifier needs them."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in ("nms(Tensor a, Tensor b, float c) -> Tensor", "qnms(Tensor a, Tensor b, float c) -> Tensor"):
        with contextlib.suppress(RuntimeError):  # it is there
            library.define(schema)
    import torchvision

    kept.append(library)  # its operators go when it goes
    return getattr(torchvision.models, name)(weights=None)


kept: list[Any] = []


def step(module: Any, images: torch.Tensor) -> float:
    start = time.perf_counter()
    made = module(images)
    made = made[0] if isinstance(made, tuple) else made
    made.square().mean().backward()
    taken = time.perf_counter() - start
    module.zero_grad()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="+", help="torchvision's name of the network, =, the file of its export")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=128, help="pixels of a side")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    import onnxprune

    torch.set_num_threads(1)
    for pair in options.pairs:
        name, _, path = pair.partition("=")
        original, twin = torchvision_module(name).train(), onnxprune.to_torch(Path(path)).train()
        images = torch.randn(options.batch, 3, options.size, options.size)
        ratios = []
        for number in range(options.rounds + 2):
            order = (original, twin) if number % 2 else (twin, original)
            taken = {id(module): step(module, images) for module in order}
            if number >= 2:  # after warming up
                ratios.append(taken[id(twin)] / taken[id(original)])
        print(f"{name}: {statistics.median(ratios):.3f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
