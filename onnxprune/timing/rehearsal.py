"""What is going to be measured is tried first: which sizes the models run at, and which variants of them work.

A model that does not run is a mistake, and raised. A variant that cannot be made, or at which onnxruntime crashes, is a
finding: it is refused with a reason, and the rest is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxprune.errors import UserError
from onnxprune.execution.inputs import random_feeds
from onnxprune.files.store import load
from onnxprune.graph.dims import Dims, inputs_of, known
from onnxprune.machine.peak import check_runs
from onnxprune.machine.providers import CPU, with_cpu
from onnxprune.timing.bench import bench
from onnxprune.timing.variants import PLAIN, make_variant


@dataclass(frozen=True)
class Contender:
    """A model in one variant."""

    name: str
    model: str
    variant: str
    path: Path
    """Gone after the measurement, if it is a variant that was made for it."""


@dataclass(frozen=True)
class Refused:
    """A variant that is not measured."""

    name: str
    model: str
    variant: str
    reason: str


@dataclass(frozen=True)
class Field:
    """What takes part with one provider and one batch size."""

    dims: Mapping[str, int]
    contenders: tuple[Contender, ...]
    refused: tuple[Refused, ...] = ()


class Rehearsal:
    """Tries models and their variants; a variant is made once for all the settings that can share it."""

    def __init__(self, titles: Sequence[str], paths: Sequence[Path], variants: Sequence[str], folder: Path) -> None:
        self.titles, self.paths, self.variants, self.folder = titles, paths, variants, folder
        self.models = [load(path) for path in paths]
        self.alone = list(variants) == [PLAIN]
        """Whether there is nothing but the models as they are, which then need no second name."""
        self._made: dict[tuple[int, str, bool], Path | UserError] = {}

    def untried(self, dims: Dims) -> Field:
        """The models as they are."""
        found = zip(self.titles, self.paths, strict=True)
        return Field(dims, tuple(Contender(title, title, PLAIN, path) for title, path in found))

    def field(self, dims: Dims, provider: str, threads: int) -> Field:
        """The variants that run there, at sizes at which all of the models do."""
        sizes = bench(
            self.paths, names=self.titles, dims=dims, provider=provider, threads=threads, runs=1, warmup=0
        ).dims
        contenders: list[Contender] = []
        refused: list[Refused] = []
        for index, (title, path) in enumerate(zip(self.titles, self.paths, strict=True)):
            for variant in self.variants:
                name = title if self.alone else f"{title} {variant}"
                try:
                    made = path if variant == PLAIN else self._variant(index, variant, sizes, provider, threads)
                    contenders.append(Contender(name, title, variant, made))
                except UserError as error:
                    refused.append(Refused(name, title, variant, str(error)))
        if not contenders:
            raise UserError(f"nothing is left to measure: {refused[0].name}: {refused[0].reason}")
        return Field(sizes, tuple(contenders), tuple(refused))

    def _variant(self, index: int, variant: str, sizes: Dims, provider: str, threads: int) -> Path:
        model = self.models[index]
        feeds = random_feeds(model, dims=known(inputs_of(model, sizes), sizes))
        key = index, variant, provider == CPU
        if key not in self._made:
            target = self.folder / f"{len(self._made)}.onnx"
            try:
                make_variant(variant, model, target, feeds=feeds, provider=provider)
                self._made[key] = target
            except UserError as error:
                self._made[key] = error
        made = self._made[key]
        if isinstance(made, UserError):
            raise made
        check_runs(made, feeds, threads=threads, providers=with_cpu(provider))
        return made
