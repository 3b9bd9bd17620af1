"""Criteria that ask data what a channel is worth to the layers that read it.

    obs          what removing a unit adds to the error of its readers' outputs after their other weights have made up
                 for it, as a share of the outputs' power; units are taken away one after the other, cheapest first
    activation   sqrt(mean x^2) |w|: how much of what its readers add up comes from it
    apoz         how often it is not zero
    cosine       the part of it that is no linear function of the rest of its group

For `obs` with H = E[x x'] of a reader's rows, removing the features u costs W_u (H^-1_uu)^-1 W_u', and afterwards

    W  <- W - W_u (H^-1_uu)^-1 H^-1_u:          H^-1 <- H^-1 - H^-1_:u (H^-1_uu)^-1 H^-1_u:

which is the optimal brain surgeon (Hassibi and Stork 1993) with whole channels for single weights, as in ZipLM and
OBSPA. Costs of one group's readers add up, and being shares of what the network computes they compare between groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from onnxprune.batches import Batch
from onnxprune.coupling import Coupling, Group, Indices, Reason, Slot
from onnxprune.errors import UserError
from onnxprune.model import Model
from onnxprune.scores import Scores
from onnxprune.statistics import Progress, Reading, read

Floats = NDArray[np.float64]

RIDGE = 1e-3
"""Of the mean diagonal, added to it."""
AT_ONCE = 64
"""Groups of more units lose several at a time: about one of so many."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads a group's channels."""

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
    readings = read(model, data, reading, threads=threads, on_progress=on_progress)
    by_group: dict[str, Floats] = {}
    skipped: dict[str, Reason] = {}
    for group in coupling.groups:
        readers = _readers(group, readings)
        if readers:
            by_group[group.name] = DATA_CRITERIA[criterion](readers, group.size)
        else:
            sentence = f"criterion {criterion!r} asks the layers that read a group, and none can be asked"
            skipped[group.name] = Reason("no-scores", sentence, group.nodes[0] if group.nodes else "")
    if coupling.groups and not by_group:
        raise UserError(
            f"{next(iter(skipped.values())).sentence}: no layer with a plain float32 weight reads any group"
        )
    return Scores(criterion, MappingProxyType(by_group), MappingProxyType(skipped), 0, "sum", "none")


def _readers(group: Group, readings: Mapping[str, Reading]) -> list[Reader]:
    slots = [slot for slot in group.weights if slot.role == "in" and slot.tensor in readings]
    return [Reader(readings[slot.tensor], _features(slot, group.size, readings[slot.tensor])) for slot in slots]


def _features(slot: Slot, size: int, reading: Reading) -> tuple[Indices, ...]:
    per_position = reading.weight.shape[1] // slot.size
    columns = slot.positions[:, None] * per_position + np.arange(per_position)
    return tuple(columns[slot.units == unit].ravel() for unit in range(size))


def obs(readers: list[Reader], size: int) -> Floats:
    """What each unit cost when it was its turn to go."""
    states = [_Surgeon(reader) for reader in readers]
    scores = np.zeros(size)
    alive = np.arange(size)
    highest = 0.0
    while len(alive):
        costs = np.sum([state.costs(alive) for state in states], axis=0)
        order = np.argsort(costs, kind="stable")[: max(1, len(alive) // AT_ONCE)]
        for place in order:
            highest = max(highest * (1 + 1e-9), float(costs[place]))
            scores[alive[place]] = highest
        gone = alive[order]
        alive = np.delete(alive, order)
        if len(alive):
            for state in states:
                state.remove(gone)
    return scores


class _Surgeon:
    """A reader's weights and inverse while units are taken away."""

    def __init__(self, reader: Reader) -> None:
        covariance = reader.reading.covariance
        diagonal = covariance.diagonal()
        ridge = RIDGE * float(diagonal.mean()) + 1e-12 * float(diagonal.max(initial=0.0)) + 1e-30
        self.inverse = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
        self.weight = reader.reading.weight.copy()
        self.features = reader.features
        self.power = max(reader.reading.power, 1e-30)

    def costs(self, units: Indices) -> Floats:
        """What each of these would cost next."""
        found = np.zeros(len(units))
        lengths = np.array([len(self.features[unit]) for unit in units.tolist()])
        for length in np.unique(lengths[lengths > 0]):
            places = np.flatnonzero(lengths == length)
            columns = np.stack([self.features[unit] for unit in units[places].tolist()])
            blocks = self.inverse[columns[:, :, None], columns[:, None, :]]
            weights = self.weight[:, columns].transpose(1, 2, 0)  # (units, features, outputs)
            found[places] = np.einsum("ufo,ufo->u", weights, np.linalg.solve(blocks, weights))
        return np.maximum(found, 0.0) / self.power

    def remove(self, units: Indices) -> None:
        """Take these away and let the rest make up for them."""
        columns = np.concatenate([self.features[unit] for unit in units.tolist()])
        if not len(columns):
            return
        rows = self.inverse[columns]
        solved = np.linalg.solve(rows[:, columns], rows)
        self.weight -= self.weight[:, columns] @ solved
        self.inverse -= rows.T @ solved
        # exactly gone, so that rounding cannot bring them back
        self.weight[:, columns] = 0.0
        self.inverse[columns] = 0.0
        self.inverse[:, columns] = 0.0
        self.inverse[columns, columns] = 1.0


def activation(readers: list[Reader], size: int) -> Floats:
    """Wanda (Sun et al. 2024) for channels; shares of each reader's sum."""
    scores = np.zeros(size)
    for reader in readers:
        norms = np.abs(reader.reading.weight).sum(axis=0) * np.sqrt(reader.reading.second)
        whole = max(float(norms.sum()), 1e-30)
        scores += [float(norms[columns].sum()) / whole for columns in reader.features]
    return scores


def apoz(readers: list[Reader], size: int) -> Floats:
    """One minus the average percentage of zeros (Hu et al. 2016)."""
    parts = [
        [float(reader.reading.active[columns].mean()) if len(columns) else 0.0 for columns in reader.features]
        for reader in readers
    ]
    return np.asarray(np.mean(parts, axis=0))


def cosine(readers: list[Reader], size: int) -> Floats:
    """1 / (H_uu H^-1_uu): the share of a channel's power that the others cannot make up for."""
    parts = []
    for reader in readers:
        covariance = reader.reading.covariance
        ridge = RIDGE * float(covariance.diagonal().mean()) + 1e-30
        system = covariance + ridge * np.eye(len(covariance))
        alone = 1.0 / (system.diagonal() * np.linalg.inv(system).diagonal())
        share = alone * reader.reading.second / max(float(reader.reading.second.sum()), 1e-30)
        parts.append([float(share[columns].sum()) for columns in reader.features])
    return np.asarray(np.mean(parts, axis=0))


DATA_CRITERIA: Mapping[str, Callable[[list[Reader], int], Floats]] = MappingProxyType(
    {"obs": obs, "activation": activation, "apoz": apoz, "cosine": cosine}
)
"""Name -> (readers, units) -> scores."""
