"""From facts to units.

Units are the connected components of the ties. A product `whole[i, j] = (rows[i], columns[j])` is a tie that has to
wait: a kept set must stay a rectangle, so either whole rows go (each row of `whole` is tied to its row id) or whole
columns, and the other factor is frozen:

        columns 0 1 2 3          heads are rows, head dimensions are columns; a channel shuffle's groups are rows
    row 0     a b c d
    row 1     e f g h            cut along rows: {a b c d}, {e f g h}     along columns: {a e}, {b f}, {c g}, {d h}

Which one is decided for all products that share a factor together: a factor that a rule prefers comes first (attention
heads), then one that is not a mere repetition, then the one that leaves more units; a factor that is frozen anyway
never.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onnxprune.analysis.coupling import Indices, Reason
from onnxprune.analysis.facts import Facts, Product


@dataclass(frozen=True, eq=False)
class Solution:
    """For every id its unit (the smallest id in it), and for every unit why it cannot go."""

    root: Indices
    frozen: Indices
    """By root: index into `facts.frozen`, or -1 where the unit can be cut."""
    inexact: Indices
    """By root: index into `facts.inexacts`, or -1."""


def components(label: Indices, a: Indices, b: Indices) -> Indices:
    """The smallest id of each connected component: hook the larger label under the smaller, then jump pointers."""
    while True:
        left, right = label[a], label[b]
        apart = left != right
        if not apart.any():
            return label
        a, b = a[apart], b[apart]
        low, high = np.minimum(left[apart], right[apart]), np.maximum(left[apart], right[apart])
        label = label.copy()
        np.minimum.at(label, high, low)
        while True:
            jumped = label[label]
            if np.array_equal(jumped, label):
                break
            label = jumped


def solve(facts: Facts, *, allow_inexact: bool = False) -> Solution:
    """Units from facts; without `allow_inexact` an inexact cut is as good as a freeze."""
    if not allow_inexact:
        facts.frozen.extend(facts.inexacts)
    label = np.arange(facts.count, dtype=np.int64)
    label = components(label, *_columns(facts.ties))
    waiting, cut = list(facts.products), list[Indices]()
    while waiting:
        chosen, waiting = _choose(facts, label, _first_reason(label, facts.frozen), waiting, cut)
        facts.ties.extend(chosen)
        label = components(label, *_columns(chosen))
    return Solution(label, _first_reason(label, facts.frozen), _first_reason(label, facts.inexacts))


def _columns(ties: list[tuple[Indices, Indices]]) -> tuple[Indices, Indices]:
    if not ties:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate([a.ravel() for a, _ in ties]), np.concatenate([b.ravel() for _, b in ties])


def _first_reason(label: Indices, reasons: list[tuple[Indices, str, str, int]]) -> Indices:
    """By root: the earliest statement about any of its ids. Position 0 is everything fixed."""
    first = np.full(label.size, len(reasons), np.int64)
    if reasons:
        ids = np.concatenate([ids.ravel() for ids, *_ in reasons])
        order = np.repeat(np.arange(len(reasons)), [ids.size for ids, *_ in reasons])
        np.minimum.at(first, label[ids], order)
    first[first == len(reasons)] = -1
    return first


def _choose(
    facts: Facts, label: Indices, frozen: Indices, waiting: list[Product], cut: list[Indices]
) -> tuple[list[tuple[Indices, Indices]], list[Product]]:
    """Decide the products that can be decided now; return the new ties and what still waits.

    `cut` collects the factors along which a product is cut: whoever shares one is cut along it, too.
    """
    free = frozen < 0
    free[0] = False
    liked, copied = _marked(label, facts.preferred), _marked(label, facts.copies)
    ranked = [[_rank(p, i, label, free, liked, copied) for i in range(len(p.factors))] for p in waiting]
    best = max(max(ranks) for ranks in ranked)
    forced = [sum(rank.units > 0 for rank in ranks) <= 1 for ranks in ranked]
    now = forced if any(forced) else [max(ranks) == best for ranks in ranked]
    ties: list[tuple[Indices, Indices]] = []
    later: list[Product] = []
    live = {int(label[ids[ids != 0][0]]) for ids in cut}
    dead: set[int] = set()
    for product, ranks, decide in zip(waiting, ranked, now, strict=True):
        keys = [int(label[ids[ids != 0][0]]) if ids.any() else 0 for ids in product.factors]
        if not decide or any(key in dead for key in keys):
            later.append(product)
            continue
        at = max(range(len(ranks)), key=lambda i: (keys[i] in live and ranks[i].units > 0, ranks[i], -i))
        alive = ranks[at].units > 0
        facts.node = product.node
        for i, ids in enumerate(product.factors):
            if i == at and alive:
                lines, owner = _along(product.whole, i, ids)
                both = (lines != 0) & (owner != 0)
                ties.append((owner[both], lines[both]))
                if not both.all():
                    alone = np.maximum(lines, owner)[~both]
                    facts.frozen.append((alone[alone != 0], "other-factor", _OTHER_FACTOR, product.node))
                cut.append(ids)
                live.add(keys[i])
            elif ids.any():
                facts.frozen.append((ids[ids != 0], "other-factor", _OTHER_FACTOR, product.node))
                dead.add(keys[i])
        if not alive and product.whole.any():
            facts.frozen.append((product.whole[product.whole != 0], "other-factor", _OTHER_FACTOR, product.node))
    return ties, later


_OTHER_FACTOR = "is one factor of a reshaped axis whose cut runs along the other factor, or along none"


class Rank(NamedTuple):
    """What speaks for a cut along one factor, the weightiest first."""

    liked: bool
    """A rule prefers it."""
    own: bool
    """Its positions are not copies of one: of 8 key-value heads x 4 repeats, heads go."""
    units: int
    """How many units can go."""


def _marked(label: Indices, stated: list[Indices]) -> np.ndarray:
    marks = np.zeros(label.size, bool)
    for ids in stated:
        marks[label[ids]] = True
    return marks


def _rank(product: Product, at: int, label: Indices, free: np.ndarray, liked: np.ndarray, copied: np.ndarray) -> Rank:
    ids = product.factors[at]
    if ids.size <= 1 or not ids.any():
        return Rank(False, False, 0)
    lines = label[np.moveaxis(product.whole, at, 0).reshape(ids.size, -1)]
    roots = label[ids]
    possible = free[roots] & free[lines].all(axis=1)
    units = int(np.unique(roots[possible]).size)
    return Rank(units > 0 and bool(liked[roots].any()), units > 0 and not copied[roots].any(), units)


def _along(whole: Indices, at: int, ids: Indices) -> tuple[Indices, Indices]:
    lines = np.moveaxis(whole, at, 0).reshape(ids.size, -1)
    return lines.ravel(), np.repeat(ids, lines.shape[1])


def reason_of(facts: Facts, names: list[str], index: int, *, inexact: bool = False) -> Reason:
    """One of the collected statements as a Reason."""
    _, code, sentence, node = (facts.inexacts if inexact else facts.frozen)[index]
    return Reason(code, sentence, names[node] if 0 <= node < len(names) else "")
