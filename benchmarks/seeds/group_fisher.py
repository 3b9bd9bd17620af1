"""Group Fisher's table: each network at the published FLOPs, and what onnxruntime makes of it on a CPU.

    python benchmarks/seeds/group_fisher.py OUT [--models resnet50,rtmpose_s] [--divisors 1,8,16] [--criterion l1]

ImageNet and COCO are absent, so the weights are random, and accuracies are not repeated: what is repeated is the
structure at the target, `--target macs=...`, by importance per activation (`act` there) or per multiply-accumulate
(`flops`), and the speed-up, measured in turns with the original. The divisor is what widths are multiples of
(`--round-to`); auto: what this machine was measured to like. RetinaNet runs at 320 px, not at 800 x 1333.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from command_line import built, onnxprune, table


@dataclass(frozen=True)
class Row:
    """A network of the table: the share of FLOPs that stays, and frames per second before and after."""

    network: str
    normalize: str
    share: float
    before: float
    after: float
    arguments: tuple[str, ...] = ()

    @property
    def speedup(self) -> float:
        return self.after / self.before


SMALL = ("--size", "height=320", "--size", "width=320")
ROWS = (
    Row("resnet50", "activation", 0.501, 55.360, 80.671),
    Row("resnet50", "macs", 0.501, 55.360, 78.674),
    Row("mobilenet_v2", "activation", 0.661, 419.673, 576.118),
    Row("mobilenet_v2", "macs", 0.661, 419.673, 540.105),
    Row("retinanet_r50_fpn", "activation", 0.504, 1.095, 1.608, SMALL),
    Row("retinanet_r50_fpn", "macs", 0.504, 1.095, 1.609, SMALL),
    Row("rtmpose_s", "activation", 0.500, 196, 268),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Prune as Group Fisher does, and time it.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", default="resnet50,mobilenet_v2,retinanet_r50_fpn,rtmpose_s")
    parser.add_argument("--divisors", default="1,8", help="of 1, 2, 4, 8, 16, 32 and auto (default: 1,8)")
    parser.add_argument("--criterion", default="l1", help="as of onnxprune prune")
    options = parser.parse_args()
    head = ["network", "importance per", "divisor", "MACs stay", "parameters stay", "speed-up", "published"]
    print(table(head, []), flush=True)
    for row in ROWS:
        if row.network not in options.models.split(","):
            continue
        model = built(options.out, row.network, *row.arguments)
        for divisor in options.divisors.split(","):
            small = options.out / f"{row.network}-{row.normalize}-{divisor}.onnx"
            how = ("--criterion", options.criterion, "--normalize", row.normalize, "--round-to", divisor)
            found = onnxprune("prune", model, "-o", small, "--target", f"macs={row.share}", *how)
            before, after, speedup = found["before"], found["after"], found["speedup"]
            stay = [f"{100 * after[key] / before[key]:.1f} %" for key in ("macs", "params")]
            cells = [row.network, row.normalize, divisor, *stay, f"{speedup:.2f}", f"{row.speedup:.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
