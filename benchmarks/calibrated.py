"""A network of the zoo whose random weights keep the size of signals, as ONNX: what gradients need to say anything.

    python benchmarks/calibrated.py NAME OUT.onnx [--size height=320 ...]

`onnxprune zoo build` gives weights as torch begins with them. Through thirty layers of those, signals and gradients
fade, and a criterion sees nothing but the layers at the ends. Here weights are drawn, and the statistics of
BatchNormalization measured, as zoo.py does it for torchvision's networks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import zoo

from onnxprune.models_zoo.building import build, write


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a network of the zoo with weights that keep signals' size.")
    parser.add_argument("name")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", action="append", default=[], metavar="KEY=N")
    options = parser.parse_args()
    torch.set_num_threads(1)
    built = build(options.name, {key: int(value) for key, value in (size.split("=") for size in options.size)})
    (picture,) = built.inputs.values()
    pictures = torch.randn(zoo.CALIBRATION_IMAGES, *picture.shape[1:])
    with torch.no_grad():
        zoo.draw_weights(built.module)
        zoo.calibrate(built.module, pictures)
    write(built, options.out)


if __name__ == "__main__":
    main()
