"""What gradient criteria choose, against l1: accuracy as cut, re-estimated and after a short training, and latency.

    python benchmarks/gradient_criteria.py net.onnx --calib train.npz --data test.npz [--macs 0.5] [--steps 1,30]
        [--tune train.npz --images 5000 --epochs 1]

`train.npz` holds the inputs under their names, and `labels` if there are any; gradients without labels use classes
drawn from the network's own probabilities. `mean` is the same ratio in every group, `macs` and `activation` are
importance per multiply-accumulate and per activation saved, in one ranking. Latency is measured side by side with the
original, so it is a ratio.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from compensation import accuracy

import onnxprune
from onnxprune.data.sources import Dataset, Request, open_data
from onnxprune.passes import Analyze, Normalize, Score, Select, Steps, Verify
from onnxprune.pipeline.manager import PassManager
from onnxprune.scoring.gradient_criteria import ASKING
from onnxprune.training.recipe import Recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--steps", default="1,30")
    parser.add_argument("--criteria", default="l1,taylor,group_fisher,hessian,grad_norm")
    parser.add_argument("--normalize", default="none,macs,activation")
    parser.add_argument("--round-to", type=int, default=1, help="widths in multiples of this")
    parser.add_argument("--tune", help="what to train on for a short while, with labels; every cut the same")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = onnxprune.load(args.model)
    calib = open_data(args.calib, model, limit=args.samples, batch=64)
    test = open_data(args.data, model, batch=200)
    print(f"original: {100 * accuracy(model, test):.2f} %")
    rows = []
    for criterion in args.criteria.split(","):
        for per in args.normalize.split(","):
            for steps in [int(part) for part in args.steps.split(",")]:
                row = cut(model, criterion, per, steps, args, calib, test)
                rows.append(row)
                print(
                    "{criterion:<13}{per:<11}{steps:>3} steps  cut {cut:6.2f} %  re-estimated {again:6.2f} %  "
                    "tuned {tuned:6.2f} %  latency {latency:.3f}  parameters {params:.3f}  {seconds:5.1f} s".format(
                        **row
                    ),
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


def cut(
    model: onnxprune.Model,
    criterion: str,
    per: str,
    steps: int,
    args: argparse.Namespace,
    calib: Dataset,
    test: Dataset,
) -> dict[str, float | str]:
    asks = Request(args.calib, limit=args.samples, batch=64) if criterion in ASKING else None
    score = Score(criterion, data=asks)
    select = Select(targets=(f"macs={args.macs}",), per=per, round_to=args.round_to)
    way = [Steps(score, select, Verify("structural"), steps)] if steps > 1 else [score, select]
    start = time.perf_counter()
    plan = PassManager([Normalize(), Analyze(), *way]).run(model).plan
    seconds = time.perf_counter() - start
    assert plan is not None
    pruned = onnxprune.apply(model, plan)
    onnxprune.verify(model, pruned, plan).require()
    tuned = float("nan")
    if args.tune:
        data = open_data(args.tune, pruned, limit=args.images)
        recipe = Recipe(epochs=args.epochs, batch=64, rate=args.rate)
        tuned = 100 * accuracy(onnxprune.finetune(pruned, data, recipe=recipe).model, test)
    report = onnxprune.bench([model, pruned], seconds=3.0, dims={"batch": 16})
    original, after = onnxprune.cost(model), onnxprune.cost(pruned)
    return {
        "criterion": criterion,
        "per": per,
        "steps": steps,
        "cut": 100 * accuracy(pruned, test),
        "again": 100 * accuracy(onnxprune.reestimate(model, pruned, plan, calib).model, test),
        "tuned": tuned,
        "latency": 1 / (report.rows[1].speedup or 1.0),
        "params": after.params / original.params,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
