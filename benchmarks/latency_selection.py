"""At equal measured latency: importance and accuracy that are kept, by what importance is divided by.

    python benchmarks/latency_selection.py net.onnx --calib calib.npz --data test.npz [--latency 0.6,0.5] [--batch 32]

Each cut is the shortest one along its order whose model, timed in turns with the original, is fast enough. The orders
are those of `--normalize latency` and of a plain MACs target. Importance is the sum of the scores of the units that
stay, as a share of all; accuracy is that after compensation on the calibration data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnxprune
from onnxprune.counting.meter import Meter
from onnxprune.data.sources import open_data
from onnxprune.passes import Score, Select
from onnxprune.pipeline.manager import State
from onnxprune.repair.compensate import compensate
from onnxprune.targets.budget import select_within
from onnxprune.targets.clock import StopWatch
from onnxprune.timing.bench import bench


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--latency", default="0.7,0.5")
    parser.add_argument("--criteria", default="l2,obs")
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    model = onnxprune.load(args.model)
    coupling = onnxprune.analyze(model)
    calib = open_data(args.calib, model, limit=1024, batch=64)
    test = open_data(args.data, model, batch=200)
    dims = {"batch": args.batch}
    meter = Meter(model, coupling)
    whole = meter.usage({}).macs
    print(f"original: {100 * (onnxprune.evaluate(model, test).top1 or 0):.2f} %")
    for criterion in args.criteria.split(","):
        score = Score(criterion, data=calib.request if criterion == "obs" else None)
        state = score.run(State(model, normalized=True, coupling=coupling))
        assert state.scores is not None
        total = sum(float(values.sum()) for values in state.scores.by_group.values())
        for limit in args.latency.split(","):
            for per in ("latency", "macs"):
                order, _ = Select(per=per, timed_dims=dims).order(state, meter)
                plan = select_within(order, [f"latency={limit}"], meter, clock=StopWatch(model, dims=dims))
                pruned = onnxprune.apply(model, plan)
                took = bench([model, pruned], dims=dims, seconds=4).rows[1]
                lost = {group.name: group.removed for group in plan.groups}
                kept = (
                    1
                    - sum(float(sorted_sum(state.scores.by_group[name], count)) for name, count in lost.items()) / total
                )
                solved = compensate(model, pruned, plan, calib).model
                accuracy = 100 * (onnxprune.evaluate(solved, test).top1 or 0)
                print(
                    f"{criterion:<5} latency={limit}  per {per:<8} measured {1 / took.speedup:.3f}  "
                    f"MACs {meter.usage(lost).macs / whole:.3f}  importance {kept:.4f}  accuracy {accuracy:.2f} %",
                    flush=True,
                )


def sorted_sum(scores: object, count: int) -> float:
    """The sum of the lowest."""
    return float(sum(sorted(scores)[:count]))  # type: ignore[call-overload]  # an array


if __name__ == "__main__":
    main()
