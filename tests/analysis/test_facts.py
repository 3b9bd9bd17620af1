"""Facts: how axes are tied, merged and split, and what is recorded on the way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.analysis.facts import Axis, Facts, fixed


def codes(f: Facts) -> list[tuple[str, int]]:
    """What was frozen: reason, and how many ids."""
    return [(code, int(ids.size)) for ids, code, _, _ in f.frozen]


def test_fresh_ids_are_new_and_a_single_position_cannot_go() -> None:
    f = Facts()
    a, b = f.fresh(3), f.fresh(2)
    assert a.ids.tolist() == [1, 2, 3]
    assert b.ids.tolist() == [4, 5]
    assert f.fresh(1).fixed
    assert f.fresh(0).size == 0
    assert f.count == 6


def test_fixed_axes_take_no_memory() -> None:
    axis = fixed(1 << 20)
    assert (axis.size, axis.fixed, axis.ids.size, axis.ids.strides) == (1 << 20, True, 1 << 20, (0,))
    assert (fixed(1 << 60).size, fixed(1 << 60).fixed) == (1 << 60, True)


def test_unknown_lengths_are_all_different() -> None:
    f = Facts()
    assert f.open().size != f.open().size
    assert f.open().fixed


def test_a_tie_records_pairs_and_keeps_zeros_only_where_all_have_them() -> None:
    f = Facts()
    a, b = f.fresh(3), f.fresh(3, zero=False)
    tied = f.tie(a, b)
    assert [(x.tolist(), y.tolist()) for x, y in f.ties] == [([1, 2, 3], [4, 5, 6])]
    assert not tied.zero
    assert f.tie(a, a).zero
    assert f.tie(a, b, zero=True).zero
    assert len(f.ties) == 2, "an axis tied to itself says nothing"


def test_a_tie_with_what_cannot_go_freezes() -> None:
    f = Facts()
    a = f.fresh(3)
    assert f.tie(a, fixed(3)).fixed
    assert codes(f) == [("fixed-axis", 3)]


def test_a_tie_with_what_can_go_in_part_freezes_the_rest() -> None:
    f = Facts()
    a, part = f.fresh(3), Axis(3, np.array([0, 7, 8]))
    assert f.tie(a, part).ids.tolist() == [0, 2, 3]
    assert codes(f) == [("fixed-axis", 1)]
    assert [(x.tolist(), y.tolist()) for x, y in f.ties] == [([2, 3], [7, 8])]


def test_a_tie_of_unequal_lengths_freezes_both() -> None:
    f = Facts()
    assert f.tie(f.fresh(3), f.open()).size == 3
    assert codes(f) == [("dynamic-size", 3)]


def test_freezing_and_inexactness_are_recorded_with_their_node() -> None:
    f = Facts(node=7)
    axis = f.fresh(3)
    assert f.freeze(axis, "code", "sentence").fixed
    assert f.inexact(axis, "other", "sentence") is axis
    assert [(i.tolist(), c, s, n) for i, c, s, n in f.frozen] == [([1, 2, 3], "code", "sentence", 7)]
    assert [(i.tolist(), c, s, n) for i, c, s, n in f.inexacts] == [([1, 2, 3], "other", "sentence", 7)]
    f.freeze(fixed(4), "code", "sentence")
    f.inexact(fixed(4), "code", "sentence")
    f.prefer(fixed(4))
    f.role(fixed(4), "out")
    assert (len(f.frozen), len(f.inexacts), len(f.preferred), len(f.roles)) == (1, 1, 0, 0)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_merging_repeats_the_one_axis_that_can_go(before: int, after: int) -> None:
    f = Facts()
    axis = f.fresh(4)
    merged = f.merge([fixed(before), axis, fixed(after)])
    grid = np.broadcast_to(axis.ids[None, :, None], (before, 4, after))
    assert merged.ids.tolist() == grid.ravel().tolist()
    assert not f.products


def test_merging_two_axes_makes_a_product() -> None:
    f = Facts()
    a, b = f.fresh(2), f.fresh(3, zero=False)
    whole = f.merge([a, b])
    (product,) = f.products
    assert product.whole.tolist() == whole.ids.reshape(2, 3).tolist()
    assert [factor.tolist() for factor in product.factors] == [[1, 2], [3, 4, 5]]
    assert not whole.zero
    assert set(whole.ids).isdisjoint([0, *a.ids, *b.ids])


def test_merging_nothing_that_can_go_gives_a_fixed_axis() -> None:
    f = Facts()
    assert (f.merge([fixed(2), fixed(3)]).size, f.merge([]).size) == (6, 1)
    one = f.fresh(3)
    assert f.merge([one]) is one


def test_merging_with_an_unknown_length_remembers_the_factors() -> None:
    f = Facts()
    heads = f.fresh(4)
    merged = f.merge([fixed("batch"), heads])
    assert isinstance(merged.size, str)
    assert merged.ids is heads.ids
    assert [factor.size for factor in merged.factors] == ["batch", 4]
    assert f.merge([merged, fixed(3)]).factors[-1].size == 3
    f.merge([fixed("batch"), heads, f.fresh(2)])
    assert codes(f) == [("dynamic-reshape", 4), ("dynamic-reshape", 2)]


def test_axes_of_unknown_length_are_tied_where_they_are_made_alike() -> None:
    f = Facts()
    a, b = (f.merge([fixed("batch"), f.fresh(4)]) for _ in range(2))
    assert f.tie(a, b).factors
    assert len(f.ties) == 1
    other = f.merge([f.fresh(4), fixed("batch")])
    assert f.tie(a, other).fixed
    assert codes(f) == [("dynamic-size", 4)] * 2


shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@settings(max_examples=100)
@given(shapes, st.data())
def test_splitting_undoes_merging(lengths: list[int], data: st.DataObject) -> None:
    """Where one axis can go, split finds it again and needs no product."""
    f = Facts()
    at = data.draw(st.integers(0, len(lengths) - 1))
    axes = [f.fresh(n) if i == at else fixed(n) for i, n in enumerate(lengths)]
    back = f.split(f.merge(axes), lengths)
    assert [axis.ids.tolist() for axis in back] == [axis.ids.tolist() for axis in axes]
    assert not f.products


@settings(max_examples=100)
@given(st.lists(st.integers(2, 3), min_size=2, max_size=4))
def test_splitting_new_ids_makes_a_product(lengths: list[int]) -> None:
    f = Facts()
    whole = f.fresh(int(np.prod(lengths)))
    factors = f.split(whole, lengths)
    (product,) = f.products
    assert product.whole.tolist() == whole.ids.reshape(lengths).tolist()
    assert [axis.size for axis in factors] == lengths
    assert all(axis.zero for axis in factors)


def test_splitting_a_fixed_axis_gives_fixed_axes() -> None:
    f = Facts()
    assert [axis.size for axis in f.split(fixed(6), [2, 3])] == [2, 3]
    assert not f.products


def test_zeros_can_be_taken_back_without_touching_the_ids() -> None:
    axis = Facts().fresh(3)
    assert axis.with_zero(True) is axis
    assert (axis.with_zero(False).zero, axis.with_zero(False).ids is axis.ids) == (False, True)
