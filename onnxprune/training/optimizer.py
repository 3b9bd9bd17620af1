"""Which parameters decay: those that mix channels, not those that shift or scale them.

(64, 32, 3, 3)  (10, 64)          weights: decay
(64,)  (1, 64, 1, 1)  (1,)        biases and scales, whatever reads them: at most one axis is longer than 1
"""

from __future__ import annotations

from torch import nn, optim

from onnxprune.errors import UserError
from onnxprune.training.recipe import Recipe


def optimizer_of(module: nn.Module, recipe: Recipe) -> optim.Optimizer:
    """Over all parameters that train."""
    training = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not training:
        raise UserError("the model has nothing to train: none of its weights is a parameter")
    mixing = [parameter for parameter in training if sum(size > 1 for size in parameter.shape) > 1]
    others = [parameter for parameter in training if sum(size > 1 for size in parameter.shape) <= 1]
    groups = [{"params": mixing, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adamw":
        return optim.AdamW(groups, lr=recipe.peak)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return optim.SGD(groups, lr=recipe.peak, momentum=recipe.momentum, nesterov=nesterov)
