"""What others keep of the same network on the same images: Torch-Pruning and onnxsim, beside compensation.py.

    python benchmarks/compensation_peers.py net.onnx --torch nets:trained --calib calib.npz --data test.npz

`nets:trained` is a function without arguments that returns the same network as PyTorch module, for Torch-Pruning: that
cuts it with one ranking over all groups, by each of its criteria; the ratio is searched until the target holds. It is
measured as cut, and after its BatchNormalization layers have forgotten their statistics and seen the calibration data.
onnxsim cuts the file and solves what is left by its ridge finetune. A tool that fails is reported with its message.

Needs torch, torch-pruning 1.6.1 and onnxsim 0.8.1.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxprune
from onnxprune.data import Dataset, open_data
from onnxprune.functions import function_of

if TYPE_CHECKING:
    from torch import nn

CRITERIA = ("l1", "l2", "fpgm", "bn scale", "random")
NARROWINGS = 8
"""Of the ratio: to 1 in 256."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--torch", help="module:function, the network for Torch-Pruning")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--macs", default="0.5,0.4,0.3,0.2")
    parser.add_argument("--criteria", default=",".join(CRITERIA))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = onnxprune.normalize(onnxprune.load(args.model))
    calib = open_data(args.calib, model, limit=args.samples, batch=64)
    test = open_data(args.data, model, batch=200)
    print(f"original: {100 * (onnxprune.evaluate(model, test).top1 or 0):.2f} %")
    rows = []
    for target in map(float, args.macs.split(",")):
        tools = [onnxsim(model, target, calib, test)]
        if args.torch:
            net = function_of(args.torch)()
            tools += [torch_pruning(net, name, target, calib, test) for name in args.criteria.split(",")]
        for row in tools:
            rows.append({"macs": target, **row})
            print(json.dumps(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


def torch_pruning(whole: nn.Module, criterion: str, target: float, calib: Dataset, test: Dataset) -> dict[str, Any]:
    """As cut, and re-estimated."""
    import torch
    import torch_pruning as tp

    importances = {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "fpgm": lambda: tp.importance.FPGMImportance(),
        "bn scale": lambda: tp.importance.BNScaleImportance(),
        "random": lambda: tp.importance.RandomImportance(),
    }
    whole.eval()
    example = torch.from_numpy(next(iter(next(iter(test)).feeds.values()))[:1])
    total = tp.utils.count_ops_and_params(whole, example)[0]

    def cut(ratio: float) -> nn.Module:
        torch.manual_seed(0)
        net = copy.deepcopy(whole)
        last = [module for module in net.modules() if isinstance(module, torch.nn.Linear)][-1:]
        options = {"global_pruning": True, "pruning_ratio": ratio, "ignored_layers": last}
        tp.pruner.BasePruner(net, example, importance=importances[criterion](), **options).step()
        return net

    def share(net: nn.Module) -> float:
        return float(tp.utils.count_ops_and_params(net, example)[0] / total)

    said = {"tool": f"torch-pruning {version('torch-pruning')}", "criterion": criterion}
    try:
        net = _narrowed(cut, lambda net: share(net) <= target)
        kept, raw = share(net), _accuracy(net, test)
        norms = [module for module in net.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        net.train()
        with torch.no_grad():
            for batch in calib:
                net(*map(torch.from_numpy, batch.feeds.values()))
        return {**said, "kept": round(kept, 3), "raw": raw, "re-estimated": _accuracy(net.eval(), test)}
    except Exception as error:  # noqa: BLE001  a peer may fail in any way
        return {**said, "failed": f"{type(error).__name__}: {error}"[:200]}


def onnxsim(model: onnxprune.Model, target: float, calib: Dataset, test: Dataset) -> dict[str, Any]:
    """By magnitude, as cut and after its ridge finetune."""
    import onnx
    from onnxsim.finetune import apply_pruning_finetune
    from onnxsim.pruning import apply_structured_pruning

    said = {"tool": f"onnxsim {version('onnxsim')}", "criterion": "l2"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        onnxprune.save(onnxprune.fold(model).model, path)
        proto = onnx.load(str(path))
        total = onnxprune.cost(onnxprune.load(path)).macs

        def loaded(changed: onnx.ModelProto) -> onnxprune.Model:
            onnx.save(changed, str(Path(folder) / "cut.onnx"))
            return onnxprune.load(Path(folder) / "cut.onnx")

        try:
            cut = _narrowed(
                lambda sparsity: apply_structured_pruning(copy.deepcopy(proto), sparsity),
                lambda changed: onnxprune.cost(loaded(changed)).macs <= target * total,
            )
            raw = onnxprune.evaluate(loaded(cut), test).top1
            kept = onnxprune.cost(loaded(cut)).macs / total
            tuned = apply_pruning_finetune(proto, cut, [batch.feeds for batch in calib])
            solved = onnxprune.evaluate(loaded(tuned), test).top1
        except Exception as error:  # noqa: BLE001  a peer may fail in any way
            return {**said, "failed": f"{type(error).__name__}: {error}"[:200]}
    return {**said, "kept": round(kept, 3), "raw": raw, "ridge": solved}


def _narrowed(cut: Callable[[float], Any], holds: Callable[[Any], bool]) -> Any:
    """The smallest cut that holds, among ratios up to 0.98."""
    low, high = 0.0, 0.98
    best = cut(high)
    if not holds(best):
        raise RuntimeError("the target is out of reach, even at a ratio of 0.98")
    for _ in range(NARROWINGS):
        middle = (low + high) / 2
        found = cut(middle)
        if holds(found):
            high, best = middle, found
        else:
            low = middle
    return best


def _accuracy(net: nn.Module, test: Dataset) -> float:
    import torch

    right = count = 0
    with torch.no_grad():
        for batch in test:
            made = net(*map(torch.from_numpy, batch.feeds.values()))
            logits = made[0] if isinstance(made, tuple | list) else made
            assert batch.labels is not None, "the data has no labels"
            right += int((logits.argmax(1).numpy()[: batch.count] == batch.labels).sum())
            count += batch.count
    return right / count


if __name__ == "__main__":
    main()
