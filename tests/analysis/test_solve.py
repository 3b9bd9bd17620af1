"""From facts to units: components are right, and every choice among factors leaves rectangles."""

from __future__ import annotations

import networkx as nx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.analysis.facts import Axis, Facts, fixed
from onnxprune.analysis.solve import Solution, components, reason_of, solve


def units(f: Facts, axis: Axis, solution: Solution) -> list[set[int]]:
    """Positions of the axis that go together, those that cannot go left out."""
    found: dict[int, set[int]] = {}
    for position, i in enumerate(axis.ids.tolist()):
        root = int(solution.root[i])
        if i and solution.frozen[root] < 0:
            found.setdefault(root, set()).add(position)
    return sorted(found.values(), key=min)


def code(f: Facts, axis: Axis, solution: Solution) -> list[str]:
    """Why each position cannot go; empty where it can."""
    return [
        f.frozen[int(solution.frozen[solution.root[i]])][1] if solution.frozen[solution.root[i]] >= 0 else ""
        for i in axis.ids.tolist()
    ]


pairs = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40)


@settings(max_examples=200)
@given(pairs, pairs)
def test_components_are_those_of_the_graph(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    """In one go or added later, as `solve` does."""
    graph = nx.Graph([*first, *second])
    graph.add_nodes_from(range(31))
    label = np.arange(31)
    for edges in (first, second):
        a, b = np.array(edges, np.int64).reshape(-1, 2).T
        label = components(label, a, b)
    for component in nx.connected_components(graph):
        assert {int(label[i]) for i in component} == {min(component)}


def test_a_long_chain_is_one_component() -> None:
    """As long as the deepest network, in an order that makes every link a hook of its own."""
    n = 50_000
    order = np.random.default_rng(0).permutation(n)
    label = components(np.arange(n), order[:-1], order[1:])
    assert not label.any()


def test_freezing_one_position_freezes_its_unit_with_the_first_reason() -> None:
    f = Facts(node=0)
    a, b = f.fresh(3), f.fresh(3)
    f.tie(a, b)
    f.freeze(Axis(1, b.ids[1:2]), "first", "one")
    f.freeze(Axis(2, a.ids[1:]), "second", "two")
    solution = solve(f)
    assert code(f, a, solution) == code(f, b, solution) == ["", "first", "second"]
    reason = reason_of(f, ["the node"], int(solution.frozen[solution.root[b.ids[1]]]))
    assert (reason.code, reason.sentence, reason.node) == ("first", "one", "the node")


def test_inexact_cuts_are_frozen_unless_asked_for() -> None:
    for allowed in (False, True):
        f = Facts(node=0)
        a = f.fresh(3)
        f.inexact(a, "inexact", "because")
        solution = solve(f, allow_inexact=allowed)
        assert len(units(f, a, solution)) == (3 if allowed else 0)
        assert (solution.inexact[solution.root[a.ids]] >= 0).all()
        assert reason_of(f, ["n"], 0, inexact=True).code == "inexact"


def split(rows: int, columns: int) -> tuple[Facts, Axis, Axis, Axis]:
    f = Facts(node=0)
    whole = f.fresh(rows * columns)
    return f, whole, *f.split(whole, [rows, columns])


def test_of_two_factors_the_one_with_more_units_is_cut() -> None:
    f, whole, rows, columns = split(2, 4)
    solution = solve(f)
    assert units(f, whole, solution) == [{0, 4}, {1, 5}, {2, 6}, {3, 7}]
    assert units(f, columns, solution) == [{0}, {1}, {2}, {3}]
    assert code(f, rows, solution) == ["other-factor"] * 2


def test_of_equal_factors_the_first_is_cut() -> None:
    f, whole, _, _ = split(3, 3)
    assert units(f, whole, solve(f)) == [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}]


def test_a_preferred_factor_comes_first() -> None:
    f, whole, rows, _ = split(2, 4)
    f.prefer(rows)
    assert units(f, whole, solve(f)) == [{0, 1, 2, 3}, {4, 5, 6, 7}]


def test_a_factor_that_repeats_comes_last() -> None:
    f = Facts(node=0)
    own, copies = f.fresh(2), f.copied(4)
    whole = f.merge([own, copies])
    assert units(f, whole, solve(f)) == [{0, 1, 2, 3}, {4, 5, 6, 7}]


def test_a_frozen_factor_is_never_cut() -> None:
    f, whole, _, columns = split(2, 4)
    f.prefer(columns)
    f.freeze(columns, "frozen", "because")
    assert units(f, whole, solve(f)) == [{0, 1, 2, 3}, {4, 5, 6, 7}]


def test_where_no_factor_can_be_cut_nothing_can() -> None:
    f, whole, rows, columns = split(2, 4)
    f.freeze(rows, "frozen", "because")
    f.freeze(Axis(4, columns.ids), "frozen", "because")
    assert units(f, whole, solve(f)) == []


def test_a_frozen_position_freezes_its_line_only() -> None:
    f, whole, _, _ = split(2, 4)
    f.freeze(Axis(1, whole.ids[5:6]), "frozen", "because")
    assert units(f, whole, solve(f)) == [{0, 4}, {2, 6}, {3, 7}]


def test_products_that_share_a_factor_are_cut_alike() -> None:
    """Queries and keys, 2 heads each: one is decided by the other."""
    f = Facts(node=0)
    q, k = f.fresh(8), f.fresh(6)
    q_heads, _ = f.split(q, [2, 4])
    k_heads, k_dims = f.split(k, [2, 3])
    f.tie(q_heads, k_heads)
    f.freeze(k_dims, "frozen", "because")
    solution = solve(f)
    assert units(f, q, solution) == [{0, 1, 2, 3}, {4, 5, 6, 7}]
    assert units(f, k, solution) == [{0, 1, 2}, {3, 4, 5}]
    assert solution.root[q.ids[0]] == solution.root[k.ids[0]]


def test_products_in_a_chain_are_decided_one_after_the_other() -> None:
    """(12) = (2, 6) and (6) = (2, 3): the inner is decided by what the outer leaves."""
    f = Facts(node=0)
    whole = f.fresh(12)
    _, inner = f.split(whole, [2, 6])
    f.split(inner, [2, 3])
    assert units(f, whole, solve(f)) == [{0, 3, 6, 9}, {1, 4, 7, 10}, {2, 5, 8, 11}]


def test_three_factors() -> None:
    f = Facts(node=0)
    whole = f.fresh(12)
    _, middle, _ = f.split(whole, [2, 3, 2])
    solution = solve(f)
    assert units(f, whole, solution) == [{0, 1, 6, 7}, {2, 3, 8, 9}, {4, 5, 10, 11}]
    assert units(f, middle, solution) == [{0}, {1}, {2}]


def test_a_whole_with_fixed_positions_freezes_the_lines_they_stand_in() -> None:
    f = Facts(node=0)
    a = f.fresh(6)
    whole = Axis(8, np.concatenate([a.ids, [0, 0]]))
    rows, columns = f.split(whole, [2, 4])
    f.freeze(rows, "frozen", "because")
    assert units(f, whole, solve(f)) == [{0, 4}, {1, 5}]
    assert columns.size == 4


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    """Axes tied, split, merged and frozen at random."""
    f = Facts(node=0)
    pool = [f.fresh(draw(st.sampled_from([4, 6, 8, 12]))) for _ in range(draw(st.integers(1, 3)))]
    for _ in range(draw(st.integers(1, 6))):
        axis = draw(st.sampled_from(pool))
        match draw(st.sampled_from(["split", "merge", "tie", "freeze", "position", "prefer", "slice"])):
            case "split":
                n = int(axis.size)
                parts = [k for k in range(2, n) if n % k == 0]
                if parts:
                    k = draw(st.sampled_from(parts))
                    pool += f.split(axis, [k, n // k])
            case "merge":
                other = draw(st.sampled_from(pool))
                if int(axis.size) * int(other.size) <= 48:
                    pool.append(f.merge([axis, other]))
            case "tie":
                alike = [x for x in pool if x.size == axis.size]
                f.tie(axis, draw(st.sampled_from(alike)))
            case "freeze" if draw(st.integers(0, 4)) == 0:
                f.freeze(axis, "frozen", "because")
            case "position" if int(axis.size):
                at = draw(st.integers(0, int(axis.size) - 1))
                f.freeze(Axis(1, axis.ids[at : at + 1]), "position", "because")
            case "prefer":
                f.prefer(axis)
            case "slice" if int(axis.size) > 2:
                at = draw(st.integers(1, int(axis.size) - 1))
                pool += [Axis(at, axis.ids[:at]), Axis(int(axis.size) - at, axis.ids[at:])]
    return f


@settings(max_examples=400)
@given(facts(), st.data())
def test_whatever_goes_leaves_rectangles(f: Facts, data: st.DataObject) -> None:
    """The theorem of `solve`: remove any units that can go, and every product is still one of what is left."""
    ties, products = list(f.ties), list(f.products)
    solution = solve(f)
    free = sorted({int(root) for root in solution.root[1:] if solution.frozen[root] < 0})
    gone = np.zeros(solution.root.size, bool)
    gone[[root for root in free if data.draw(st.booleans())]] = True
    gone = gone[solution.root]
    gone[0] = False
    for a, b in ties:
        assert (gone[a] == gone[b]).all(), "tied ids part"
    for ids, *_ in f.frozen:
        assert not gone[ids].any(), "what is frozen goes"
    for product in products:
        kept = ~gone[product.whole]
        axes = [~gone[ids] for ids in product.factors]
        expected = axes[0]
        for axis in axes[1:]:
            expected = np.multiply.outer(expected, axis)
        assert (kept == expected).all(), (product.whole, product.factors)


def test_a_fixed_axis_is_nobodys_unit() -> None:
    f = Facts(node=0)
    assert units(f, fixed(4), solve(f)) == []
