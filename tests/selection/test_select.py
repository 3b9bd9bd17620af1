"""Selection: how many units of which groups go, and what goes with them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from by_hand import coupling, layer, scores, slot
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.analysis.coupling import Coupling, Frozen, Group, Reason, Slot
from onnxprune.cutting.plan import Plan
from onnxprune.errors import UserError
from onnxprune.selection.alignment import LAYER_KINDS, WIDTHS, Alignment
from onnxprune.selection.select import aligned, block, block_of, least_kept, said, select


def removed(plan: Plan) -> dict[str, int]:
    return {group.name: group.removed for group in plan.groups}


A, B = layer("a", 10), layer("b", 20)
AB = coupling(A, B)
RISING = scores(a=np.arange(10), b=np.arange(20))


def test_the_lowest_units_go() -> None:
    plan = select(coupling(A), scores(a=[5, 1, 7, 2, 9, 3, 8, 6, 0, 4]), ratio=0.3)
    assert [cut.index for cut in plan.cuts] == [(1, 3, 8)]
    assert [str(ref) for ref in plan.cuts[0].slots] == ["a.weight:0", "a.out:1"]
    assert [(ref.size, ref.role) for ref in plan.cuts[0].slots] == [(10, "out"), (10, "")]


def test_ratio_is_a_fraction_of_units_per_group_to_the_nearest() -> None:
    assert removed(select(AB, RISING, ratio=0.3)) == {"a": 3, "b": 6}
    assert removed(select(AB, RISING, ratio=0.14)) == {"a": 1, "b": 3}
    assert removed(select(AB, RISING, ratio=0.16)) == {"a": 2, "b": 3}
    # 0.145 * 100 is 14.499999999999998 to a float
    assert removed(select(coupling(layer("c", 100)), scores(c=np.arange(100)), ratio=0.145)) == {"c": 15}


def test_equal_scores_go_in_the_order_of_units() -> None:
    assert select(coupling(A), scores(a=np.ones(10)), ratio=0.3).cuts[0].index == (0, 1, 2)


def test_a_unit_takes_all_its_positions_in_every_slot() -> None:
    flat = slot("fc.weight", 10, 4, axis=1, role="in")
    shifted = Slot("cat.weight", 1, 15, True, "in", np.arange(5, 15), np.arange(10), "Conv")
    same = slot("a.bias", 10, role="shift")
    plan = select(coupling(layer("a", 10, flat, shifted, same)), scores(a=np.arange(10)), ratio=0.2)
    assert {cut.index: [str(ref) for ref in cut.slots] for cut in plan.cuts} == {
        (0, 1): ["a.weight:0", "a.out:1", "a.bias:0"],
        tuple(range(8)): ["fc.weight:1"],
        (5, 6): ["cat.weight:1"],
    }


def test_global_ranks_all_groups_together() -> None:
    found = scores(a=np.full(10, 5.0), b=np.arange(20) / 100)
    assert removed(select(AB, found, ratio=0.3, scope="global")) == {"a": 0, "b": 9}
    # min_keep 0.1 of 20: two units of b stay however low they score, and a pays instead
    assert removed(select(AB, found, ratio=0.7, scope="global")) == {"a": 3, "b": 18}
    # beyond all floors: what can go goes
    assert removed(select(AB, found, ratio=0.99, scope="global")) == {"a": 9, "b": 18}


def test_global_ties_go_in_the_order_of_groups() -> None:
    found = scores(a=np.ones(10), b=np.ones(20))
    assert removed(select(AB, found, ratio=0.3, scope="global", min_keep=0.5)) == {"a": 5, "b": 4}
    assert removed(select(coupling(B, A), found, ratio=0.3, scope="global", min_keep=0.5)) == {"b": 9, "a": 0}


def test_groups_of_one_unit_are_left_alone() -> None:
    one = layer("one", 1)
    plan = select(coupling(one, A), scores(one=[0.0], a=np.arange(10)), ratio=0.5, scope="global")
    assert removed(plan) == {"a": 5}


def test_min_keep() -> None:
    assert removed(select(AB, RISING, ratio=0.9, min_keep=0.35)) == {"a": 6, "b": 13}
    assert removed(select(AB, RISING, ratio=0.99, min_keep=0)) == {"a": 9, "b": 19}


def test_round_to_keeps_the_nearest_multiple() -> None:
    groups = [layer(f"g{size}", size) for size in (6, 16, 58, 64, 96)]
    values = scores(**{group.name: np.arange(group.size) for group in groups})
    counts = removed(select(coupling(*groups), values, ratio=0.3, round_to=8))
    # without blocks it would be 4, 11, 41, 45 and 67
    assert {group.name: group.size - counts[group.name] for group in groups} == {
        "g6": 6,
        "g16": 8,
        "g58": 40,
        "g64": 48,
        "g96": 64,
    }


@pytest.mark.parametrize(
    ("size", "wanted", "block", "expected"),
    [
        (64, 19, 1, 45),
        (64, 19, 8, 48),
        (64, 22, 8, 40),
        (64, 20, 8, 48),  # 44 lies between: keep more
        (58, 17, 8, 40),
        (58, 1, 8, 56),
        (58, 0, 8, 58),  # nothing wanted: an odd width is not a reason to cut
        (6, 3, 8, 6),  # narrower than a block
        (64, 63, 8, 8),
        (64, 63, 16, 16),
    ],
)
def test_blocks(size: int, wanted: int, block: int, expected: int) -> None:
    assert size - aligned(size, wanted, least_kept(size, 0.1, block), block) == expected


def test_a_floor_is_not_raised_by_rounding() -> None:
    assert least_kept(100, 0.07, 1) == 7  # 0.07 * 100 is 7.000000000000001 to a float


@settings(deadline=None)  # a busy machine is not a failure
@given(st.integers(2, 300), st.floats(0.01, 0.99), st.floats(0, 0.99), st.sampled_from([1, 2, 3, 8, 16, 32]))
def test_floors_and_blocks_hold(size: int, ratio: float, min_keep: float, block: int) -> None:
    wanted = math.floor(ratio * size)
    floor = least_kept(size, min_keep, block)
    kept = size - aligned(size, wanted, floor, block)
    assert max(1, min_keep * size - 1e-6) <= kept <= size
    assert kept == size or kept % block == 0
    assert size < block or kept >= block
    # as near to what was wanted as floor and block allow
    allowed = [count for count in range(floor, size + 1) if count % block == 0 or count == size]
    if wanted and kept != size:
        assert abs(kept - (size - wanted)) == min(
            abs(count - (size - wanted)) for count in allowed if count % block == 0
        )


@settings(deadline=None)  # a busy machine is not a failure
@given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.floats(0.02, 0.98), st.integers(0, 2**32 - 1))
def test_global_cuts_exactly_as_many_as_asked_and_the_lowest_that_may_go(
    sizes: list[int], ratio: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    groups = [layer(f"g{number}", size) for number, size in enumerate(sizes)]
    values = {group.name: generator.integers(0, 5, group.size) for group in groups}  # ties on purpose
    total, floors = sum(sizes), [max(1, math.ceil(0.1 * size - 1e-9)) for size in sizes]
    asked = math.floor(ratio * total + 0.5 + 1e-9)
    if asked == 0:
        return
    plan = select(coupling(*groups), scores(**values), ratio=ratio, scope="global")
    counts = removed(plan)
    assert sum(counts.values()) == min(asked, total - sum(floors))
    assert all(group.size - counts[group.name] >= floor for group, floor in zip(groups, floors, strict=True))
    gone = plan.removed()
    worst_gone, best_kept = -1, 99
    for group, floor in zip(groups, floors, strict=True):
        index = gone.get((f"{group.name}.weight", 0), np.array([], int))
        kept = np.delete(values[group.name], index)
        assert len(index) == counts[group.name]
        if len(index):
            worst_gone = max(worst_gone, values[group.name][index].max())
            assert values[group.name][index].max() <= kept.min()
        if len(kept) > floor:  # no floor held these back
            best_kept = min(best_kept, kept.min())
    assert worst_gone <= best_kept


def test_blocks_count_positions_not_units() -> None:
    assert block_of(layer("heads", 12, per_unit=64), 8) == 1
    assert block_of(layer("pairs", 12, per_unit=2), 8) == 4
    assert block_of(layer("plain", 12), 8) == 8
    # neither the in side nor an activation is what the group makes
    assert block_of(layer("vgg", 12, slot("fc.weight", 12, 49, axis=1, role="in")), 7) == 7
    assert block_of(layer("heads", 12, slot("gate", 12, role="in"), slot("mask", 12, role=""), per_unit=64), 8) == 1
    # q makes 4 positions per unit, k two: two units are needed for k's sake
    assert block_of(layer("q", 12, slot("k.weight", 12, 2), per_unit=4), 4) == 2
    uneven = Slot("w", 0, 3, True, "out", np.arange(3), np.array([0, 0, 1]), "Conv")
    assert block_of(Group("u", (), (), 2, (uneven,)), 8) == 8


def fork() -> Coupling:
    """conv1 -> conv2 -> fc, where each reads what the one before makes."""
    conv1 = layer("conv1", 10, slot("conv2.weight", 10, axis=1, role="in"), slot("bn1.weight", 10, role="scale"))
    conv2 = layer("conv2", 10, slot("fc.weight", 10, axis=1, role="in", op="Gemm"))
    return coupling(conv1, conv2, layer("fc[0]", 10, op="Gemm"))


ALL = scores(**{"conv1": np.arange(10), "conv2": np.arange(10), "fc[0]": np.arange(10)})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "conv1 conv2 fc[0]"),
        ({"include": ["conv*"]}, "conv1 conv2"),
        ({"include": ["/conv2/*"]}, "conv2"),
        ({"include": ["conv2.weight"]}, "conv2"),
        ({"include": ["conv2.weight:1"]}, "conv1"),
        ({"include": ["bn1.*"]}, "conv1"),
        ({"include": ["fc[0]"]}, "fc[0]"),
        ({"include": ["conv1", "conv2"], "exclude": ["conv2"]}, "conv1"),
        ({"exclude": ["conv[12]"]}, "fc[0]"),
        ({"include_ops": ["Conv"]}, "conv1 conv2"),
        ({"exclude_ops": ["Gemm"]}, "conv1 conv2"),
        ({"include_ops": ["Conv"], "include": ["*2", "fc*"]}, "conv2"),
    ],
)
def test_include_and_exclude(options: dict[str, list[str]], expected: str) -> None:
    plan = select(fork(), ALL, **options)  # type: ignore[arg-type]
    assert [group.name for group in plan.groups if group.removed] == expected.split()


def test_ratios_of_single_groups() -> None:
    ratios = {"conv*": 0.5, "conv1": 0, "*2": 0.2}
    assert removed(select(fork(), ALL, ratio=0.9, ratios=ratios)) == {"conv1": 0, "conv2": 2, "fc[0]": 9}
    # a later pattern beats an earlier one, an exact name any
    assert removed(select(fork(), ALL, ratios=dict(reversed(ratios.items())))) == {"conv1": 0, "conv2": 5, "fc[0]": 3}
    # out of the global ranking: fc's scores are the highest, yet half of it goes
    values = scores(**{"conv1": np.arange(10), "conv2": np.arange(10) + 0.5, "fc[0]": np.arange(10) + 100})
    plan = select(fork(), values, ratio=0.2, scope="global", ratios={"fc[0]": 0.5})
    assert removed(plan) == {"conv1": 2, "conv2": 2, "fc[0]": 5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0}, "ratio must lie between 0 and 1, both excluded, not 0"),
        ({"ratio": 1.0}, "ratio must lie"),
        ({"ratio": -0.1}, "ratio must lie"),
        ({"ratio": math.nan}, "ratio must lie between 0 and 1, both excluded, not nan"),
        ({"ratio": "0.3"}, "ratio must lie"),
        ({"ratio": True}, "ratio must lie"),
        ({"scope": "galactic"}, "scope must be one of local, global, isomorphic, not 'galactic'"),
        ({"round_to": 0}, "round_to must be a whole number"),
        ({"round_to": 2.0}, "round_to must be a whole number"),
        ({"min_keep": 1}, "min_keep must be 0 or more and less than 1"),
        ({"min_keep": math.nan}, "min_keep must be"),
        ({"include": ["conv3"]}, "include: no prunable group matches 'conv3'; did you mean 'conv"),
        ({"exclude": ["fc.weight"]}, "exclude: no prunable group matches 'fc.weight'; did you mean 'fc.weight:1'"),
        ({"exclude": "conv1"}, "exclude takes a list of patterns, not one string: write ['conv1']"),
        ({"exclude_ops": ["Gem"]}, "exclude_ops: no prunable group matches 'Gem'; did you mean 'Gemm'?"),
        ({"ratios": {"konv1": 0.5}}, "ratios: no prunable group matches 'konv1'; did you mean 'conv1'"),
        ({"ratios": {"conv1": 1.0}}, "the ratio of group 'conv1' must be 0 or more and less than 1, not 1.0"),
        ({"ratios": {"conv1": math.nan}}, "the ratio of group 'conv1' must be"),
        ({"include": ["conv1"], "exclude": ["conv*"]}, "nothing is left to prune: include and exclude leave none"),
        ({"ratio": 0.01}, "nothing would be cut: ratio 0.01, min_keep 0.1 and round_to 1 leave every group whole"),
        ({"round_to": 16}, "nothing would be cut: ratio 0.3, min_keep 0.1 and round_to 16"),
    ],
)
def test_mistakes(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        select(fork(), ALL, **options)  # type: ignore[arg-type]
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_nothing_prunable_lists_the_reasons_that_freeze_most() -> None:
    output = Reason("graph-output", "its shape is promised to the caller", "fc")
    unknown = Reason("no-rule", "no rule for Foo", "foo")
    frozen = (
        Frozen("a", 0, 3, "foo", unknown),
        Frozen("fc.weight", 0, 1000, "fc", output),
        Frozen("b", 0, 4, "foo", unknown),
    )
    with pytest.raises(UserError) as error:
        select(Coupling((layer("one", 1),), frozen, {}), scores(one=[1.0]))
    assert str(error.value) == (
        "nothing in this model is prunable: its shape is promised to the caller (graph-output, at fc): 1000 positions, "
        "as of 'fc.weight'; no rule for Foo (no-rule, at foo): 7 positions, as of 'a'"
    )


def test_groups_without_scores_stay_whole_unless_asked_for() -> None:
    skipped = {"a": Reason("no-scores", "criterion 'bn_scale' reads ..., and group 'a' has none", "n")}
    found = scores(skipped, b=np.arange(20))
    assert removed(select(AB, found)) == {"b": 6}
    assert removed(select(AB, found, ratios={"a": 0})) == {"b": 6}
    with pytest.raises(UserError, match="group 'a' cannot have a ratio: criterion 'bn_scale' reads"):
        select(AB, found, ratios={"a": 0.5})
    with pytest.raises(UserError, match="nothing is left to prune: criterion 'bn_scale' reads"):
        select(AB, found, include=["a"])


def test_the_plan_says_how_it_came_about() -> None:
    inexact = Group(
        "n", A.nodes, A.ops, A.size, A.slots, (Reason("softmax", "...", "s"), Reason("softmax", "...", "t"))
    )
    plan = select(coupling(inexact), scores(n=np.arange(10)), ratio=0.4, exclude_ops=(), ratios={"n": 0.2})
    assert plan.inexact == ("softmax",)
    assert plan.meta["ratio"] == 0.4
    assert plan.meta["ratios"] == {"n": 0.2}
    assert plan.meta["ratio_means"] == "fraction of prunable units removed"
    assert str(plan.meta["tool"]).startswith("onnxprune ")


def test_an_alignment_gives_each_group_its_block() -> None:
    """What a machine was measured to like, in place of one number for all."""
    square = {width: float(-(-width // 16) * 16) ** 2 for width in WIDTHS}
    liked = Alignment(dict.fromkeys(LAYER_KINDS, square))
    groups = [layer("wide", 96), layer("narrow", 24), layer("whole", 16), layer("heads", 12, per_unit=64, op="MatMul")]
    assert [block(group, liked) for group in groups] == [16, 16, 16, 1]
    assert [block(group, 16) for group in groups] == [16, 16, 16, 1]
    values = scores(**{group.name: np.arange(group.size) for group in groups})
    plan = select(coupling(*groups), values, ratio=0.5, round_to=liked)
    assert removed(plan) == {"wide": 48, "narrow": 8, "whole": 0, "heads": 6}
    assert (plan.meta["round_to"], plan.meta["blocks"]) == ("auto", {"conv": 16, "matmul": 16})
    # also with nothing to keep, and one of its own: no ratio makes a block
    plan = select(coupling(*groups), values, ratio=0.99, round_to=liked, min_keep=0, ratios={"whole": 0.5})
    assert removed(plan) == {"wide": 80, "narrow": 8, "whole": 0, "heads": 11}
    with pytest.raises(UserError, match=r"round_to auto \(16 for convolutions, 16 for matrix products\) leave every"):
        select(coupling(groups[2]), values, ratio=0.5, round_to=liked)


def test_what_a_plan_says_of_alignment() -> None:
    assert said(8) == {"round_to": 8}
    assert select(coupling(A), scores(a=np.arange(10)), round_to=2).meta["round_to"] == 2
    assert "blocks" not in select(coupling(A), scores(a=np.arange(10)), round_to=2).meta


@pytest.mark.parametrize("wrong", ["auto", "8", None, True, -1])
def test_only_a_measured_alignment_is_automatic(wrong: Any) -> None:
    with pytest.raises(UserError, match="round_to must be a whole number, 1 or more, not"):
        select(coupling(A), scores(a=np.arange(10)), round_to=wrong)
