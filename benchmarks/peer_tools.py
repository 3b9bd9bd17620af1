"""How each tool of benchmarks/peers.py prunes one network, in a process of its own: from nothing to a written file.

    python benchmarks/peer_tools.py TOOL ORIGINAL OUT --network NAME (--ratio R | --macs M --calib DATA)

Prints as JSON what processor time the pruning itself took, without imports, reading, exporting and writing. Each is
used as its documentation says:

    onnxprune       the file
    Torch-Pruning   the module; layers whose outputs are the network's are named to it, and so are the heads of
                    attention, whose sizes are set afterwards, as in its own example; then exported as the original was
    onnxsim         the file, simplified first, since it expects normalisations to be merged; where it finds nothing in
                    that, the file as it is

With --macs the ratio is searched that leaves so many multiply-accumulates, and what each offers to make up for the cut
without training is done as well, on the same pictures, and written to OUT with the suffix .made-up.onnx: least squares;
BatchNormalization re-estimated (which is not Torch-Pruning's, but what its users would do); ridge regression.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peer_networks

if TYPE_CHECKING:
    import onnx
    from torch import nn

NARROWINGS = 8
"""Of the ratio: to 1 in 256."""
BATCH = 64


def onnxprune_(options: argparse.Namespace) -> float:
    """The passes that `onnxprune prune` runs."""
    import onnxprune
    from onnxprune.data.sources import Request
    from onnxprune.passes import Analyze, Apply, Compensate, Normalize, Score, Select, Verify
    from onnxprune.pipeline.manager import PassManager

    model = onnxprune.load(options.original)
    calib = Request(options.calib, limit=options.samples, batch=BATCH)
    asks = calib if options.criterion in ("obs", "activation") else None
    targets = {"targets": (f"macs={options.macs}",)} if options.macs else {"ratio": options.ratio}
    per = "macs" if asks else "none"
    select = Select(per=per, round_to="auto" if options.aligned else 1, **targets)
    passes = [Normalize(), Analyze(), Score(options.criterion, data=asks), select, Apply()]
    start = time.process_time()
    state = PassManager([*passes, *([Verify()] if options.verify else [])]).run(model)
    seconds = time.process_time() - start
    onnxprune.save(state.model, options.out)
    if options.macs:
        onnxprune.save(Compensate(calib).run(state).model, made_up(options.out))
    return seconds


def torch_pruning(options: argparse.Namespace) -> float:
    """One ratio in all groups, or with --macs one ranking over all of them."""
    import torch
    import torch_pruning as tp

    importances = {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "fpgm": lambda: tp.importance.FPGMImportance(),
        "bn_scale": lambda: tp.importance.BNScaleImportance(),
        "random": lambda: tp.importance.RandomImportance(),
    }
    network = _network(options)
    whole, picture = network.module(options.trained)
    last = _last_layers(options.original, [name for name, _ in whole.named_modules()])

    def cut(ratio: float) -> nn.Module:
        torch.manual_seed(0)
        module = copy.deepcopy(whole) if options.macs else whole
        named = dict(module.named_modules())
        attentions = [each for each in named.values() if hasattr(each, "qkv")]
        pruner = tp.pruner.BasePruner(
            module,
            picture,
            importance=importances[options.criterion](),
            pruning_ratio=ratio,
            global_pruning=bool(options.macs),
            ignored_layers=[named[name] for name in last],
            num_heads={each.qkv: each.heads for each in attentions},
        )
        pruner.step()
        for each in attentions:
            each.heads = pruner.num_heads[each.qkv]
            each.size = each.qkv.out_features // (3 * each.heads)
        return module

    counted = tp.utils.count_ops_and_params
    most = options.macs * counted(whole, picture)[0] if options.macs else 0
    start = time.process_time()
    if options.macs:
        module = narrowed(cut, lambda found: counted(found, picture)[0] <= most)
    else:
        module = cut(options.ratio)
    seconds = time.process_time() - start
    network.export(module, picture, options.out)
    if options.macs:
        reestimate(module, options)
        network.export(module, picture, made_up(options.out))
    return seconds


def reestimate(module: nn.Module, options: argparse.Namespace) -> None:
    """BatchNormalization forgets its statistics and sees the calibration data."""
    import torch

    norms = [each for each in module.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    module.train()
    with torch.no_grad():
        for batch in _calibration(options):
            module(*map(torch.from_numpy, batch.feeds.values()))
    module.eval()


def onnxsim(options: argparse.Namespace) -> float:
    """By the norms of the layers that make a channel."""
    import onnx
    from onnxsim import simplify
    from onnxsim.finetune import apply_pruning_finetune
    from onnxsim.pruning import apply_structured_pruning

    proto = onnx.load(str(options.original))
    norm = {"l1": "l1", "l2": "l2"}[options.criterion]

    def cut(original: onnx.ModelProto, ratio: float) -> onnx.ModelProto:
        return apply_structured_pruning(original, ratio, importance_norm=norm)

    start = time.process_time()
    simple, _ = simplify(proto)
    if options.macs:
        most = options.macs * _macs(simple, options.out)
        found = narrowed(lambda ratio: cut(simple, ratio), lambda each: _macs(each, options.out) <= most)
    else:
        found = cut(simple, options.ratio)
        if _floats(found) == _floats(simple):
            simple, found = proto, cut(proto, options.ratio)
    seconds = time.process_time() - start
    onnx.save(simple, str(options.out.with_suffix(".whole.onnx")))
    onnx.save(found, str(options.out))
    if options.macs:
        feeds = [batch.feeds for batch in _calibration(options)]
        onnx.save(apply_pruning_finetune(simple, found, feeds), str(made_up(options.out)))
    return seconds


TOOLS: dict[str, Callable[[argparse.Namespace], float]] = {
    "onnxprune": onnxprune_,
    "torch-pruning": torch_pruning,
    "onnxsim": onnxsim,
}


def made_up(out: Path) -> Path:
    return out.with_suffix(".made-up.onnx")


def narrowed(cut: Callable[[float], Any], holds: Callable[[Any], bool]) -> Any:
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


def _last_layers(original: Path, modules: Collection[str]) -> list[str]:
    """The modules that make the network's outputs: what a user has to know and name."""
    import onnx

    graph = onnx.load(str(original), load_external_data=False).graph
    stored = {weight.name for weight in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [output.name for output in graph.output]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in maker:
            continue
        seen.add(name)
        layers = {each.removesuffix(".weight") for each in maker[name].input if each in stored} & {*modules}
        found |= layers
        waiting += [] if layers else list(maker[name].input)
    return sorted(found)


def _network(options: argparse.Namespace) -> peer_networks.Network:
    return peer_networks.trained(options.network) if options.trained else peer_networks.RANDOM[options.network]


def _calibration(options: argparse.Namespace) -> Any:
    import onnxprune
    from onnxprune.data.sources import open_data

    return open_data(options.calib, onnxprune.load(options.original), limit=options.samples, batch=BATCH)


def _floats(proto: onnx.ModelProto) -> int:
    return sum(len(weight.raw_data) for weight in proto.graph.initializer)


def _macs(proto: onnx.ModelProto, out: Path) -> int:
    import onnx

    import onnxprune

    onnx.save(proto, str(out))
    return onnxprune.cost(onnxprune.load(out)).macs


def main() -> None:
    parser = argparse.ArgumentParser(description="Prune one network by one tool.")
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("original", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", required=True)
    parser.add_argument("--trained", type=Path, help="the file with the network's weights")
    parser.add_argument("--criterion", default="l2")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--macs", type=float)
    parser.add_argument("--calib", default="")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--aligned", action="store_true", help="onnxprune: widths that this machine likes")
    parser.add_argument("--verify", action="store_true", help="onnxprune: check the result, as the command line does")
    options = parser.parse_args()
    print(json.dumps({"inside": TOOLS[options.tool](options)}))


if __name__ == "__main__":
    main()
