"""How good a model is on data, and how near to the original, in one pass that holds one batch at a time.

    top1, top5   samples whose label is the largest output, or among the five largest
    agreement    samples on which both models have the same largest output; of models whose outputs are no floats, the
                 same outputs
    deviation    sqrt(sum |y - y0|^2 / sum |y0|^2), over all samples; the mean over the outputs
    cosine       sum y y0 / sqrt(sum y^2 * sum y0^2); likewise
    sqnr_db      10 log10(sum |y0|^2 / sum |y - y0|^2); likewise

y are the model's outputs of floats, y0 the original's. Classes are what the first of these has one number for, for each
sample: shape (N, classes), or that after axes of length 1 at the end are taken away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.data.sources import Dataset
from onnxprune.errors import NotFinite, UnfitData, UserError
from onnxprune.execution import runtime
from onnxprune.execution.batches import Batch
from onnxprune.execution.walk import origin
from onnxprune.files.model import Model, expect_model
from onnxprune.text.functions import function_of, is_function_name, theirs
from onnxprune.text.shown import Shown

Array = NDArray[Any]
Outputs = Mapping[str, Array]
Metric = Callable[[dict[str, Array], Array | None], float]
"""From outputs by name and labels to a number, for one batch; numbers of batches are averaged by their samples."""

HELD = 256 << 20
"""Bytes of the original's outputs that are kept; what goes beyond is computed again each time."""
TOP = 5


@dataclass(frozen=True)
class Evaluation(Shown):
    """What was found; None: it cannot be said of this model, or of this data."""

    samples: int
    top1: float | None = None
    top5: float | None = None
    """Only where there are five classes at least."""
    agreement: float | None = None
    deviation: float | None = None
    cosine: float | None = None
    sqnr_db: float | None = None
    """Infinite where the outputs are equal."""
    metric: float | None = None
    """What the user's function said."""
    notes: tuple[str, ...] = ()

    def figures(self) -> dict[str, float]:
        """What is known and finite, by name: what a record can hold."""
        found = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "notes"}
        return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


class Reference:
    """The original's outputs on data: computed when first asked for, and kept as far as they fit."""

    def __init__(self, model: Model, dataset: Dataset, *, threads: int = 1) -> None:
        expect_model(model, "Reference")
        self.model, self.dataset, self.threads = model, dataset, threads
        self._session: Any = None
        self._kept: dict[int, dict[str, Array]] = {}
        self._room = HELD

    def outputs(self, index: int, batch: Batch) -> Outputs:
        """The outputs for the batch of this index."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        if self._session is None:
            self._session = runtime.session(self.model, threads=self.threads)
        made = _counted(self.model, runtime.run(self._session, batch.feeds), batch, "the original")
        size = sum(array.nbytes for array in made.values())
        if size <= self._room:
            self._room -= size
            self._kept[index] = made
        return made


def evaluate(
    model: Model,
    dataset: Dataset,
    *,
    original: Model | Reference | None = None,
    metric: str | Metric | None = None,
    labels: bool = True,
    threads: int = 1,
) -> Evaluation:
    """Run a model on data; with an `original`, also compare the two. A `Reference` serves for many models.

    Without `labels`, those that the data has are not looked at: of data to calibrate on they may be any.
    """
    expect_model(model, "evaluate")
    if isinstance(original, Model):
        original = Reference(original, dataset, threads=threads)
    if original is not None and original.dataset is not dataset:
        raise UserError("the original's outputs are of other data than that to evaluate on")
    session = runtime.session(model, threads=threads)
    figures = _Figures(metric_of(metric), labels)
    for index, batch in enumerate(dataset):
        outputs = _counted(model, runtime.run(session, batch.feeds), batch, "the model")
        figures.add(batch, outputs, None if original is None else original.outputs(index, batch))
    return figures.found(dataset.classes, dataset.notes)


@dataclass
class _Sums:
    """Of one output, over all samples so far."""

    own: float = 0.0
    other: float = 0.0
    both: float = 0.0
    gap: float = 0.0

    def add(self, own: Array, other: Array) -> None:
        a, b = own.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        self.own += float(a @ a)
        self.other += float(b @ b)
        self.both += float(a @ b)
        a -= b
        self.gap += float(a @ a)

    @property
    def deviation(self) -> float:
        return math.sqrt(_ratio(self.gap, self.other))

    @property
    def cosine(self) -> float:
        if not self.own and not self.other:
            return 1.0
        return self.both / math.sqrt(self.own * self.other) if self.own and self.other else 0.0

    @property
    def sqnr_db(self) -> float:
        ratio = _ratio(self.gap, self.other)
        return -10 * math.log10(ratio) if 0 < ratio < math.inf else -math.inf if ratio else math.inf


class _Figures:
    """What is summed up from batch to batch."""

    def __init__(self, metric: Metric | None, labels: bool) -> None:
        self.metric, self.measured, self.labels = metric, 0.0, labels
        self.samples = self.labelled = self.first = self.among = self.compared = self.same = self.classes = 0
        self.sums: dict[str, _Sums] = {}
        self.notes: dict[str, None] = {}
        """Each once, in order."""

    def add(self, batch: Batch, outputs: Outputs, original: Outputs | None) -> None:
        self.samples += batch.count
        logits = _logits(outputs, batch.count)
        if self.labels and batch.labels is not None and logits is not None:
            self._label(batch.labels, logits)
        if original is not None:
            self._compare(outputs, original)
            other = _logits(original, batch.count)
            alike = _alike(outputs, original, batch.count)
            if logits is not None and other is not None:
                alike = logits.argmax(axis=1) == other.argmax(axis=1)
            if alike is not None:
                self.compared += batch.count
                self.same += int(alike.sum())
        if self.metric is not None:
            self.measured += batch.count * self.metric(dict(outputs), batch.labels)

    def _label(self, labels: Array, logits: Array) -> None:
        self.classes = logits.shape[1]
        labels = labels.reshape(len(labels)) if labels.size == len(labels) else labels
        if labels.ndim != 1 or labels.dtype.kind not in "biu":
            shape = ", ".join(["N", *map(str, labels.shape[1:])])
            self.notes[f"labels of {labels.dtype} [{shape}] are no class numbers, so there is no accuracy"] = None
            return
        if labels.min() < 0 or labels.max() >= self.classes:
            raise UnfitData(f"labels run from {labels.min()} to {labels.max()}, for a model of {self.classes} classes")
        rank = _ranks(logits, labels.astype(np.int64))
        self.labelled += len(labels)
        self.first += int((rank == 0).sum())
        self.among += int((rank < TOP).sum())

    def _compare(self, outputs: Outputs, original: Outputs) -> None:
        for name, other in original.items():
            own = outputs.get(name)
            if own is None or other.dtype.kind != "f":
                continue
            if own.shape != other.shape:
                self.notes[f"output {name!r} has other shapes than the original's, and is not compared"] = None
                continue
            self.sums.setdefault(name, _Sums()).add(own, other)

    def found(self, classes: int, notes: Iterable[str]) -> Evaluation:
        said = [*notes, *self.notes]
        if self.labelled and classes and classes != self.classes:
            said.append(
                f"the data has {classes} classes and the model {self.classes}: labels are the places of class folders "
                f"in the order of their names"
            )
        sums = list(self.sums.values())
        return Evaluation(
            samples=self.samples,
            top1=self.first / self.labelled if self.labelled else None,
            top5=self.among / self.labelled if self.labelled and self.classes >= TOP else None,
            agreement=self.same / self.compared if self.compared else None,
            deviation=_mean([part.deviation for part in sums]),
            cosine=_mean([part.cosine for part in sums]),
            sqnr_db=_mean([part.sqnr_db for part in sums]),
            metric=self.measured / self.samples if self.metric is not None else None,
            notes=tuple(said),
        )


def _counted(model: Model, outputs: Mapping[str, Any], batch: Batch, whose: str) -> dict[str, Array]:
    """The outputs without what the copies at a batch's end made; an output in which that cannot be told apart goes."""
    found: dict[str, Array] = {}
    for name, array in outputs.items():
        if not isinstance(array, np.ndarray):
            continue
        if batch.spare:
            if not array.ndim or len(array) != batch.count + batch.spare:
                continue
            array = array[: batch.count]
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise NotFinite(f"output {name!r} of {whose} holds NaN or Inf, first in {origin(model, batch, name)}")
        found[name] = array
    return found


def _logits(outputs: Outputs, count: int) -> Array | None:
    """(samples, classes), where an output is that."""
    for array in outputs.values():
        wide = [n for n in array.shape[1:] if n != 1]
        if array.dtype.kind == "f" and array.ndim > 1 and len(array) == count and len(wide) == 1:
            return array.reshape(count, wide[0])
    return None


def _alike(outputs: Outputs, original: Outputs, count: int) -> NDArray[np.bool_] | None:
    """(samples,): where all outputs are the same; None: some are floats, or have no samples."""
    same = np.ones(count, bool)
    for name, other in original.items():
        own = outputs.get(name)
        if own is None or other.dtype.kind == "f" or own.shape != other.shape or other.shape[:1] != (count,):
            return None
        same &= (own == other).reshape(count, -1).all(axis=1)
    return same if original else None


def _ranks(logits: Array, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes come before the right one; of equal ones the first comes first, as in argmax."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    ranks: NDArray[np.int64] = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return ranks


def metric_of(metric: str | Metric | None) -> Metric | None:
    """The user's function, which must give a finite number."""
    if metric is None:
        return None
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
    if isinstance(metric, str) and not is_function_name(metric):
        raise UserError(f"a metric is named module:function, not {metric!r}")
    function = function_of(metric) if isinstance(metric, str) else metric

    def checked(outputs: dict[str, Array], labels: Array | None) -> float:
        with theirs(name):
            given = function(outputs, labels)
        try:
            value = float(given)
        except (TypeError, ValueError):
            raise UserError(f"metric {name!r} must return a number, not {type(given).__name__}") from None
        if not math.isfinite(value):
            raise NotFinite(f"metric {name!r} gives {value}")
        return value

    return checked


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.inf if part else 0.0


def _mean(numbers: list[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None
