"""Which model a command works on: the one named, or the small trained network that is shipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxprune.files import store
from onnxprune.files.model import Model
from onnxprune.graph.dims import parse_dims


@dataclass(frozen=True, eq=False)
class Source:
    """A model before anything has happened to it."""

    path: Path
    model: Model
    dims: dict[str, int]
    """What the user bound; the model has all of these dimensions."""


def default_path() -> Path:
    """The shipped network."""
    from onnxprune.models_zoo import digits

    return digits.model_path()


def opened(path: Path, dims: Sequence[str]) -> Source:
    """Read a model and check the dimensions given for it."""
    model = store.load(path)
    return Source(path, model, parse_dims(dims, model) if dims else {})
