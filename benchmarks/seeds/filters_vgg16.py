"""NNI's filter pruners on VGG-16 for CIFAR-10: L1, L2 and FPGM by one configuration, and what each does to accuracy.

    python benchmarks/seeds/filters_vgg16.py OUT [--trained NET.onnx --data DATA --calib CALIB]

prunes VGG-16 with vgg16_pruned_a.toml (op types, op names, sparsity, exclude) and random weights: 64 % of the
parameters go. A trained network, given or not, shows what the three criteria are worth: the last half of its groups is
pruned by a half, without finetuning, and with the layers that are left solved anew on CALIB. Its arguments are those of
`onnxprune prune`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from command_line import built, onnxprune, table

CONFIG = Path(__file__).parent / "vgg16_pruned_a.toml"
CRITERIA = ("l1", "l2", "fpgm")
PUBLISHED = (15.0, 5.4, 64.0, 34.2)
"""Millions of parameters before and after, percent of parameters and of FLOPs that are gone (Li et al., table 1)."""


def structure(folder: Path) -> str:
    model = built(folder, "vgg16_cifar")
    rows = []
    for criterion in CRITERIA:
        small = folder / f"vgg16_{criterion}.onnx"
        found = onnxprune("prune", model, "-o", small, "--config", CONFIG, "--criterion", criterion, "--no-bench")
        before, after = found["before"], found["after"]
        params, macs = (100 * (1 - after[key] / before[key]) for key in ("params", "macs"))
        row = [criterion, f"{before['params'] / 1e6:.2f} M", f"{after['params'] / 1e6:.2f} M", f"{params:.1f} %"]
        rows.append([*row, f"{macs:.1f} %", f"{found['verification']['error']:.0e}"])
    before_m, after_m, params, macs = PUBLISHED
    rows.append(["published", f"{before_m} M", f"{after_m} M", f"{params} %", f"{macs} %", ""])
    return table(["criterion", "parameters", "after", "gone", "MACs gone", "deviation from masked"], rows)


def accuracy(folder: Path, net: Path, data: str, calib: str | None) -> str:
    groups = [group["name"] for group in onnxprune("analyze", net)["groups"]]
    chosen = [part for name in groups[len(groups) // 2 :] for part in ("--include", name)]
    rows = []
    for criterion in CRITERIA:
        row = [criterion]
        for more in ((), ("--calib", calib)) if calib else ((),):
            small = folder / f"{net.stem}_{criterion}.onnx"
            options = ["--criterion", criterion, "--ratio", 0.5, "--round-to", 1, "--no-bench", "--data", data]
            found = onnxprune("prune", net, "-o", small, *chosen, *options, *more)
            row += [] if more else [f"{100 * found['before']['accuracy']:.1f} %"]
            row.append(f"{100 * found['after']['accuracy']:.1f} %")
        params = 100 * (1 - found["after"]["params"] / found["before"]["params"])
        rows.append([*row, f"{params:.1f} %"])
    head = ["criterion", "before", "after", *(["after, solved anew"] if calib else []), "parameters gone"]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Prune VGG-16 as NNI's filter pruners do.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--trained", type=Path, help="a trained network, such as slim_vgg")
    parser.add_argument("--data", help="its held-out data")
    parser.add_argument("--calib", help="what it was trained on")
    options = parser.parse_args()
    if bool(options.trained) != bool(options.data):
        raise SystemExit("--trained and --data go together")
    print(structure(options.out))
    if options.trained:
        print(f"\n{options.trained.name}:\n\n{accuracy(options.out, options.trained, options.data, options.calib)}")


if __name__ == "__main__":
    main()
