"""Accuracy without training: what is left after cutting, and after compensation, by criterion and allocation.

    python benchmarks/compensation.py net.onnx --calib calib.npz --data test.npz [--macs 0.5,0.3] [--criteria l2,obs]

Calibration needs no labels, the test data does. Each row is one cut: by one ratio in all groups, by one ranking over
all of them, or by importance per multiply-accumulate; `--calib none` calibrates on synthetic images. With `--seeds 3`
everything is done on three samples of the calibration arrays, an .npz file. What others keep of the same network:
peers.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import onnxprune
from onnxprune.cli.data_arguments import WITHOUT_DATA
from onnxprune.counting.meter import Meter
from onnxprune.data.sources import Dataset, open_data
from onnxprune.passes.compensate import MAKE_UPS
from onnxprune.scoring.reconstruction import DATA_CRITERIA, data_scores
from onnxprune.targets.budget import order_of, select_within
from onnxprune.targets.costs import terms_of
from onnxprune.targets.terms import Widths

ALLOCATIONS = {"ratio": "one ratio", "ranking": "one ranking", "macs": "per MAC"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--macs", default="0.5,0.4,0.3,0.2")
    parser.add_argument("--criteria", default="l1,l2,fpgm,random,activation,apoz,cosine,obs")
    parser.add_argument("--allocations", default=",".join(ALLOCATIONS), help="of these; macs: criteria that ask data")
    parser.add_argument("--modes", default="sequential", help=f"of {','.join(MAKE_UPS[:-1])}")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = onnxprune.normalize(onnxprune.load(args.model))
    test = open_data(args.data, model, batch=200)
    print(f"original: {100 * accuracy(model, test):.2f} %")
    rows = []
    targets, modes = [float(part) for part in args.macs.split(",")], args.modes.split(",")
    allocations = args.allocations.split(",")
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            calib = open_data(drawn(args.calib, args.samples, seed, folder), model, limit=args.samples, batch=64)
            for criterion in args.criteria.split(","):
                for row in cuts(model, criterion, calib, test, targets, modes, allocations, seed):
                    rows.append({"seed": seed, **row})
                    print(
                        "{seed} {criterion:<11}{allocation:<12}{macs:5.2f}  cut {raw:6.2f} %  {mode:<10} "
                        "{compensated:6.2f} %  {seconds:5.1f} s".format(**rows[-1]),
                        flush=True,
                    )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


def drawn(spec: str, count: int, seed: int, folder: str) -> str:
    """The data itself, or for further seeds other samples of its arrays."""
    if spec == "none":
        return f"synthetic:{min(count, WITHOUT_DATA)}"
    if not seed:
        return spec
    with np.load(spec, allow_pickle=False) as arrays:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(arrays[arrays.files[0]]))[:count])
        path = Path(folder) / f"{seed}.npz"
        np.savez(path, **{name: arrays[name][chosen] for name in arrays.files})
    return str(path)


def cuts(
    model: onnxprune.Model,
    criterion: str,
    calib: Dataset,
    test: Dataset,
    targets: list[float],
    modes: list[str],
    allocations: list[str],
    seed: int,
) -> Iterator[dict[str, object]]:
    coupling = onnxprune.analyze(model)
    meter = Meter(model, coupling)
    widths = Widths(coupling, meter.shapes)
    work = terms_of("macs", model, meter, widths)
    asks = criterion in DATA_CRITERIA
    if asks:
        scores = data_scores(model, coupling, criterion, calib)
    else:
        scores = onnxprune.score(model, coupling, criterion, seed=seed)
    for allocation in allocations:
        if allocation == "macs" and not asks:
            continue
        options = {"ratio": {}, "ranking": {"scope": "global"}, "macs": {"per": work}}[allocation]
        order = order_of(coupling, scores, **options)
        for target in targets:
            plan = select_within(order, [f"macs={target}"], meter)
            pruned = onnxprune.apply(model, plan)
            raw = 100 * accuracy(pruned, test)
            for mode in modes:
                start = time.perf_counter()
                how = {} if mode == "bn" else {"mode": mode}
                made_up = (onnxprune.reestimate if mode == "bn" else onnxprune.compensate)(
                    model, pruned, plan, calib, **how
                )
                seconds = time.perf_counter() - start
                yield {
                    "criterion": criterion,
                    "allocation": ALLOCATIONS[allocation],
                    "macs": target,
                    "raw": raw,
                    "mode": mode,
                    "compensated": 100 * accuracy(made_up.model, test),
                    "seconds": seconds,
                }


def accuracy(model: onnxprune.Model, test: Dataset) -> float:
    top1 = onnxprune.evaluate(model, test).top1
    assert top1 is not None, "the data has no labels"
    return top1


if __name__ == "__main__":
    main()
