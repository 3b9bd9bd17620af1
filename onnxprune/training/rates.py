"""The learning rate as a function of the step: up in a straight line, then down as half a cosine.

rate(s) = peak * (s + 1) / w                              while s < w, the steps of the warm-up
rate(s) = peak * (1 + cos(pi * (s - w) / (total - w))) / 2
"""

from __future__ import annotations

import math

from onnxprune.training.recipe import Recipe


def rate_at(recipe: Recipe, step: int, total: int) -> float:
    """The rate of a step, of `total` in all epochs."""
    rising = math.ceil(recipe.warmup * total)
    if step < rising:
        return recipe.peak * (step + 1) / rising
    if recipe.schedule == "constant":
        return recipe.peak
    return recipe.peak * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising))) / 2
