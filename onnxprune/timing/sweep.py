"""Models in several variants, measured in every setting: each combination of provider, batch size and threads.

    setting    CPU, batch 1, 1 thread            CPU, batch 1, 2 threads           CPU, batch 8, 1 thread ...
    round 1    a  a fp16  a int8  b  b fp16 ...  the first of them is what the others are held against
    round 2    a  a fp16  a int8  b  b fp16 ...

Within a setting all take their turns round by round, so that ratios are sound; nothing is compared between settings.
All of it is rehearsed before the first measurement: a mistake must not come to light after ten minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.files.model_files import as_files, titles_of
from onnxprune.files.scratch_folder import scratch_folder
from onnxprune.graph.dims import Dims
from onnxprune.machine.providers import resolve_providers
from onnxprune.text.shown import Shown
from onnxprune.timing.batch_size import bind_batch
from onnxprune.timing.bench import BenchReport, Progress, bench, check_options
from onnxprune.timing.rehearsal import Contender, Field, Refused, Rehearsal
from onnxprune.timing.variants import PLAIN, check_variant


@dataclass(frozen=True)
class Setting:
    """Where and how the models run."""

    provider: str
    batch: int | None
    """None: as the other options have it."""
    threads: int


@dataclass(frozen=True)
class Measured:
    """What was found in one setting."""

    setting: Setting
    report: BenchReport
    contenders: tuple[Contender, ...]
    """One for each row of the report."""
    refused: tuple[Refused, ...]
    """What could not take part."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the report, each row with its model and variant."""
        document = self.report.to_dict()
        pairs = zip(document["rows"], self.contenders, strict=True)
        rows = [{**row, "model": each.model, "variant": each.variant} for row, each in pairs]
        return {
            **document,
            "batch": self.setting.batch,
            "rows": rows,
            "refused": [asdict(each) for each in self.refused],
        }


@dataclass(frozen=True)
class Sweep(Shown):
    """What was found in all of them."""

    settings: tuple[Measured, ...]
    left_out: tuple[str, ...] = ()
    """Providers that are installed and do not start on this machine, where all were asked for."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"settings": [each.to_dict() for each in self.settings], "left_out": list(self.left_out)}


def sweep(
    models: Sequence[str | Path | Model],
    *,
    batches: Sequence[int | None] = (None,),
    threads: Sequence[int] = (1,),
    providers: Sequence[str] = ("cpu",),
    variants: Sequence[str] = (PLAIN,),
    dims: Dims | None = None,
    runs: int | None = None,
    warmup: int = 3,
    seconds: float = 5.0,
    measure_memory: bool = False,
    on_progress: Progress | None = None,
) -> Sweep:
    """Run `bench` in each setting, `runs` rounds or about `seconds` in each."""
    if not models or isinstance(models, str | Path | Model):
        raise UserError("nothing to measure: give a list of at least one model")
    for count in threads:
        check_options(count, warmup, seconds, runs)
    for variant in variants:
        check_variant(variant)
    resolved, left_out = resolve_providers(providers)
    for what, values in (
        ("batch", batches),
        ("number of threads", threads),
        ("variant", variants),
        ("provider", resolved),
    ):
        _check_list(what, values)
    progress = on_progress or (lambda stage, part: None)
    progress("load", 0.0)
    with as_files(models) as paths, scratch_folder() as folder:
        rehearsal = Rehearsal(titles_of(models), paths, variants, folder)
        bound = {batch: _bound(rehearsal.models, dims or {}, batch) for batch in batches}
        spots = list(product(resolved, batches))
        fields: dict[tuple[str, int | None], Field] = {}
        for index, (provider, batch) in enumerate(spots):
            if len(spots) == 1 and rehearsal.alone:  # then bench is the first to run them anyway
                fields[provider, batch] = rehearsal.untried(bound[batch])
            else:
                progress("rehearse", index / len(spots))
                fields[provider, batch] = rehearsal.field(bound[batch], provider, threads[0])
        settings = [Setting(provider, batch, count) for provider, batch in spots for count in threads]
        found = []
        for index, setting in enumerate(settings):
            field = fields[setting.provider, setting.batch]
            report = bench(
                [each.path for each in field.contenders],
                names=[each.name for each in field.contenders],
                threads=setting.threads,
                dims=field.dims,
                provider=setting.provider,
                runs=runs,
                warmup=warmup,
                seconds=seconds,
                measure_memory=measure_memory,
                on_progress=_share(progress, index, len(settings)),
            )
            found.append(Measured(setting, report, field.contenders, field.refused))
    return Sweep(tuple(found), tuple(left_out))


def _check_list(what: str, values: Sequence[object]) -> None:
    if not values:
        raise UserError(f"nothing to measure: give at least one {what}")
    for index, value in enumerate(values):
        if value in values[:index]:
            raise UserError(f"{what} {value!r} is given twice")


def _bound(models: Sequence[Model], dims: Dims, batch: int | None) -> Dims:
    return dims if batch is None else bind_batch(models, dims, batch)


def _share(progress: Progress, index: int, count: int) -> Progress:
    """Of all settings together."""
    return lambda stage, part: progress(stage, (index + part) / count)
