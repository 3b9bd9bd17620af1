"""Criteria that ask data what a channel is worth to the layers that read it.

    obs          what removing a unit adds to the error of its readers' outputs after their other weights have made up
                 for it, as a share of the outputs' power; units are taken away one after the other, cheapest first
    activation   sqrt(mean x^2) |w|: how much of what its readers add up comes from it
    apoz         how often it is not zero
    cosine       the part of it that is no linear function of the rest of its group

For `obs` with H = E[x x'] of a reader's rows, removing the features u costs W_u (H^-1_uu)^-1 W_u', and afterwards

    W  <- W - W_u (H^-1_uu)^-1 H^-1_u:          H^-1 <- H^-1 - H^-1_:u (H^-1_uu)^-1 H^-1_u:

which is the optimal brain surgeon (Hassibi and Stork 1993) with whole channels for single weights, as in ZipLM and
OBSPA. Costs of one group's readers add up. What such an error does at the end differs from group to group, so it is
measured: one group after the other loses the half of its units that goes first, its readers make up for that, the model
runs on a few samples, and all scores of the group are scaled such that they add up to the error at the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from onnxprune.analysis.coupling import Coupling, Group, Indices, Reason, Slot
from onnxprune.errors import NoScores
from onnxprune.execution.batches import Batch
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.repair.linear_layers import WIDEST, matrices, stored
from onnxprune.repair.recurrent_layers import as_matrix, as_stored
from onnxprune.scoring.exchanged import errors
from onnxprune.scoring.scores import Scores
from onnxprune.scoring.statistics import Progress, Reading, read

Floats = NDArray[np.float64]

RIDGE = 2.0
"""Of the mean diagonal, for each feature per row. With 0.01 a ResNet-20 cut on 16 images is off by 10 % more."""
AT_ONCE = 64
"""Groups of more units lose several at a time: about one of so many."""
CANDIDATES = 4
"""For each that goes, how many of the cheapest are considered."""
SPARSE = 0.8
"""The share of columns that is left when the rest is dropped."""
FAINT = 1e-6
"""What is below this share of the outputs' power is not told from rounding."""
STILL = 1e-12
"""A variance below this share of the mean square is none."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads a group's channels, or one group of a convolution that does."""

    reading: Reading
    features: tuple[Indices, ...]
    """Of each unit, the features of the layer's rows that it makes."""


def data_scores(
    model: Model,
    coupling: Coupling,
    criterion: str,
    data: Iterable[Batch],
    *,
    threads: int = 1,
    on_progress: Progress | None = None,
) -> Scores:
    """Scores by one of `DATA_CRITERIA`."""
    reading = {slot.tensor for group in coupling.groups for slot in group.weights if slot.role == "in"}
    products = criterion in _OF_PRODUCTS
    readings = read(model, data, reading, products=products, threads=threads, on_progress=on_progress)
    asked: dict[str, list[Reader]] = {}
    by_group: dict[str, Floats] = {}
    skipped: dict[str, Reason] = {}
    for group in coupling.groups:
        readers = _readers(group, readings)
        if readers:
            asked[group.name] = readers
            by_group[group.name] = DATA_CRITERIA[criterion](readers, group.size)
            continue
        asks = f"criterion {criterion!r} asks the layers that read a channel"
        known = f"plain float32 weights and at most {WIDEST:,} features" if products else "plain float32 weights"
        sentence = f"{asks}, and group {group.name!r} is read by none with {known}"
        skipped[group.name] = Reason("no-scores", sentence, group.nodes[0] if group.nodes else "")
    if coupling.groups and not by_group:
        raise NoScores(f"{next(iter(skipped.values())).sentence}, and no other group is either")
    found = Scores(criterion, MappingProxyType(by_group), MappingProxyType(skipped), 0, "sum", "none")
    return found if criterion != "obs" else found.weighed(_carried(model, asked, by_group, data, threads))


def _carried(
    model: Model, asked: Mapping[str, list[Reader]], scores: Mapping[str, Floats], data: Iterable[Batch], threads: int
) -> dict[str, float]:
    """Of each group, how much of what its readers get wrong arrives at the outputs."""
    gone = {name: np.argsort(found, kind="stable")[: len(found) // 2] for name, found in scores.items()}
    without = [_without(readers, gone[name], model.weights) for name, readers in asked.items()]
    arrived = errors(model, data, without, threads=threads)
    left = {name: float(found[gone[name]].sum()) for name, found in scores.items()}
    return {name: (error + FAINT) / (left[name] + FAINT) for name, error in zip(asked, arrived, strict=True)}


def _without(readers: list[Reader], gone: Indices, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The readers' weights after these units went and the rest has made up for them; shapes stay."""
    found: dict[str, Tensor] = {}
    for layer in {reader.reading.layer.weight: reader.reading.layer for reader in readers}.values():
        # what a recurrent layer makes of its input is no tensor: of such a one `y` is what it reads
        recurrent = layer.y == layer.x
        own = as_matrix(layer, weights) if recurrent else weights
        now = matrices(layer, own)
        for reading, features in ((r.reading, r.features) for r in readers if r.reading.layer is layer):
            weight = _made_up(reading, np.concatenate([features[unit] for unit in gone.tolist()] or [gone]))
            if layer.bias is not None:
                now.bias[reading.group] += (now.weight[reading.group] - weight) @ reading.mean
            now.weight[reading.group] = weight
        tensors = stored(layer, now, own)
        found |= as_stored(layer, tensors, weights) if recurrent else tensors
    return found


def _made_up(reading: Reading, gone: Indices) -> Floats:
    """The weights that come closest to what a layer computed, with zeros for the features that went."""
    kept = np.setdiff1d(np.arange(len(_covariance(reading))), gone)
    system = _covariance(reading)[np.ix_(kept, kept)]
    np.einsum("ff->f", system)[...] += ridge(reading)
    weight = reading.weight.copy()
    lost = _covariance(reading)[np.ix_(kept, gone)] @ weight[:, gone].T
    weight[:, kept] += np.linalg.solve(system, lost).T
    weight[:, gone] = 0.0
    return weight


def _readers(group: Group, readings: Mapping[str, tuple[Reading, ...]]) -> list[Reader]:
    slots = [slot for slot in group.weights if slot.role == "in" and slot.tensor in readings]
    return [Reader(each, _features(slot, group.size, each)) for slot in slots for each in readings[slot.tensor]]


def _features(slot: Slot, size: int, reading: Reading) -> tuple[Indices, ...]:
    layer = reading.layer
    # of a ConvTranspose the weight's axis holds the inputs of all its groups, of a Conv those that each of them has
    parts = layer.groups if layer.node.op_type == "ConvTranspose" else 1
    width = slot.size // parts
    per_position = reading.weight.shape[1] // width
    here = slot.positions // width == (reading.group if parts > 1 else 0)
    columns = slot.positions[here, None] % width * per_position + np.arange(per_position)
    return tuple(columns[slot.units[here] == unit].ravel() for unit in range(size))


def obs(readers: list[Reader], size: int) -> Floats:
    """What each unit cost when it was its turn to go."""
    states = [_Surgeon.of(reader) for reader in readers]
    scores = np.zeros(size)
    alive = np.arange(size)
    highest = 0.0
    while len(alive):
        count = max(1, len(alive) // AT_ONCE)
        cheapest = np.argsort(_costs(states, alive), kind="stable")
        # the next few are found among the cheapest, one by one: of two that do the same work the second is dear
        left = alive[np.sort(cheapest[: CANDIDATES * count if count > 1 else 1])]
        parts = [state.only(left) for state in states]
        gone = []
        for _ in range(count):
            costs = _costs(parts, left)
            place = int(costs.argmin())
            highest = max(float(np.nextafter(highest, np.inf)), float(costs[place]))
            scores[left[place]] = highest
            gone.append(int(left[place]))
            for part in parts:
                part.remove(left[place : place + 1])
            left = np.delete(left, place)
        alive = np.setdiff1d(alive, gone)
        for state in states:
            state.remove(np.array(gone))
    return scores


def _costs(states: list[_Surgeon], units: Indices) -> Floats:
    """What each of these would cost next, over all readers."""
    return np.asarray(np.sum([state.costs(units) for state in states], axis=0))


class _Surgeon:
    """A reader's weights and inverse while units are taken away."""

    def __init__(self, inverse: Floats, weight: Floats, features: Mapping[int, Indices], power: float) -> None:
        self.inverse, self.weight, self.power = inverse, weight, power
        self.features = dict(features)
        """Of each unit that is left; columns of both."""
        self._left = np.ones(len(inverse), bool)

    @classmethod
    def of(cls, reader: Reader) -> _Surgeon:
        """Before anything has gone."""
        reading = reader.reading
        weight = np.where(_constant(reading), 0.0, reading.weight)
        return cls(_inverse(reading), weight, dict(enumerate(reader.features)), reading.power)

    def only(self, units: Indices) -> _Surgeon:
        """The same of these units alone, on copies: exact as long as no others go."""
        columns = [self.features[unit] for unit in units.tolist()]
        ends = np.cumsum([0, *map(len, columns)])
        features = {unit: np.arange(*ends[i : i + 2]) for i, unit in enumerate(units.tolist())}
        every = np.concatenate(columns)
        return _Surgeon(self.inverse[np.ix_(every, every)], self.weight[:, every], features, self.power)

    def costs(self, units: Indices) -> Floats:
        """What each of these would cost next."""
        found = np.zeros(len(units))
        for places, columns, blocks in _blocks(self.inverse, [self.features[unit] for unit in units.tolist()]):
            weights = self.weight.T[columns]  # (units, features, outputs)
            found[places] = (weights @ weights.transpose(0, 2, 1) * np.linalg.inv(blocks)).sum(axis=(1, 2))
        return np.maximum(found, 0.0) / self.power if self.power > 0 else found * 0

    def remove(self, units: Indices) -> None:
        """Take these away and let the rest make up for them."""
        columns = np.concatenate([self.features.pop(unit) for unit in units.tolist()])
        rows = self.inverse[columns]
        solved = np.linalg.solve(rows[:, columns], rows)
        self.weight -= self.weight[:, columns] @ solved
        self.inverse -= rows.T @ solved
        self._left[columns] = False
        if self._left.mean() < SPARSE:
            self._squeeze()

    def _squeeze(self) -> None:
        """Drop the columns of what has gone."""
        kept = np.flatnonzero(self._left)
        places = np.cumsum(self._left) - 1
        self.features = {unit: places[columns] for unit, columns in self.features.items()}
        self.inverse, self.weight = self.inverse[np.ix_(kept, kept)], self.weight[:, kept]
        self._left = np.ones(len(kept), bool)


def _constant(reading: Reading) -> NDArray[np.bool_]:
    """Features that are always the same: a bias does as well, or nothing where they are zero."""
    return _covariance(reading).diagonal() <= STILL * reading.second


def _covariance(reading: Reading) -> Floats:
    assert reading.covariance is not None, "criteria that need it ask for it"
    return reading.covariance


def ridge(reading: Reading) -> float:
    """What is added to the diagonal, as chance makes few rows look as if they told more than they do."""
    covariance = _covariance(reading)
    return RIDGE * len(covariance) / reading.count * (float(covariance.diagonal().mean()) or 1.0)


def _inverse(reading: Reading) -> Floats:
    """Of the covariance with a ridge."""
    system = _covariance(reading).copy()
    diagonal = np.einsum("ff->f", system)
    diagonal += ridge(reading)
    return np.linalg.inv(system).astype(np.float64, copy=False)


def _blocks(inverse: Floats, features: Sequence[Indices]) -> Iterator[tuple[Indices, Indices, Floats]]:
    """Units of one length after the other: their places in `features`, their columns, their blocks of the inverse."""
    lengths = np.array([len(columns) for columns in features])
    for length in np.unique(lengths):
        places = np.flatnonzero(lengths == length)
        columns = np.stack([features[place] for place in places.tolist()])
        yield places, columns, inverse[columns[:, :, None], columns[:, None, :]]


def activation(readers: list[Reader], size: int) -> Floats:
    """Wanda (Sun et al. 2024) for channels; shares of each reader's sum."""
    scores = np.zeros(size)
    for reader in readers:
        norms = np.abs(reader.reading.weight).sum(axis=0) * np.sqrt(reader.reading.second)
        whole = max(float(norms.sum()), 1e-30) * reader.reading.layer.groups
        scores += [float(norms[columns].sum()) / whole for columns in reader.features]
    return scores


def apoz(readers: list[Reader], size: int) -> Floats:
    """One minus the average percentage of zeros (Hu et al. 2016)."""
    parts = [[float(reader.reading.active[columns].mean()) for columns in reader.features] for reader in readers]
    return np.asarray(np.mean(parts, axis=0))


def cosine(readers: list[Reader], size: int) -> Floats:
    """tr (H^-1_uu)^-1 / tr H: what no linear function of the others makes up for, as a share of what is read."""
    parts = np.zeros((len(readers), size))
    for part, reader in zip(parts, readers, strict=True):
        whole = float(_covariance(reader.reading).trace())
        if whole <= 0:
            continue  # always the same, so nothing of it is missed
        for places, _, blocks in _blocks(_inverse(reader.reading), reader.features):
            part[places] = np.linalg.inv(blocks).trace(axis1=1, axis2=2) / whole
    return np.asarray(parts.mean(axis=0))


DATA_CRITERIA: Mapping[str, Callable[[list[Reader], int], Floats]] = MappingProxyType(
    {"obs": obs, "activation": activation, "apoz": apoz, "cosine": cosine}
)
"""Name -> (readers, units) -> scores."""
_OF_PRODUCTS = frozenset(["obs", "cosine"])
"""Those that ask how features go together."""
