"""Whole-process wall time: `onnxprune prune` on a ResNet-50 file against the way through PyTorch, interleaved.

The other way is one Python process that builds torchvision's ResNet-50, prunes it with Torch-Pruning and exports it
to ONNX: what somebody has to run today to get a pruned ONNX file. Both start a fresh interpreter each time and
write one file; neither checks it.

    python benchmarks/prune_speed.py [--rounds 5] [--model resnet50.onnx] [--json speed.json]

Needs torch, torchvision and torch-pruning for the other way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import child
import zoo

RATIO = 0.3
WANTED_RATIO = 5.0


def through_torch(out: Path) -> None:
    """Build, prune and export. The quicker exporter, the static shape, no jitter: nothing that is not needed."""
    import torch
    import torch_pruning as tp

    models = zoo.torchvision_models()
    model = models.resnet50(weights=None).eval()
    image = torch.randn(1, 3, 224, 224)
    pruner = tp.pruner.BasePruner(
        model,
        image,
        importance=tp.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=RATIO,
        ignored_layers=[model.fc],
    )
    pruner.step()
    torch.onnx.export(model, (image,), str(out), dynamo=False, opset_version=zoo.LEGACY_OPSET)


def main() -> int:
    """Prepare the file and compare."""
    parser = argparse.ArgumentParser(description="Wall time of onnxprune against the way through PyTorch.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path, help="a ResNet-50 as ONNX; default: exported now")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--through-torch", type=Path, metavar="OUT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.through_torch:
        through_torch(options.through_torch)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model
        if model is None:
            zoo.write_all(folder, ["resnet50"], ["legacy"], None, 12.0)
            model = folder / "legacy" / "resnet50.onnx"
        ways = {
            "onnxprune": [sys.executable, "-m", "onnxprune", "prune", model.resolve(), "--ratio", str(RATIO)]
            + ["--criterion", "l1", "--no-verify", "-o", folder / "onnxprune.onnx"],
            "torch": [sys.executable, "-W", "ignore", __file__, "--through-torch", folder / "torch.onnx"],
        }
        return compare(ways, folder, options.rounds, options.json)


def compare(ways: dict[str, list[str | Path]], folder: Path, rounds: int, json_path: Path | None) -> int:
    """Run both, in turn; the first round warms the file cache and does not count."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    peaks: dict[str, int] = dict.fromkeys(ways, 0)
    for turn in range(rounds + 1):
        for way, command in ways.items():
            out = folder / f"{way}.onnx"
            out.unlink(missing_ok=True)
            done = child.run(command)
            if done.status or not out.exists():
                print(f"{way}: {done.failure}", file=sys.stderr)
                return 1
            if turn:
                seconds[way].append(done.seconds)
                peaks[way] = max(peaks[way], done.peak_rss)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    speed_up = medians["torch"] / medians["onnxprune"]
    print(f"{'way':10s} {'median s':>8s} {'least s':>8s} {'most s':>8s} {'peak MB':>8s}")
    for way, times in seconds.items():
        print(f"{way:10s} {medians[way]:8.2f} {min(times):8.2f} {max(times):8.2f} {peaks[way] / 1e6:8.0f}")
    print(f"onnxprune is {speed_up:.1f} times as fast over {rounds} interleaved rounds (wanted: {WANTED_RATIO:g})")
    if json_path:
        json_path.write_text(json.dumps({"seconds": seconds, "peak_rss": peaks, "speed_up": speed_up}, indent=1) + "\n")
    return int(speed_up < WANTED_RATIO)


if __name__ == "__main__":
    sys.exit(main())
