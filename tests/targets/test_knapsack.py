"""The order by importance per cost: against all there is to choose from, where that can be listed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
from by_hand import coupling, layer, scores, slot

from onnxprune.analysis.coupling import Coupling, Indices
from onnxprune.scoring.scores import Scores
from onnxprune.selection.select import Field, least_kept
from onnxprune.targets import knapsack
from onnxprune.targets.budget import order_of
from onnxprune.targets.knapsack import by_gain
from onnxprune.targets.terms import Floats, Term, Terms, Widths


def field(found: Coupling, block: int = 1, min_keep: float = 0.1, own: Mapping[str, float] | None = None) -> Field:
    blocks = {group.name: block for group in found.groups}
    floors = {group.name: least_kept(group.size, min_keep, block) for group in found.groups}
    return Field(found.groups, own or {}, blocks, floors)


def linear(found: Coupling, **price: float) -> Terms:
    """Each unit of a group costs so much, whatever else is cut."""
    shapes = {f"{group.name}.weight": (group.size,) for group in found.groups}
    parts = [
        Term(name, None, f"{name}.weight", (0, 0, each * found.group(name).size, 0)) for name, each in price.items()
    ]
    return Terms(Widths(found, shapes), parts)


def steps(owners: Indices) -> Iterator[dict[int, int]]:
    """How many units of each group are gone whenever another group's turn begins."""
    gone: dict[int, int] = {}
    for place, owner in enumerate(owners.tolist()):
        gone[owner] = gone.get(owner, 0) + 1
        if place + 1 == len(owners) or owners[place + 1] != owner:
            yield dict(gone)


def lost(found: Field, importance: Scores, counts: Mapping[str, int]) -> float:
    return sum(float(np.sort(importance.by_group[name])[:count].sum()) for name, count in counts.items())


def least_loss(found: Field, importance: Scores, price: Mapping[str, float], saving: float) -> float:
    """Of all selections that save at least so much."""
    choices: list[Sequence[int]] = []
    for group in found.groups:
        block, floor = found.blocks[group.name], found.floors[group.name]
        kept = [group.size, *(n for n in range(floor, group.size) if n % block == 0)]
        choices.append([group.size - n for n in kept])
    names = [group.name for group in found.groups]
    best = np.inf
    for pick in itertools.product(*choices):
        counts = dict(zip(names, pick, strict=True))
        if sum(price[name] * count for name, count in counts.items()) >= saving - 1e-9:
            best = min(best, lost(found, importance, counts))
    return float(best)


@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("seed", range(12))
def test_no_selection_that_saves_as_much_loses_less(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(6, 15, 3).tolist()
    groups = coupling(*(layer(f"g{i}", size) for i, size in enumerate(sizes)))
    importance = scores(**{f"g{i}": rng.exponential(1, size) for i, size in enumerate(sizes)})
    price = {f"g{i}": float(rng.choice([0.5, 1.0, 3.0, 20.0])) for i in range(3)}
    found = field(groups, block)
    owners = by_gain(found, importance, linear(groups, **price), {})
    assert len(owners) == sum(g.size - found.floors[g.name] for g in groups.groups)
    checked = 0
    for gone in steps(owners):
        counts = {f"g{i}": count for i, count in gone.items()}
        if any((sizes[int(name[1:])] - count) % block for name, count in counts.items()):
            continue
        saving = sum(price[name] * count for name, count in counts.items())
        assert lost(found, importance, counts) == pytest.approx(least_loss(found, importance, price, saving))
        checked += 1
    assert checked > 1


def test_a_cheap_unit_goes_after_a_dear_one_of_the_same_importance() -> None:
    groups = coupling(layer("cheap", 4), layer("dear", 4))
    importance = scores(cheap=[1, 2, 3, 4], dear=[1, 2, 3, 4])
    found = field(groups, min_keep=0)
    order = by_gain(found, importance, linear(groups, cheap=1, dear=2.5), {})
    #  per cost: dear 0.4, 0.8, 1.2 and cheap 1, 2, 3
    assert order.tolist() == [1, 1, 0, 1, 0, 0]


def test_one_group_gives_many_blocks_before_another_gives_its_first() -> None:
    """However little of the whole each of them saves."""
    many = [layer(f"g{i}", 50) for i in range(40)]
    groups = coupling(*many)
    values = {f"g{i}": np.full(50, 1.0 if i == 7 else 5.0) for i in range(40)}
    owners = by_gain(field(groups), scores(**values), linear(groups, **{g.name: 1.0 for g in many}), {})
    assert owners[:45].tolist() == [7] * 45


@pytest.mark.parametrize(
    ("size", "block", "min_keep"), [(10, 4, 0.1), (16, 8, 0.6), (9, 1, 0.5), (7, 8, 0.1), (64, 16, 0)]
)
def test_whole_blocks_above_the_floor(size: int, block: int, min_keep: float) -> None:
    groups = coupling(layer("a", size), layer("b", 6))
    found = field(groups, block, min_keep)
    importance = scores(a=np.zeros(size), b=np.full(6, 9.0))
    owners = by_gain(found, importance, linear(groups, a=1, b=1), {})
    gone = np.bincount(owners, minlength=2)
    assert size - gone[0] == found.floors["a"] == (size if size < block else max(found.floors["a"], block))
    for counts in steps(owners):
        kept = size - counts.get(0, 0)
        assert kept % block == 0 or kept == size


def test_groups_with_a_ratio_of_their_own_take_no_part_but_count() -> None:
    """b's units are gone from the beginning, and what a saves is less by that."""
    a = layer("a", 8, slot("b.weight", 8, axis=1, role="in"))
    groups = coupling(a, layer("b", 8), layer("c", 8))
    widths = Widths(groups, {"a.weight": (8,), "b.weight": (8, 8), "c.weight": (8,)})
    cost = Terms(widths, [Term("b", None, "b.weight", (0, 0, 64, 0)), Term("c", None, "c.weight", (0, 0, 8 * 5, 0))])
    importance = scores(a=np.ones(8), b=np.ones(8), c=np.ones(8))
    # a unit of a saves 8, of c 5
    assert by_gain(field(groups, own={"b": 0.0}), importance, cost, {"b": 0})[:3].tolist() == [0, 0, 0]
    # without six units of b it saves 2
    found = by_gain(field(groups, own={"b": 0.75}), importance, cost, {"b": 6})
    assert found[:7].tolist() == [2] * 7
    assert found[7:].tolist() == [0] * 7


def test_savings_are_computed_anew_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers whose groups meet in one weight: the more of the one goes, the less a unit of the other saves."""
    rng = np.random.default_rng(0)
    a = layer("a", 12, slot("b.weight", 12, axis=1, role="in"))
    groups = coupling(a, layer("b", 12), layer("c", 12))
    widths = Widths(groups, {"a.weight": (12,), "b.weight": (12, 12), "c.weight": (12,)})
    cost = Terms(widths, [Term("b", None, "b.weight", (0, 0, 144, 0)), Term("c", None, "c.weight", (0, 0, 60, 0))])
    importance = scores(**{name: rng.exponential(1, 12) for name in "abc"})
    found = field(groups)
    removed, expected = np.zeros(3), []
    for _ in range(30):
        saved = cost.saved(removed)
        quotients = [
            np.sort(importance.by_group[name])[int(removed[i])] / saved[i] if removed[i] < 10 else np.inf
            for i, name in enumerate("abc")
        ]
        expected.append(int(np.argmin(quotients)))
        removed[expected[-1]] += 1
    monkeypatch.setattr(knapsack, "REFRESH", 1e-12)
    assert by_gain(found, importance, cost, {}).tolist() == expected
    assert sorted(set(expected)) == [0, 1, 2]


def test_units_that_save_nothing_go_last() -> None:
    groups = coupling(layer("idle", 5), layer("busy", 5))
    owners = by_gain(
        field(groups, min_keep=0), scores(idle=np.zeros(5), busy=np.full(5, 1e9)), linear(groups, busy=1e-6), {}
    )
    assert owners.tolist() == [1] * 4 + [0] * 4
    none = by_gain(field(groups, min_keep=0), scores(idle=np.zeros(5), busy=np.ones(5)), linear(groups), {})
    assert np.bincount(none).tolist() == [4, 4]


def test_importance_below_zero_is_no_importance() -> None:
    """Else a block that saves little would be the best of all, its quotient being the most negative."""
    groups = coupling(layer("little", 3), layer("much", 3))
    owners = by_gain(
        field(groups, min_keep=0), scores(little=[-5, -5, 9], much=[0, 0, 9]), linear(groups, little=1, much=100), {}
    )
    assert owners.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("odd", [np.inf, np.nan])
def test_importance_that_is_no_number_goes_last(odd: float) -> None:
    groups = coupling(layer("a", 6), layer("b", 6))
    owners = by_gain(
        field(groups, min_keep=0), scores(a=[odd, 1, odd, 1, 1, odd], b=np.full(6, 50.0)), linear(groups, a=1, b=1), {}
    )
    assert owners.tolist() == [0] * 3 + [1] * 5 + [0] * 2


def test_nothing_that_may_go() -> None:
    groups = coupling(layer("a", 6))
    assert by_gain(field(groups, block=8), scores(a=np.ones(6)), linear(groups, a=1), {}).size == 0
    assert by_gain(field(groups, own={"a": 0.5}), scores(a=np.ones(6)), linear(groups, a=1), {"a": 3}).size == 0


def test_names_with_odd_characters() -> None:
    names = ["a b", "/layer.0/конв", "x[0]\n", 'q"\\']
    groups = coupling(*(layer(name, 4) for name in names))
    values = {name: np.full(4, 1.0 + i) for i, name in enumerate(names)}
    owners = by_gain(field(groups), scores(**values), linear(groups, **dict.fromkeys(names, 1.0)), {})
    assert owners.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_thousand_groups_take_a_hundred_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of 64 channels in a row, unit by unit: how often savings are computed anew is bounded."""
    count, size = 1000, 64
    asked = 0
    saved = Terms.saved

    def counted(self: Terms, removed: Floats) -> Floats:
        nonlocal asked
        asked += 1
        return saved(self, removed)

    monkeypatch.setattr(Terms, "saved", counted)
    chain = [layer(f"g{i}", size, slot(f"g{i + 1}.weight", size, axis=1, role="in")) for i in range(count)]
    groups = coupling(*chain)
    shapes = {f"g{i}.weight": (size, size) for i in range(count)}
    parts = [Term(f"g{i}", None, f"g{i}.weight", (1, 0, float(size * size), 0)) for i in range(count)]
    rng = np.random.default_rng(0)
    importance = scores(**{f"g{i}": rng.exponential(1, size) * rng.uniform(0.5, 2) for i in range(count)})
    order = order_of(groups, importance, per=Terms(Widths(groups, shapes), parts), per_what="params")
    assert order.size == count * 57
    assert sum(order.counts(order.size // 2).values()) == order.size // 2
    assert 50 < asked < 150
