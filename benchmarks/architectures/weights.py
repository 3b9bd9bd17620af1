"""Random weights under which a masked channel can be seen at the output, and no two parameters are equal.

* matrices keep the scale of what passes through them; what is initialised to zero is drawn anew;
* scales lie in [0.5, 1.5], also those that start at 1e-6, gates that start at zero included;
* shifts are small and not zero, running statistics are measured behind the jittered layers and jittered themselves.

Exporters merge equal initializers: without this, all normalisations of a network would share one vector.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

_SCALE = re.compile(r"(weight|gamma\w*|scale\w*|gain|ls\d?|lambda\w*|gate)$")
_SMALL = 0.3
"""Below: a layer scale, or a gate that starts closed."""


QUIET = 0.1


def draw(network: nn.Module, quiet: str = "") -> None:
    """Give every parameter a value of its own, and those whose names match the pattern a small one."""
    import torch
    from torch import nn

    matrices = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d
    drawn: set[int] = set()
    with torch.no_grad():
        for module in network.modules():
            weight = getattr(module, "weight", None)
            if not isinstance(weight, nn.Parameter) or isinstance(weight, nn.UninitializedParameter):
                continue  # a weight may be computed (weight norm, standardised weights)
            if isinstance(module, matrices) and weight.dim() > 1 and id(weight) not in drawn:
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
                drawn.add(id(weight))
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.bias is not None:
                nn.init.normal_(module.bias, 0.5, 0.1)  # most of a ReLU is then open
                drawn.add(id(module.bias))
        for name, parameter in network.named_parameters():
            if id(parameter) not in drawn and parameter.is_floating_point():
                _redraw(name, parameter)
            if quiet and re.search(quiet, name):
                parameter.mul_(QUIET)


def _redraw(name: str, parameter: torch.Tensor) -> None:
    if parameter.numel() == max(parameter.shape, default=1):
        _redraw_vector(name, parameter)
        return
    spread = float(parameter.std())
    if spread < 1e-4 * (float(parameter.abs().mean()) + 1):  # constant: a table that training fills
        level = float(parameter.mean())
        parameter.copy_(level + parameter.new_empty(parameter.shape).normal_(0, 0.3 * abs(level) or 0.3))
        return
    parameter.add_(0.1 * spread * parameter.new_empty(parameter.shape).normal_())


def _redraw_vector(name: str, parameter: torch.Tensor) -> None:
    level = float(parameter.abs().mean())
    if _SCALE.search(name) and (level < _SMALL or abs(level - 1) < _SMALL):
        parameter.uniform_(0.5, 1.5)
    elif level < 1e-6:
        parameter.normal_(0, 0.1)
    else:
        parameter.mul_(parameter.new_empty(parameter.shape).uniform_(0.8, 1.2))


def calibrate(network: nn.Module, run: Callable[[], Any]) -> None:
    """Running statistics from one run, jittered layer by layer: each is measured behind the jittered ones.

    The mean stays near zero and the variance is the second moment: to subtract the true mean would remove the larger
    part of every signal behind a ReLU and leave its rounding error.
    """
    import torch
    from torch import nn

    def measure(norm: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if norm.running_mean is None:
            return
        power = inputs[0].float().square().mean([axis for axis in range(inputs[0].dim()) if axis != 1])
        power.clamp_min_(1e-3 * float(power.mean()) + 1e-8)
        noise = power.new_empty(power.shape)
        norm.running_mean.copy_(0.1 * power.sqrt() * noise.normal_())
        norm.running_var.copy_(power * noise.uniform_(0.5, 1.5))

    network.eval()
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    if hooks:
        with torch.no_grad():
            run()
    for hook in hooks:
        hook.remove()
