"""Test networks as ONNX files: torchvision's definitions, random weights, both exporters, BatchNormalization or not.

Random weights show everything that trained ones do about structure, if three things hold, and here they are made to
hold:

* no two 1-D parameters are equal (an exporter merges equal initializers, and two layers are then tied by accident);
* every layer moves the output (running statistics are measured, then jittered; zero-initialised heads and tiny layer
  scales are drawn anew, so that activations neither explode nor vanish and masking a channel can be seen);
* the exported file says the same as the network it came from (each file is run in onnxruntime and compared before
  it gets its name).

    python benchmarks/zoo.py OUT_DIR [--models resnet18,mobilenet_v2] [--variants legacy,dynamo]

writes OUT_DIR/<variant>/<model>.onnx. Files that exist are kept, so an interrupted run can be continued.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import child

if TYPE_CHECKING:
    import torch
    from torch import nn

SEED = 20
CALIBRATION_IMAGES = 4
LEGACY_OPSET = 17
MAX_EXPORT_ERROR = 1e-3
MIN_RESPONSE = 1e-3

NOT_APPLICABLE = 3
"""Exit status of a child that has nothing to write."""

VARIANTS = ("legacy", "dynamo", "legacy-bn", "dynamo-bn")


@dataclass(frozen=True)
class Network:
    """One torchvision network: how it is built and what it reads."""

    name: str
    size: int = 224
    """Height and width of the input image."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the torchvision builder."""
    segmentation: bool = False
    variants: tuple[str, ...] = VARIANTS


_NO_AUX = {"aux_logits": False, "init_weights": False, "transform_input": False}
_SEGMENTATION: dict[str, Any] = {"weights_backbone": None}

NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network("resnet18"),
        Network("mobilenet_v2"),
        Network("shufflenet_v2_x1_0"),
        Network("resnet50"),
        Network("mobilenet_v3_small"),
        Network("squeezenet1_1"),
        Network("efficientnet_b0"),
        Network("mnasnet1_0"),
        Network("regnet_x_400mf"),
        Network("regnet_y_400mf"),
        Network("densenet121"),
        Network("googlenet", options=_NO_AUX),
        Network("resnext50_32x4d"),
        Network("convnext_tiny"),
        Network("lraspp_mobilenet_v3_large", 128, _SEGMENTATION, segmentation=True),
        Network("deeplabv3_mobilenet_v3_large", 128, _SEGMENTATION, segmentation=True),
        Network("fcn_resnet50", 128, _SEGMENTATION, segmentation=True),
        Network("inception_v3", 299, _NO_AUX),
        Network("wide_resnet50_2"),
        Network("alexnet"),
        Network("vgg11_bn"),
        Network("vit_b_16"),
        Network("swin_t", variants=("dynamo",)),
    )
}


_DECLARED: list[Any] = []
"""Operators declared here live as long as the objects in this list."""


class NotApplicable(Exception):
    """The variant would be the same file as another one."""


def torchvision_models() -> Any:
    """torchvision.models, also where torchvision's compiled operators do not load.

    A CPU build of torch next to a CUDA build of torchvision cannot load them, and torchvision then fails on import,
    because it registers kernels for `nms` and `qnms`, which nobody has declared. Declaring them is enough: no
    network here calls them.
    """
    import torch

    try:
        import torchvision
    except RuntimeError:
        for name in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
            del sys.modules[name]
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch's gap
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
        import torchvision
    return torchvision.models


def build(network: Network, *, size: int | None = None, seed: int = SEED) -> tuple[nn.Module, torch.Tensor]:
    """The network in eval mode with jittered weights, and an example batch of two images."""
    import torch

    torch.manual_seed(seed)
    models = torchvision_models()
    model: nn.Module = models.get_model(network.name, weights=None, **network.options)
    if network.segmentation:
        model = _first_output(model)
    images = torch.randn(CALIBRATION_IMAGES, 3, size or network.size, size or network.size)
    # Images of different brightness and contrast: statistics taken after a global pool are then not almost constant.
    images = images * torch.linspace(0.5, 1.5, CALIBRATION_IMAGES).view(-1, 1, 1, 1)
    images = images + 0.5 * torch.randn(CALIBRATION_IMAGES, 3, 1, 1)
    with torch.no_grad():
        draw_weights(model)
        calibrate(model, images)
    return model.eval(), images[:2]


def _first_output(model: nn.Module) -> nn.Module:
    from torch import nn

    class FirstOutput(nn.Module):
        """A segmentation network returns a dict; its entry 'out' is the answer."""

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.network(image)["out"]
            return out

    return FirstOutput(model)


def draw_weights(model: nn.Module) -> None:
    """Weights that keep the scale of activations, scales in [0.5, 1.5], small shifts; no zeros, no two vectors equal.

    BatchNormalization shifts upwards by half a deviation: most of a ReLU is then open, and rounding errors do not
    grow with depth.
    """
    from torch import nn

    drawn: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            drawn.add(id(module.weight))
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, 0.5, 0.1)
            drawn.add(id(module.bias))
    for name, parameter in model.named_parameters():
        if id(parameter) in drawn:
            continue
        vector = parameter.numel() == max(parameter.shape)
        if vector and name.endswith(("weight", "layer_scale")):
            parameter.uniform_(0.5, 1.5)
        elif vector:
            parameter.normal_(0, 0.1)
        else:
            parameter.add_(0.1 * parameter.std() * parameter.new_empty(parameter.shape).normal_())


def calibrate(model: nn.Module, images: torch.Tensor) -> None:
    """Running statistics from the images, jittered layer by layer: each is measured behind the jittered ones.

    The mean stays near zero and the variance is the second moment about it. Subtracting the true mean as well would
    remove the larger part of every signal behind a ReLU and leave its rounding error: fifty layers of that, and two
    exact computations differ by 1e-5.
    """
    from torch import nn

    def measure(norm: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        power = inputs[0].square().mean((0, 2, 3))
        power.clamp_min_(1e-3 * float(power.mean()) + 1e-8)
        noise = power.new_empty(power.shape)
        norm.running_mean.copy_(0.1 * power.sqrt() * noise.normal_())
        norm.running_var.copy_(power * noise.uniform_(0.5, 1.5))

    model.eval()
    hooks = [m.register_forward_pre_hook(measure) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if hooks:
        model(images)
    for hook in hooks:
        hook.remove()


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a variant that keeps BatchNormalization makes sense."""
    from torch import nn

    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def export(model: nn.Module, image: torch.Tensor, path: Path, variant: str) -> None:
    """Write the network as ONNX with a dynamic batch, in one of VARIANTS.

    legacy: the TorchScript exporter. dynamo: the default one. Both fold BatchNormalization into convolutions.
    legacy-bn, dynamo-bn: the same exporters with everything that folds it turned off.
    """
    import torch

    folded = not variant.endswith("-bn")
    if variant.startswith("legacy"):
        mode = torch.onnx.TrainingMode
        torch.onnx.export(
            model,
            (image,),
            str(path),
            dynamo=False,
            opset_version=LEGACY_OPSET,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
            do_constant_folding=folded,
            training=mode.EVAL if folded else mode.PRESERVE,
        )
        return
    program = torch.onnx.export(
        model,
        (image,),
        dynamo=True,
        input_names=["input"],
        output_names=["output"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
        optimize=folded,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("the exporter returned nothing")
    if not folded:
        from onnxscript import optimizer

        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
    program.save(str(path), external_data=False)


def check(path: Path, expected: torch.Tensor, image: torch.Tensor, *, batch_norm: bool) -> str:
    """Run the file; raise unless it agrees with torch and tells two images apart. Returns what was seen."""
    import numpy as np
    import onnx
    import onnxruntime as ort

    graph = onnx.load(str(path), load_external_data=False).graph
    norms = sum(node.op_type == "BatchNormalization" for node in graph.node)
    if batch_norm and not norms:
        raise RuntimeError("no BatchNormalization in the file")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    out = np.asarray(session.run(None, {"input": image.numpy()})[0])
    if not np.isfinite(out).all():
        raise RuntimeError("the output is not finite")
    scale = float(np.abs(out).max())
    error = float(np.abs(out - expected.numpy()).max()) / max(scale, 1e-30)
    response = float(np.abs(out[0] - out[1]).max()) / max(scale, 1e-30)
    if not scale > 0 or response < MIN_RESPONSE:
        raise RuntimeError(f"the output hardly depends on the input (largest {scale:.3g}, response {response:.3g})")
    if error > MAX_EXPORT_ERROR:
        raise RuntimeError(f"onnxruntime and torch differ by {error:.3g}")
    size = path.stat().st_size / 1e6
    return (
        f"{len(graph.node):5d} nodes  {norms:3d} BN  {size:7.1f} MB  largest output {scale:8.3g}  "
        f"response {response:.2f}  error against torch {error:.1e}"
    )


def write_one(out_dir: Path, name: str, variant: str, size: int | None) -> int:
    """Build, export and check one file. Exit status: 0 written, 1 failed (a traceback), NOT_APPLICABLE."""
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    path = out_dir / variant / f"{name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        model, image = build(NETWORKS[name], size=size)
        batch_norm = variant.endswith("-bn")
        if batch_norm and not has_batch_norm(model):
            raise NotApplicable("the network has no BatchNormalization")
        export(model, image, partial, variant)
        with torch.no_grad():
            expected = model(image)
        del model
        line = check(partial, expected, image, batch_norm=batch_norm)
        partial.replace(path)
    except NotApplicable as reason:
        print(f"skipped: {reason}")
        return NOT_APPLICABLE
    finally:
        partial.unlink(missing_ok=True)
    print(line)
    return 0


def write_all(out_dir: Path, names: list[str], variants: list[str], size: int | None, memory_gib: float) -> int:
    """One process for each file, one after the other. Returns the number of failures."""
    failures = 0
    for variant in variants:
        for name in names:
            if variant not in NETWORKS[name].variants or (out_dir / variant / f"{name}.onnx").exists():
                continue
            command = [sys.executable, __file__, str(out_dir), "--one", "--models", name, "--variants", variant]
            command += ["--size", str(size)] if size else []
            done = child.run(command, memory_gib=memory_gib)
            failed = done.status not in (0, NOT_APPLICABLE)
            failures += failed
            said = f"FAILED, {done.failure}" if failed else "".join(done.stdout.splitlines()[-1:])
            print(f"{variant:10s} {name:30s} {done.seconds:6.1f} s  {said}", flush=True)
    return failures


def chosen(text: str, known: tuple[str, ...], what: str) -> list[str]:
    """The comma-separated names, in the order of the known ones."""
    wanted = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := sorted(wanted - set(known)):
        raise SystemExit(f"unknown {what}: {', '.join(unknown)}; known: {', '.join(known)}")
    return [name for name in known if name in wanted]


def main() -> int:
    """Write what does not exist yet."""
    parser = argparse.ArgumentParser(description="Write test networks as ONNX files.")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--models", default=",".join(NETWORKS), help="comma-separated; default: all")
    parser.add_argument(
        "--variants", default=",".join(VARIANTS), help=f"comma-separated; default: {','.join(VARIANTS)}"
    )
    parser.add_argument("--size", type=int, help="height and width of the input; default: the network's own")
    parser.add_argument(
        "--memory", type=float, default=12.0, metavar="GIB", help="address space for each export (default 12)"
    )
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = chosen(options.models, tuple(NETWORKS), "model")
    variants = chosen(options.variants, VARIANTS, "variant")
    if options.one:
        return write_one(options.out_dir, names[0], variants[0], options.size)
    return min(write_all(options.out_dir, names, variants, options.size, options.memory), 1)


if __name__ == "__main__":
    sys.exit(main())
