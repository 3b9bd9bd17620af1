"""The arrays that benchmarks measure on: 2,000 test pictures of CIFAR-10 with labels, 2,048 training ones without.

    python benchmarks/cifar_arrays.py cifar10.zip OUT

writes OUT/test.npz and OUT/calib.npz, normalised as the networks of `onnxprune zoo train` take them; the same pictures
each time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from onnxprune.models_zoo.pictures import pictures
from onnxprune.models_zoo.training import normalised

CALIBRATION, TEST = 2048, 2000


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the arrays that benchmarks measure on.")
    parser.add_argument("pictures", type=Path, help="CIFAR-10 as class folders, or a .zip of them")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = pictures(options.pictures, 32)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(found.train.labels))[:CALIBRATION]
    np.savez(options.out / "calib.npz", input=normalised(found.train.pictures[chosen]).numpy())
    chosen = rng.permutation(len(found.held_out.labels))[:TEST]
    labels = found.held_out.labels[chosen]
    np.savez(options.out / "test.npz", input=normalised(found.held_out.pictures[chosen]).numpy(), labels=labels)


if __name__ == "__main__":
    main()
