"""The networks on which benchmarks/peers.py holds tools against each other: each as a torch module and as its file.

Those with random weights come from the zoo, or from torchvision where the zoo has none; `trained` ones are a file of
`onnxprune zoo train`, whose weights the module of the same name takes. All are exported anew, as most ONNX files were:
by the TorchScript exporter, BatchNormalization folded. Vision transformers go through the newer exporter, since onnxsim
finds nothing in what the older one makes of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import zoo

if TYPE_CHECKING:
    import torch
    from torch import nn

    import onnxprune


@dataclass(frozen=True)
class Network:
    """One network, the same in every process."""

    name: str
    exporter: str = "legacy"
    sizes: Mapping[str, int] = field(default_factory=dict)
    torchvision: bool = False

    def module(self, trained: Path | None) -> tuple[nn.Module, torch.Tensor]:
        """With an example of two pictures."""
        import torch

        from onnxprune.models_zoo.building import build, jitter

        torch.set_num_threads(1)
        warnings.simplefilter("ignore")  # of exporters and tracers about themselves
        if self.torchvision:
            return zoo.build(zoo.NETWORKS[self.name])
        built = build(self.name, self.sizes)
        if trained is None:
            jitter(built.module)
        else:
            from onnxprune import load

            with_weights(built.module, load(trained))
        (picture,) = built.inputs.values()
        return built.module.eval(), picture

    def export(self, module: nn.Module, picture: torch.Tensor, path: Path) -> None:
        """As the original was exported."""
        zoo.export(module, picture, path, self.exporter)


RANDOM = {
    network.name: network
    for network in (
        Network("resnet18"),
        Network("resnet50"),
        Network("mobilenet_v2"),
        Network("densenet121"),
        Network("regnet_y_400mf"),
        Network("shufflenet_v2_x1_0", torchvision=True),
        Network("unet", sizes={"side": 128}),
        Network("retinanet_r50_fpn", sizes={"height": 192, "width": 256}),
        Network("yolov8_n", sizes={"side": 320}),
        Network("vit_small", "dynamo"),
    )
}


def trained(name: str) -> Network:
    """A network of the zoo that comes with weights."""
    return Network(name, "dynamo" if name.startswith("vit") else "legacy")


def with_weights(module: nn.Module, model: onnxprune.Model) -> nn.Module:
    """The network with the file's weights, which have its names."""
    import torch

    names = [name for name in module.state_dict() if not name.endswith("num_batches_tracked")]
    state = {name: torch.from_numpy(model.weights[name].array().copy()) for name in names}
    module.load_state_dict(state, strict=False)
    return module
