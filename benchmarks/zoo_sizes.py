"""Every network of `onnxprune zoo`, built, counted as a file, and pruned: does it match what is published, is it exact?

    python benchmarks/zoo_sizes.py OUT [--models resnet50,bert] [--ratio 0.3] [--keep]

writes OUT/<name>.json, and the files only with --keep; entries that exist are kept, so a run can be continued. Each
network is built and pruned by the command line, in processes of their own; detectors and super-resolution are pruned at
a smaller size than the one that is counted, since verification runs them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import child

from onnxprune.models_zoo.registry import NETWORKS

SMALLER = {
    "retinanet_r50_fpn": ("height=128", "width=160"),
    "yolov8_n": ("side=128",),
    "yolov8_s": ("side=128",),
    "edsr_baseline_x2": ("height=24", "side=32"),
    "unet": ("side=64",),
    "bert": ("length=32",),
    "gpt2": ("length=32",),
    "llama": ("length=32",),
}
MEMORY_GIB = 16


def command(*arguments: object) -> dict[str, Any]:
    """What the command line says as JSON, or the line with which it ended."""
    done = child.run([sys.executable, "-m", "onnxprune", *map(str, arguments), "--json"], memory_gib=MEMORY_GIB)
    return json.loads(done.stdout) if done.status == 0 else {"failure": done.failure}


def measure(name: str, folder: Path, ratio: float, *, keep: bool) -> dict[str, Any]:
    published = NETWORKS[name].published
    path, pruned = folder / f"{name}.onnx", folder / f"{name}-pruned.onnx"
    built = command("zoo", "build", name, "-o", path)
    found: dict[str, Any] = {"name": name, "published": [1e6 * published.params, 1e6 * published.macs]}
    found |= {"built": built}
    if "failure" in built:
        return found
    if name in SMALLER:
        sizes = [part for size in SMALLER[name] for part in ("--size", size)]
        command("zoo", "build", name, "-o", path, *sizes)
    found["pruned"] = command("prune", path, "-o", pruned, "--ratio", ratio, "--round-to", 1, "--no-bench")
    if not keep:
        for file in (path, pruned):
            file.unlink(missing_ok=True)
    return found


def line(found: dict[str, Any]) -> str:
    name, built, (params, macs) = found["name"], found["built"], found["published"]
    if "failure" in built:
        return f"{name:20s} {built['failure']}"
    text = f"{name:20s} {built['params'] / 1e6:8.2f} M {built['params'] / params - 1:+6.2%}"
    text += f" {built['macs'] / 1e6:10.1f} M {built['macs'] / macs - 1:+6.2%}"
    pruned = found["pruned"]
    if "failure" in pruned:
        return f"{text}  {pruned['failure']}"
    before, after = pruned["before"]["macs"], pruned["after"]["macs"]
    return f"{text}  MACs after: {after / before:5.1%}, deviation {pruned['verification']['error']:.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Build, count and prune the networks of the zoo.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", default=",".join(NETWORKS), help="comma-separated; default: all")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--keep", action="store_true", help="keep the files")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.models.split(","):
        note = options.out / f"{name}.json"
        if not note.exists():
            note.write_text(json.dumps(measure(name, options.out, options.ratio, keep=options.keep), indent=2))
        print(line(json.loads(note.read_text())), flush=True)


if __name__ == "__main__":
    main()
