"""An order of units by importance lost per cost saved: a knapsack, filled greedily.

A budget asks for the selection that loses least importance and saves so much time (or work, or memory). With units that
each have an importance and a saving, taking those with the smallest quotient first is the best there is up to one unit.
Two things are added. Units go in whole blocks, the lowest of their group together, so that widths stay multiples. And
savings change on the way, since a convolution costs input times output channels: after each percent of the whole
they are computed anew. HALP (Shen et al., NeurIPS 2022) argues for the knapsack, group Fisher (Liu et al., ICML 2021)
for dividing importance by what a channel costs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.coupling import Group, Indices
from onnxprune.scores import Scores
from onnxprune.select import Field
from onnxprune.terms import Floats, Terms

REFRESH = 0.01
"""Savings are computed anew after that part of the whole cost."""


class _Queue:
    """One group's units, the lowest first, in the steps in which they go."""

    def __init__(self, group: Group, scores: Floats, floor: int, block: int, gone: int) -> None:
        lowest = np.sort(scores)
        ends = [group.size - kept for kept in range(group.size // block * block, floor - 1, -block)] if block else []
        self.ends = [end for end in ends if end > gone and end <= group.size - floor]
        self.sums = np.concatenate([[0.0], np.cumsum(lowest)])
        self.gone, self.step = gone, 0

    @property
    def done(self) -> bool:
        return self.step >= len(self.ends)

    @property
    def units(self) -> int:
        """How many go with the next step."""
        return self.ends[self.step] - self.gone

    @property
    def loss(self) -> float:
        """The importance that goes with them."""
        return float(self.sums[self.ends[self.step]] - self.sums[self.gone])

    def take(self) -> None:
        self.gone, self.step = self.ends[self.step], self.step + 1


def by_gain(found: Field, scores: Scores, cost: Terms, given: Mapping[str, int]) -> Indices:
    """Owners (indices of the field's groups) of all units that may go, those first that cost least importance."""
    place = {name: index for index, name in enumerate(cost.widths.groups)}
    removed = cost.widths.array(given)
    queues: dict[int, _Queue] = {}
    for number, group in enumerate(found.groups):
        if group.name in found.own:
            continue
        lowest = np.maximum(scores.by_group[group.name], 0.0)  # a negative importance would make a small saving better
        queues[number] = _Queue(group, lowest, found.floors[group.name], found.blocks[group.name], 0)
    owners: list[Indices] = []
    stride = REFRESH * max(cost.total(removed), 1e-12)
    while True:
        savings = cost.saved(removed)
        ranked = []
        for number, queue in queues.items():
            if not queue.done:
                gain = max(float(savings[place[found.groups[number].name]]) * queue.units, 0.0)
                ranked.append((queue.loss / gain if gain > 0 else np.inf, -gain, number))
        if not ranked:
            break
        ranked.sort()
        gained = 0.0
        for _, negative, number in ranked:
            queue = queues[number]
            owners.append(np.full(queue.units, number, np.int64))
            removed[place[found.groups[number].name]] += queue.units
            queue.take()
            gained -= negative
            if gained >= stride:
                break
    return np.concatenate([*owners, np.zeros(0, np.int64)])
