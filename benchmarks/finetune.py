"""Half the work gone, a few epochs to win it back: distillation without labels, and Torch-Pruning with labels.

    python benchmarks/finetune.py resnet20.onnx --data cifar/train --val cifar/test --run DIR [--images N] [--epochs 3]

Both are cut to half of the multiply-accumulates and then trained on the same images, for the same epochs, with the same
recipe, by the same loop: ours compensated and then by the original's outputs alone, Torch-Pruning's (group l2, global)
by labels. The validation data chooses nothing: it is measured once, at the end. --run keeps checkpoints, and the same
command goes on where it was stopped; --only does one of the two.

Needs Pillow, torch-pruning, and a network of the zoo with BatchNormalization kept (`onnxprune zoo train resnet20`).
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peer_networks import with_weights
from torch import nn

import onnxprune
from onnxprune.data.preprocess import Preprocess
from onnxprune.data.sources import Request, reopened
from onnxprune.models_zoo.building import build
from onnxprune.passes import Analyze, Apply, Compensate, Normalize, Score, Select, Verify
from onnxprune.pipeline.journal import digest
from onnxprune.pipeline.manager import PassManager
from onnxprune.training.augment import Augment
from onnxprune.training.checkpoint import Keeper
from onnxprune.training.feed import Feed, laid_out
from onnxprune.training.loop import Watch, train
from onnxprune.training.losses import Classification
from onnxprune.training.measure import measure
from onnxprune.training.recipe import Recipe
from onnxprune.training.samples import samples_of

HOW = Preprocess(size=(32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
"""CIFAR-10's."""
CALIBRATION = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--val", required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--network", default="resnet20", help="of the zoo, for Torch-Pruning")
    parser.add_argument("--images", type=int, help="train on so many, at even distances")
    parser.add_argument("--val-images", type=int, help="measure on so many, at even distances")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--crop", type=int, default=4, help="move images by up to so many pixels")
    parser.add_argument("--alpha", type=float, default=1.0, help="part of the original in our loss; 1: no labels")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--only", choices=("ours", "torch-pruning"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = Recipe(epochs=args.epochs, rate=args.rate, flip=True, crop=args.crop, precision=args.precision)
    original = onnxprune.load(args.model)
    data, val = Request(args.data, HOW, args.images), Request(args.val, HOW, args.val_images, batch=200)
    rows: list[dict[str, Any]] = []
    if args.only != "torch-pruning":
        rows.append(ours(original, data, val, replace(recipe, alpha=args.alpha), args))
    if args.only != "ours":
        rows.append(torch_pruning(original, data, val, recipe, args))
    for row in rows:
        print(
            "{name:<14}{macs:5.2f} of the MACs  original {original:6.2%}  cut {cut:6.2%}  compensated "
            "{compensated:6.2%}  finetuned {tuned:6.2%}  {seconds:5.0f} s".format(**row),
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


def ours(
    original: onnxprune.Model, data: Request, val: Request, recipe: Recipe, args: argparse.Namespace
) -> dict[str, Any]:
    calib = replace(data, limit=CALIBRATION)
    dims = {"batch": 1}
    score, select = Score("obs", data=calib), Select(targets=(f"macs={args.macs}",), per="macs", round_to=1)
    state = PassManager([Normalize(), Analyze(), score, select, Apply(), Verify()]).run(original)
    compensated = Compensate(calib).run(state).model
    tested = reopened(val, original)
    accuracies = [onnxprune.evaluate(model, tested).top1 for model in (original, state.model, compensated)]
    print("ours: original {:.2%}, cut {:.2%}, compensated {:.2%}".format(*accuracies), flush=True)
    begun = time.monotonic()
    found = onnxprune.finetune(
        compensated,
        reopened(data, compensated),
        teacher=original,
        recipe=recipe,
        folder=args.run / "ours",
        device="cpu",
        on_epoch=lambda epoch: print("ours:", epoch.row(), flush=True),
    )
    seconds = time.monotonic() - begun
    return {
        "name": "onnxprune",
        "macs": (onnxprune.cost(compensated, dims).macs or 0) / (onnxprune.cost(original, dims).macs or 1),
        "original": accuracies[0],
        "cut": accuracies[1],
        "compensated": accuracies[2],
        "tuned": onnxprune.evaluate(found.model, tested).top1,
        "seconds": seconds,
    }


def torch_pruning(
    original: onnxprune.Model, data: Request, val: Request, recipe: Recipe, args: argparse.Namespace
) -> dict[str, Any]:
    import torch_pruning as tp

    module = with_weights(build(args.network).module, original).eval()
    example = torch.zeros(1, 3, 32, 32)
    reference = onnxprune.to_torch(original)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(module(x), reference(x), atol=1e-3), "the file holds another network"
    tested, _ = samples_of(reopened(val, original))
    trained, _ = samples_of(reopened(data, original))
    feed = Feed(("image",), torch.device("cpu"), Augment.of(recipe))

    def accuracy(each: nn.Module) -> float:
        found = measure(laid_out(copy.deepcopy(each)), (), tested, feed, Classification(), batch=200)
        return found.accuracy or 0.0

    before = accuracy(module)
    whole, _ = tp.utils.count_ops_and_params(module, example)
    left = whole
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    heads = [each for each in module.modules() if isinstance(each, nn.Linear)]
    pruner = tp.pruner.MagnitudePruner(
        module,
        example,
        importance,
        global_pruning=True,
        pruning_ratio=0.9,
        max_pruning_ratio=0.9,
        iterative_steps=400,
        ignored_layers=heads,
    )
    while left > args.macs * whole:
        pruner.step()
        left, _ = tp.utils.count_ops_and_params(module, example)
    cut = accuracy(module)
    print(f"Torch-Pruning: original {before:.2%}, cut {cut:.2%}, {left / whole:.3f} of the MACs", flush=True)
    begun = time.monotonic()
    shapes = [list(parameter.shape) for parameter in module.parameters()]
    facts = {"model": digest(original), "data": trained.digest, "shapes": shapes, "epochs": recipe.epochs}
    watch = Watch(
        keeper=Keeper(args.run / "torch-pruning", facts),
        on_epoch=lambda epoch: print("Torch-Pruning:", epoch.row(), flush=True),
    )
    train(module, trained, None, recipe, feed=feed, watch=watch)
    return {
        "name": "Torch-Pruning",
        "macs": left / whole,
        "original": before,
        "cut": cut,
        "compensated": cut,
        "tuned": accuracy(module),
        "seconds": time.monotonic() - begun,
    }


if __name__ == "__main__":
    main()
