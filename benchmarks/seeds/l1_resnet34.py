"""OpenMMLab's L1-norm pruning of ResNet-34: its configurations A, B and C, and its guide's example, by the same cuts.

    python benchmarks/seeds/l1_resnet34.py OUT [--model resnet34.onnx]

prunes with the TOML files beside this script and prints FLOPs and parameters beside those published. Without --model
the weights are random: what goes from each layer is the same then, which channels these are is not. A model of
torchvision's names (`layer1.0.conv1`) with trained weights gives what its L1 norms say.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from command_line import built, onnxprune, table

HERE = Path(__file__).parent
PUBLISHED = {"a": (15.8, 7.8), "b": (24.2, 10.6), "c": (7.6, 7.3)}
"""Percent of FLOPs and of parameters that are gone."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Prune ResNet-34 as OpenMMLab's L1-norm recipes do.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, help="with trained weights; default: random ones")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = options.model or built(options.out, "resnet34")
    rows = []
    for name in ("a", "b", "c", "guide"):
        config, small = HERE / f"resnet34_{name}.toml", options.out / f"resnet34_{name}.onnx"
        found = onnxprune("prune", model, "-o", small, "--config", config, "--no-bench")
        before, after = found["before"], found["after"]
        macs, params = (100 * (1 - after[key] / before[key]) for key in ("macs", "params"))
        said = PUBLISHED.get(name)
        row = [f"`{config.name}`", f"{after['macs'] / 1e9:.2f} G", f"{macs:.1f} %", f"{said[0]} %" if said else ""]
        row += [f"{after['params'] / 1e6:.2f} M", f"{params:.1f} %", f"{said[1]} %" if said else ""]
        rows.append([*row, f"{found['verification']['error']:.0e}"])
    head = ["recipe", "MACs", "gone", "published", "parameters", "gone", "published", "deviation from masked"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
