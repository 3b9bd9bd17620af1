"""Accuracy without training: what is left after cutting, and after compensation, by criterion and allocation.

    python benchmarks/compensation.py net.onnx --calib calib.npz --data test.npz [--macs 0.5,0.3] [--criteria l2,obs]

Calibration needs no labels, the test data does. Each row is one cut: by one ratio in all groups, by one ranking over
all of them, or by importance per multiply-accumulate.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import onnxprune
from onnxprune.budget import order_of, select_within
from onnxprune.compensate import compensate
from onnxprune.costs import terms_of
from onnxprune.data import Dataset, open_data
from onnxprune.meter import Meter
from onnxprune.reconstruction import DATA_CRITERIA, data_scores
from onnxprune.terms import Widths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--macs", default="0.5,0.4,0.3,0.2")
    parser.add_argument("--criteria", default="l1,l2,fpgm,random,activation,apoz,cosine,obs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = onnxprune.load(args.model)
    calib = open_data(args.calib, model, limit=args.samples, batch=64)
    test = open_data(args.data, model, batch=200)
    print(f"original: {100 * accuracy(model, test):.2f} %")
    rows = []
    for criterion in args.criteria.split(","):
        for row in cuts(model, criterion, calib, test, [float(part) for part in args.macs.split(",")]):
            rows.append(row)
            print(
                "{criterion:<11}{allocation:<12}{macs:5.2f}  cut {raw:6.2f} %  compensated {compensated:6.2f} %  "
                "{seconds:5.1f} s".format(**row),
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


def cuts(
    model: onnxprune.Model, criterion: str, calib: Dataset, test: Dataset, targets: list[float]
) -> list[dict[str, object]]:
    coupling = onnxprune.analyze(model)
    meter = Meter(model, coupling)
    widths = Widths(coupling, meter.shapes)
    work = terms_of("macs", model, meter, widths)
    asks = criterion in DATA_CRITERIA
    scores = data_scores(model, coupling, criterion, calib) if asks else onnxprune.score(model, coupling, criterion)
    orders = {"one ratio": order_of(coupling, scores), "one ranking": order_of(coupling, scores, scope="global")}
    if asks:
        orders["per MAC"] = order_of(coupling, scores, per=work)
    found = []
    for allocation, order in orders.items():
        for target in targets:
            plan = select_within(order, [f"macs={target}"], meter)
            pruned = onnxprune.apply(model, plan)
            start = time.perf_counter()
            solved = compensate(model, pruned, plan, calib).model
            seconds = time.perf_counter() - start
            raw, compensated = (100 * accuracy(each, test) for each in (pruned, solved))
            found.append(
                {
                    "criterion": criterion,
                    "allocation": allocation,
                    "macs": target,
                    "raw": raw,
                    "compensated": compensated,
                    "seconds": seconds,
                }
            )
    return found


def accuracy(model: onnxprune.Model, test: Dataset) -> float:
    top1 = onnxprune.evaluate(model, test).top1
    assert top1 is not None, "the data has no labels"
    return top1


if __name__ == "__main__":
    main()
