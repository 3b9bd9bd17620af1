"""What compensation takes by the number of samples: linear in time, bounded in memory.

    python benchmarks/compensation_time.py net.onnx --calib calib.npz [--samples 128,256,512,1024]

Every size is a process of its own: the same cut (`l1`, half of all units) is compensated on so many samples. Seconds
are those of the processor, so that other work on the machine does not count; the last line is the straight line
through them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

import onnxprune
from onnxprune.repair.compensate import MODES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--samples", default="128,256,512,1024")
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    sizes = [int(part) for part in args.samples.split(",")]
    for mode in MODES:
        found = []
        for size in sizes:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                seconds, gigabytes = pool.submit(taken, args.model, args.calib, size, args.batch, mode).result()
            found.append(seconds)
            print(f"{mode:<10} {size:6} samples  {seconds:7.1f} s  {gigabytes:5.2f} GiB", flush=True)
        if len(sizes) > 1:
            slope, start = np.polyfit(sizes, found, 1)
            off = np.abs(np.polyval([slope, start], sizes) / found - 1).max()
            print(f"{mode:<10} {start:.1f} s + {1000 * slope:.1f} ms for each sample, within {100 * off:.0f} %")


def taken(path: Path, calib: str, samples: int, batch: int, mode: str) -> tuple[float, float]:
    """Seconds of the processor that compensation takes, and the memory that the process held at most."""
    model = onnxprune.normalize(onnxprune.load(path))
    coupling = onnxprune.analyze(model)
    plan = onnxprune.select(coupling, onnxprune.score(model, coupling, "l1"), ratio=0.5)
    pruned = onnxprune.apply(model, plan)
    data = onnxprune.open_data(calib, model, limit=samples, batch=batch)
    start = time.process_time()
    onnxprune.compensate(model, pruned, plan, data, mode=mode)
    return time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
