"""Every option of a training run, with defaults that suit a pruned network: near an optimum, but knocked off it.

    small steps     a rate of 0.01, a tenth of what networks are trained with from nothing: larger ones first destroy
                    what is left, and networks whose BatchNormalization was folded away may diverge
    warm-up         the first steps come from batches on which the loss is high, and momentum would remember them
    clipping        one bad batch must not undo an epoch
    cosine to zero  a few epochs are all there is; the last steps should settle

Torch is not needed to read or check a recipe.
"""

from __future__ import annotations

import math
import reprlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from onnxprune.errors import UserError
from onnxprune.text.functions import is_function_name
from onnxprune.text.kinds import is_number, is_whole
from onnxprune.text.names import suggest

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("float32", "bfloat16")
SPARSITIES = ("bn-l1", "group-lasso")
RATES: Mapping[str, float] = {"sgd": 0.01, "adamw": 5e-4}
DECAYS: Mapping[str, float] = {"sgd": 1e-4, "adamw": 1e-2}


@dataclass(frozen=True)
class Recipe:
    """How to train."""

    epochs: int = 10
    """Passes over the data."""
    batch: int = 64
    """Samples per step and process."""
    optimizer: str = "sgd"
    """`sgd` (with Nesterov's momentum) or `adamw`."""
    rate: float | None = None
    """The highest learning rate; None: 0.01 for SGD, 0.0005 for AdamW."""
    momentum: float = 0.9
    """Of SGD."""
    nesterov: bool = True
    """Look ahead, where there is momentum."""
    weight_decay: float | None = None
    """Of everything but biases and normalisations; None: 0.0001 for SGD, 0.01 for AdamW."""
    schedule: str = "cosine"
    """`cosine` (down to zero) or `constant`, after the warm-up."""
    warmup: float = 0.05
    """The part of all steps over which the rate rises from zero."""
    clip: float = 5.0
    """Gradients longer than this are shortened; 0: never."""
    smoothing: float = 0.0
    """Label smoothing: the part of every label that is spread over all classes."""
    flip: bool = False
    """Images: half of them are turned left to right."""
    crop: int = 0
    """Images: moved by up to so many pixels, what comes in is black."""
    jitter: float = 0.0
    """Images: brightness, contrast and saturation change by up to this factor, 0.4 for instance."""
    cutout: int = 0
    """Images: a square of so many pixels is made gray."""
    ema: float = 0.0
    """Use the running average of all weights, 0.999 for instance; 0: the weights themselves."""
    precision: str = "float32"
    """`bfloat16`: products in half the bits, weights and sums in float32."""
    temperature: float = 4.0
    """Distillation: what logits are divided by, so that the wrong classes count as well."""
    alpha: float = 0.9
    """Distillation: the part of the teacher in the loss, the rest being the labels'."""
    features: float = 0.0
    """Distillation: the weight of what the two models compute on the way; 0: only outputs are compared."""
    features_at: tuple[str, ...] = ()
    """Patterns on the names of the tensors to compare; empty: the last one of every resolution."""
    sparsity: str | None = None
    """`bn-l1` or `group-lasso`: a pressure towards zero, so that pruning finds something to cut."""
    sparsity_weight: float = 1e-3
    """How strong it is."""
    task: str | None = None
    """`module:function`, from outputs and batch to the loss; None: classification."""
    metric: str | None = None
    """`module:function`, from outputs and labels to a number that should be large; None: accuracy, else the loss."""
    patience: int = 0
    """Stop after so many epochs without a better validation; 0: never."""
    sync_bn: bool = False
    """Several processes: normalise over the batches of all of them."""
    seed: int = 0
    """For the order of the data, augmentation, dropout and new weights."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("crop", 0), ("cutout", 0), ("patience", 0), ("seed", 0)):
            value = getattr(self, name)
            _require(is_whole(value) and value >= least, name, f"a whole number, {least} or more", value)
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            _among(name, getattr(self, name), known)
        if self.sparsity is not None:
            _among("sparsity", self.sparsity, SPARSITIES)
        for name in ("momentum", "warmup", "smoothing", "ema", "jitter"):
            value = getattr(self, name)
            _require(is_number(value) and 0 <= value < 1, name, "0 or more and less than 1", value)
        _require(is_number(self.alpha) and 0 <= self.alpha <= 1, "alpha", "from 0 to 1", self.alpha)
        for name in ("clip", "features", "sparsity_weight", "weight_decay"):
            value = getattr(self, name)
            right = (name == "weight_decay" and value is None) or (is_number(value) and 0 <= value < math.inf)
            _require(right, name, "0 or more", value)
        for name in ("rate", "temperature"):
            value = getattr(self, name)
            right = (name == "rate" and value is None) or (is_number(value) and 0 < value < math.inf)
            _require(right, name, "more than 0", value)
        for name in ("nesterov", "flip", "sync_bn"):
            _require(isinstance(getattr(self, name), bool), name, "true or false", getattr(self, name))
        for name in ("task", "metric"):
            value = getattr(self, name)
            right = value is None or (isinstance(value, str) and is_function_name(value))
            _require(right, name, "the name of a function, module:function", value)
        patterns: Any = self.features_at
        right = isinstance(patterns, tuple) and all(isinstance(item, str) for item in patterns)
        _require(right, "features_at", "a list of patterns", patterns)

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        return RATES[self.optimizer] if self.rate is None else self.rate

    @property
    def decay(self) -> float:
        """The weight decay."""
        return DECAYS[self.optimizer] if self.weight_decay is None else self.weight_decay


OPTIONS = tuple(item.name for item in fields(Recipe))


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The options that a TOML file sets; its keys are the fields of `Recipe`."""
    try:
        data = tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is not valid TOML: {error}") from None
    try:
        return checked_options(data)
    except UserError as error:
        raise UserError(f"{str(path)!r}: {error}") from None


def checked_options(data: Mapping[str, Any]) -> dict[str, Any]:
    """The same with lists as tuples, if `Recipe` takes it."""
    for key in data:
        if key not in OPTIONS:
            raise UserError(f"unknown key {key!r}{suggest(key, OPTIONS)} (there are: {', '.join(OPTIONS)})")
    found: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    Recipe(**found)
    return found


def _among(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"unknown {name} {value!r}{suggest(str(value), known)} (there are: {', '.join(known)})")


def _require(holds: bool, name: str, what: str, value: object) -> None:
    if not holds:
        raise UserError(f"{name} must be {what}, not {reprlib.repr(value)}")
