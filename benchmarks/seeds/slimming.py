"""Network slimming: one threshold over the scales of all BatchNormalizations says what goes.

    python benchmarks/seeds/slimming.py OUT NET.onnx [NET.onnx ...] --data DATA [--percent 0.1,0.3,0.5]

The recipes of the classifier-pruner, as options of `onnxprune prune`:

    percent                        --criterion bn_scale --scope global --normalize none --ratio PERCENT
    all convolutions (prune = 1)   --reduce max: where layers are coupled, a channel stays if any of them keeps it, the
                                   union of what they keep
    inner ones only (prune = 0)    --exclude every group that a sum makes: the layers beside which a way leads round

A network without sums has inner convolutions only, so both modes are the same there. What is pruned is not finetuned.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from command_line import onnxprune, table

MODE = ("--criterion", "bn_scale", "--scope", "global", "--normalize", "none", "--reduce", "max", "--round-to", 1)


def summed(net: Path) -> list[str]:
    """Groups that several layers make together."""

    def makers(group: dict[str, Any]) -> int:
        return sum(member["role"] == "out" for member in group["members"])

    return [group["name"] for group in onnxprune("analyze", net)["groups"] if makers(group) > 1]


def figures(found: dict[str, Any]) -> list[str]:
    before, after = found["before"], found["after"]
    gone = [f"{100 * (1 - after[key] / before[key]):.1f} %" for key in ("params", "macs")]
    return [*gone, f"{100 * before['accuracy']:.1f} %", f"{100 * after['accuracy']:.1f} %"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Prune by a global threshold over BatchNormalization scales.")
    parser.add_argument("out", type=Path)
    parser.add_argument("nets", type=Path, nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--percent", default="0.1,0.3,0.5")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for net in options.nets:
        outer = [part for name in summed(net) for part in ("--exclude", name)]
        for mode, exclude in (("all", []), ("inner", outer)) if outer else (("all", []),):
            for percent in options.percent.split(","):
                small = options.out / f"{net.stem}_{mode}_{percent}.onnx"
                command = ("prune", net, "-o", small, *MODE, "--ratio", percent, *exclude, "--data", options.data)
                rows.append([net.stem, mode, percent, *figures(onnxprune(*command, "--no-bench"))])
    print(table(["network", "convolutions", "percent", "parameters gone", "MACs gone", "before", "after"], rows))


if __name__ == "__main__":
    main()
