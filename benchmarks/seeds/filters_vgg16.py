"""NNI's filter pruners on VGG-16 for CIFAR-10: L1, L2 and FPGM by one configuration, and what each does to accuracy.

    python benchmarks/seeds/filters_vgg16.py OUT [--vgg16 VGG16.onnx] [--trained NET.onnx --data DATA --calib CALIB]

prunes VGG-16 with vgg16_pruned_a.toml (op types, op names, sparsity, exclude) and random weights: 64 % of the
parameters go. With --vgg16, a file of `onnxprune zoo train vgg16_cifar`, its accuracy before and after is told as well,
and that with the layers that are left solved anew on CALIB. Another trained network shows what the three criteria are
worth: the last half of its groups is pruned by a half, without finetuning, and solved anew likewise. Arguments are
those of `onnxprune prune`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from command_line import built, onnxprune, table

CONFIG = Path(__file__).parent / "vgg16_pruned_a.toml"
CRITERIA = ("l1", "l2", "fpgm")
PUBLISHED = (15.0, 5.4, 64.0, 34.2)
"""Millions of parameters before and after, percent of parameters and of FLOPs that are gone (Li et al., table 1)."""
TRAINED_FURTHER = ("93.51 %", "93.53 % (retrained)")
"""Accuracy of NNI's VGG-16 and of what it pruned and trained again."""


def structure(folder: Path, trained: Path | None, data: str | None, calib: str | None) -> str:
    model = trained or built(folder, "vgg16_cifar")
    rows = []
    for criterion in CRITERIA:
        small = folder / f"vgg16_{criterion}.onnx"
        options = ["--config", CONFIG, "--criterion", criterion, "--no-bench", *(["--data", data] if trained else [])]
        found = onnxprune("prune", model, "-o", small, *options)
        before, after = found["before"], found["after"]
        params, macs = (100 * (1 - after[key] / before[key]) for key in ("params", "macs"))
        row = [criterion, f"{before['params'] / 1e6:.2f} M", f"{after['params'] / 1e6:.2f} M", f"{params:.1f} %"]
        row += [f"{macs:.1f} %", f"{found['verification']['error']:.0e}"]
        if trained:
            solved = onnxprune("prune", model, "-o", small, *options, *(["--calib", calib] if calib else []))
            row += [f"{100 * each['accuracy']:.1f} %" for each in (before, after, solved["after"])]
        rows.append(row)
    before_m, after_m, params, macs = PUBLISHED
    row = ["published", f"{before_m} M", f"{after_m} M", f"{params} %", f"{macs} %", ""]
    rows.append([*row, *TRAINED_FURTHER, ""] if trained else row)
    head = ["criterion", "parameters", "after", "gone", "MACs gone", "deviation from masked"]
    return table([*head, *(["accuracy before", "after", "solved anew"] if trained else [])], rows)


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
    parser.add_argument("--vgg16", type=Path, help="a trained VGG-16 for CIFAR-10")
    parser.add_argument("--trained", type=Path, help="a trained network, such as slim_vgg")
    parser.add_argument("--data", help="its held-out data")
    parser.add_argument("--calib", help="what it was trained on")
    options = parser.parse_args()
    if bool(options.trained or options.vgg16) != bool(options.data):
        raise SystemExit("trained networks and --data go together")
    options.out.mkdir(parents=True, exist_ok=True)
    print(structure(options.out, options.vgg16, options.data, options.calib))
    if options.trained:
        print(f"\n{options.trained.name}:\n\n{accuracy(options.out, options.trained, options.data, options.calib)}")


if __name__ == "__main__":
    main()
