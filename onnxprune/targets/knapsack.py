"""An order of units by importance lost per cost saved: a knapsack, filled greedily.

A budget asks for the selection that loses least importance and saves so much time (or work, or memory). With units that
each have an importance and a saving, taking those with the smallest quotient first is the best there is up to one unit.
Two things are added. Units go in whole blocks, the lowest of their group together, so that widths stay multiples. And
savings change on the way, since a convolution costs input times output channels: after each percent of the whole they
are computed anew. HALP (Shen et al., NeurIPS 2022) argues for the knapsack, group Fisher (Liu et al., ICML 2021)
for dividing importance by what a channel costs.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import numpy as np

from onnxprune.analysis.coupling import Group, Indices
from onnxprune.scoring.scores import Scores
from onnxprune.selection.select import Field
from onnxprune.targets.terms import Floats, Terms

REFRESH = 0.01
"""Savings are computed anew after that part of the whole cost."""


class _Queue:
    """One group's units, the lowest first, in the steps in which they go."""

    def __init__(self, group: Group, scores: Floats, floor: int, block: int) -> None:
        self.ends = [group.size - kept for kept in range(group.size // block * block, floor - 1, -block)]
        self.ends = [end for end in self.ends if end]
        self.lowest = np.sort(scores)
        self.gone = self.step = 0

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
        return float(self.lowest[self.gone : self.ends[self.step]].sum())

    def take(self) -> None:
        self.gone, self.step = self.ends[self.step], self.step + 1


def by_gain(found: Field, scores: Scores, cost: Terms, given: Mapping[str, int]) -> Indices:
    """Owners (indices of the field's groups) of all units that may go, those first that cost least importance."""
    place = {name: index for index, name in enumerate(cost.widths.groups)}
    removed = cost.widths.array(given)
    queues: dict[int, _Queue] = {}
    for number, group in enumerate(found.groups):
        if group.name not in found.own:
            # a negative importance would make a small saving better; one that is no number goes last, as in any sorting
            importance = np.nan_to_num(scores.by_group[group.name], nan=np.inf, posinf=np.inf).clip(0.0)
            queues[number] = _Queue(group, importance, found.floors[group.name], found.blocks[group.name])
    owners: list[Indices] = []
    stride = REFRESH * max(cost.total(removed), 1e-12)

    def offer(number: int) -> tuple[float, float, int]:
        """The next step of a group, in the order in which steps are taken."""
        queue = queues[number]
        gain = max(float(savings[place[found.groups[number].name]]) * queue.units, 0.0)
        return queue.loss / gain if gain > 0 else np.inf, -gain, number

    while True:
        savings = cost.saved(removed)
        heap = [offer(number) for number, queue in queues.items() if not queue.done]
        if not heap:
            break
        heapq.heapify(heap)
        gained = 0.0
        while heap and gained < stride:
            _, negative, number = heapq.heappop(heap)
            queue = queues[number]
            owners.append(np.full(queue.units, number, np.int64))
            removed[place[found.groups[number].name]] += queue.units
            queue.take()
            gained -= negative
            if not queue.done:
                heapq.heappush(heap, offer(number))
    return np.concatenate([*owners, np.zeros(0, np.int64)])
