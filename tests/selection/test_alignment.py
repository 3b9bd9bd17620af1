"""Blocks of channels: what follows from measured times, and that the measurement is of what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from building import Net
from by_hand import EIGHT, FLAT, SIXTEEN, Shape, curve_of, layer, likes, slot, steps, whole
from conftest import machine_that_likes
from oracle import opened, prepared

from onnxprune.analysis.coupling import Group
from onnxprune.selection import alignment
from onnxprune.selection.alignment import LAYER_KINDS, WIDTHS, Alignment, best, cost, curve, measured, type_of
from onnxprune.selection.select import block, said


@pytest.mark.parametrize(("block", "expected"), [(1, 1), (2, 1), (4, 2), (8, 8), (16, 16), (32, 32)])
def test_steps_of_a_block(block: int, expected: int) -> None:
    """Steps of 4 cost those who take every second width 2.7 %, and steps of 2 those who take any 1.4 %."""
    assert best(curve_of(steps(block))) == expected
    assert best(curve_of(steps(block, power=1, start=0))) == {4: 1}.get(block, expected)


def test_widths_cost_what_their_nearest_multiple_costs() -> None:
    times = {width: float(width) for width in WIDTHS}
    # the mean width is the same for every block, or the costs could not be compared
    assert [cost(times, block) for block in alignment.BLOCKS] == [64] * 6
    times = curve_of(steps(16, power=1, start=0))
    assert cost(times, 16) == 64
    assert cost(times, 8) == pytest.approx(68, rel=0.005)
    assert cost(times, 1) == pytest.approx(71.5, rel=0.005)


def test_where_no_width_is_better_than_another() -> None:
    assert best(curve_of(lambda width: 1.0)) == 1
    assert best(curve_of(lambda width: width**0.5)) == 1


def test_what_saves_less_than_three_percent_is_not_worth_a_coarser_choice() -> None:
    # every second width takes longer by so much; rounded to pairs, half of the widths get faster
    def uneven(more: float) -> Shape:
        return lambda width: 100 * (1 + more * (width % 2))

    assert best(curve_of(uneven(0.05))) == 1
    assert best(curve_of(uneven(0.08))) == 2


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("block", [1, 8, 16])
def test_noise_of_a_percent_changes_nothing(block: int, seed: int) -> None:
    assert best(curve_of(steps(block), noise=0.01, seed=seed)) == block


def test_of_several_convolutions_the_coarsest_counts() -> None:
    times = {"conv1x1": curve_of(EIGHT), "conv3x3": curve_of(SIXTEEN), "depthwise": curve_of(FLAT)}
    found = Alignment(times | {"matmul": curve_of(EIGHT)})
    assert (found.conv, found.matmul) == (16, 8)
    assert str(found) == "auto (16 for convolutions, 8 for matrix products)"
    assert said(found) == {"round_to": "auto", "blocks": {"conv": 16, "matmul": 8}}


def mixed(size: int) -> Group:
    """Made by a convolution, read by a matrix product."""
    return layer("mixed", size, slot("fc.weight", size, axis=1, role="in", op="Gemm"))


def test_by_the_operators_whose_weights_a_group_cuts() -> None:
    found = likes(SIXTEEN, EIGHT)
    assert found.block(layer("conv", 64)) == 16
    assert found.block(layer("fc", 64, op="Gemm")) == 8
    assert found.block(layer("qkv", 64, op="MatMul")) == 8
    assert found.block(mixed(64)) == 16
    assert likes(EIGHT, SIXTEEN).block(mixed(64)) == 16
    assert likes(EIGHT, SIXTEEN).block(layer("conv", 64)) == 8


def test_a_norm_alone_counts_as_a_matrix_product() -> None:
    norm = Group("norm", (), ("LayerNormalization",), 64, (slot("w", 64, role="scale", op="LayerNormalization"),))
    assert likes(SIXTEEN, EIGHT).block(norm) == 8
    norm = Group("norm", (), ("BatchNormalization",), 64, (slot("w", 64, role="scale", op="BatchNormalization"),))
    assert likes(SIXTEEN, EIGHT).block(norm) == 16


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (64, 16),
        (32, 16),
        (31, 16),  # 16 of 31 take a quarter of what 31 take, as 32 do
        (24, 16),  # 16 of 24
        (16, 0),  # 8 of 16 take as long as 16
        (12, 0),
        (6, 0),
    ],
)
def test_narrow_groups_where_only_whole_blocks_are_fast(size: int, expected: int) -> None:
    assert likes(SIXTEEN).block(layer("narrow", size)) == expected
    assert block(layer("narrow", size), likes(SIXTEEN)) == (expected or size)


def narrow(width: int) -> float:
    """Blocks of sixteen for wide layers, of four below: a kernel has a smaller one for the rest."""
    return whole(width, 16) ** 2 if width > 16 else whole(width, 4) ** 2


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (24, 16),
        (16, 8),  # 8 of 16 take a quarter
        (12, 8),  # 8 of 12 are less than half the work
        (8, 4),
        (6, 4),  # 4 of 6: 6 take as long as 8
        (4, 0),  # 2 of 4 were not measured
        (3, 0),
    ],
)
def test_narrow_groups_where_smaller_blocks_pay(size: int, expected: int) -> None:
    found = likes(narrow)
    assert found.conv == 16
    assert found.block(layer("narrow", size)) == expected


def test_a_tenth_has_to_be_saved() -> None:
    def overhead(part: float) -> Shape:
        """Eight channels take so much of what sixteen take."""
        return lambda width: whole(width, 16) ** 2 if width > 8 else part * 256

    assert likes(overhead(0.95)).block(layer("narrow", 16)) == 0
    assert likes(overhead(0.89)).block(layer("narrow", 16)) == 8


def test_a_head_fills_blocks_by_itself() -> None:
    heads = layer("heads", 12, per_unit=64, op="MatMul")
    found = likes(SIXTEEN)
    assert found.block(heads) == 16
    assert block(heads, found) == 1
    # two channels a unit: eight units fill sixteen
    assert block(layer("pairs", 24, per_unit=2), found) == 8
    # heads of twelve channels: four of them
    assert block(layer("heads", 12, per_unit=12), found) == 4
    # a narrow group of pairs: 16 channels in all, and nothing less is faster
    assert block(layer("pairs", 8, per_unit=2), found) == 8


def test_without_a_side_that_makes_channels_the_units_count() -> None:
    read = Group("read", (), ("Conv",), 48, (slot("w", 48, axis=1, role="in"),))
    assert likes(SIXTEEN).block(read) == 16
    read = Group("read", (), ("Conv",), 12, (slot("w", 12, axis=1, role="in"),))
    assert likes(SIXTEEN).block(read) == 0


# What is measured


def typed(dtype: Any, *extra: str) -> onnx.ModelProto:
    net = Net()
    x = net.input("x", 2, 8, dtype=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    net.output(net.op("MatMul", x, net.const(np.ones((8, 8)), dtype)))
    for op in extra:
        net.op(op, net.const(np.ones(1), np.float32), net.const(1, np.float32), net.const(0, np.uint8))
    return net.proto()


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (typed(np.float32), "float32"),
        (typed(np.float16), "float16"),
        (typed(np.float64), "float32"),
        (typed(np.float32, "QuantizeLinear", "DequantizeLinear"), "int8"),
        (typed(np.float32, "QuantizeLinear"), "float32"),
    ],
)
def test_the_type_that_a_model_computes_in(proto: onnx.ModelProto, expected: str) -> None:
    assert type_of(opened(proto)) == expected


def test_a_model_quantised_as_it_runs_computes_in_integers() -> None:
    net = Net()
    x, _, zero = net.ops("DynamicQuantizeLinear", 3, net.input("x", 2, 8))
    net.output(net.op("MatMulInteger", x, net.const(np.ones((8, 4)), np.int8), zero))
    assert type_of(prepared(net.proto())) == "int8"


def test_a_model_without_weights_computes_in_floats() -> None:
    net = Net()
    net.output(net.op("Relu", net.input("x", 2, 8)))
    assert type_of(prepared(net.proto())) == "float32"


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
@pytest.mark.parametrize("layer", LAYER_KINDS)
def test_chains_of_four_layers_run_at_odd_widths(layer: str, kind: str) -> None:
    for width in (5, 16):
        proto = alignment._chain(layer, width, kind)
        products = [node for node in proto.graph.node if node.op_type.endswith(("Conv", "MatMul"))]
        assert len(products) == 4 * (2 if layer == "depthwise" else 1)
        channels = {item.dims[0] for item in proto.graph.initializer if len(item.dims) > 1}
        assert channels == {width}
        alignment._call(layer, width, kind, 1, "CPUExecutionProvider")()


def test_the_fastest_of_several_moments_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def call(layer: str, width: int, kind: str, threads: int, provider: str) -> int:
        return width

    def rounds(calls: list[int], **options: Any) -> np.ndarray[Any, Any]:
        asked.append(len(calls))
        times = np.array([[width * 10.0, width * 7.0] for width in calls]).T
        return times - (len(asked) == 2) * 1.0  # the second moment is a quiet one

    monkeypatch.setattr(alignment, "_call", call)
    monkeypatch.setattr(alignment, "time_rounds", rounds)
    found = curve("conv1x1", "float32", 1, "CPUExecutionProvider")
    assert found == {width: width * 7.0 - 1 for width in WIDTHS}
    assert asked == [len(WIDTHS)] * alignment.PASSES


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str, int]]:
    """A machine of steps of eight that tells what it is asked for, with an empty cache."""
    asked: list[tuple[str, str, int]] = []

    def made(layer: str, kind: str, threads: int, provider: str) -> dict[int, float]:
        asked.append((layer, kind, threads))
        return curve_of(EIGHT)

    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(alignment, "curve", made)
    return asked


def test_measured_once_for_each_type_and_number_of_threads(counted: list[tuple[str, str, int]]) -> None:
    single, half = prepared(typed(np.float32)), prepared(typed(np.float16))
    first, again = measured(single), measured(single)
    assert counted == [(layer, "float32", 1) for layer in LAYER_KINDS]
    assert (first.conv, first.times) == (8, again.times)
    assert first.notes == again.notes == ()
    measured(half)
    measured(single, threads=2)
    assert counted[4:] == [(layer, "float16", 1) for layer in LAYER_KINDS] + [
        (layer, "float32", 2) for layer in LAYER_KINDS
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.pop("matmul"),
        lambda value: value.update(gemm=[]),
        lambda value: value["conv1x1"].pop(),
        lambda value: value["conv1x1"].reverse(),
        lambda value: value["conv1x1"][0].append(1),
        lambda value: value["conv1x1"].__setitem__(3, [7, 0.0]),
        lambda value: value["conv1x1"].__setitem__(3, [7, float("nan")]),
        lambda value: value["conv1x1"].__setitem__(3, [7, float("inf")]),
        lambda value: value["conv1x1"].__setitem__(3, [float("inf"), 1.0]),
        lambda value: value["conv1x1"].__setitem__(3, [7, 10**400]),
        lambda value: value["conv1x1"].__setitem__(3, [7, None]),
        lambda value: value["conv1x1"].__setitem__(3, [7, -1e-6]),
        lambda value: value["conv1x1"].__setitem__(3, [7, "1e-6"]),
        lambda value: value["conv1x1"].__setitem__(3, [7, True]),
        lambda value: value["conv1x1"].__setitem__(3, [7, 1e9]),
        lambda value: value["conv1x1"].__setitem__(3, None),
        lambda value: value.update(conv1x1={"4": 1.0}),
    ],
)
def test_a_damaged_file_is_measured_anew(
    counted: list[tuple[str, str, int]], tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    model = prepared(typed(np.float32))
    measured(model)
    (path,) = tmp_path.iterdir()
    stored = json.loads(path.read_text())
    change(stored["value"])
    path.write_text(json.dumps(stored))
    found = measured(model)
    assert len(counted) == 2 * len(LAYER_KINDS)
    assert found.conv == 8
    assert len(found.notes) == 1
    assert "measured anew" in found.notes[0]
    assert measured(model).notes == ()


@pytest.mark.parametrize("liked", [1, 8, 16])
def test_a_machine_for_tests(liked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_that_likes(liked, tmp_path, monkeypatch)
    found = measured(prepared(typed(np.float32)))
    assert (found.conv, found.matmul) == (liked, liked)
