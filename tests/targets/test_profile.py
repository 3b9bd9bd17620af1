"""What a model's kernels and channels cost: figures that can be counted agree with what is counted elsewhere."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from building import Net
from nets import DIMS, NETS
from onnx import TensorProto, helper
from oracle import prepared
from quantised import rounded, scales, stored

from onnxprune.analysis.analyze import analyze
from onnxprune.counting.cost import cost
from onnxprune.counting.meter import Meter
from onnxprune.errors import UserError
from onnxprune.selection.alignment import measured
from onnxprune.selection.select import block
from onnxprune.targets import latency
from onnxprune.targets.profile import Profile, profile

from .test_kernels import half
from .test_latency import Machine, wide, written

module = importlib.import_module("onnxprune.targets.profile")  # the package's own `profile` is the function


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times do not matter here, but for those of the tests' own machine."""
    monkeypatch.setattr("onnxprune.targets.kernels.SECONDS", 0.0)
    monkeypatch.setattr(module, "SECONDS", 0.01)


def profiled(proto: onnx.ModelProto, dims: Mapping[str, int] | None = None, **options: Any) -> Profile:
    """Checked for what holds for all."""
    model = prepared(proto)
    coupling = analyze(model)
    found = profile(model, coupling, dims=dims, **options)
    assert found.milliseconds > 0
    assert found.kernels
    assert {kernel.name for kernel in found.kernels}
    assert all(kernel.microseconds > 0 for kernel in found.kernels)
    assert sum(kernel.macs for kernel in found.kernels) == cost(model, dims).macs
    names = {group.name for group in coupling.groups}
    assert {name for kernel in found.kernels for name in kernel.groups} <= names
    assert [group.name for group in found.groups] == [group.name for group in coupling.groups if group.size > 1]
    meter = Meter(model, coupling, dims)
    whole = meter.usage({})
    for group in found.groups:
        less = meter.usage({group.name: 1})
        assert group.units == coupling.group(group.name).size
        assert group.microseconds >= 0
        # a unit of a group that stands twice in a weight saves a little less than its share
        assert group.macs == pytest.approx(whole.macs - less.macs, rel=0.1)
        assert group.params == pytest.approx(whole.params - less.params, rel=0.1)
        assert 0 <= group.activation <= group.macs
    return found


@pytest.mark.parametrize("name", NETS)
def test_known_networks(name: str) -> None:
    found = profiled(NETS[name](), DIMS.get(name))
    assert found.groups
    assert found.notes == ()
    assert found.dims == DIMS.get(name, {})
    assert {name for kernel in found.kernels for name in kernel.groups} == {group.name for group in found.groups}


def test_figures_of_a_network_that_can_be_counted_by_hand() -> None:
    found = profiled(written(wide))
    by_name = {group.name: group for group in found.groups}
    stem, inner, neck = (by_name[name] for name in ("stem", "inner", "neck"))
    pixels = 16
    # read by inner and neck, made by stem and outer
    assert stem.macs == pytest.approx(pixels * (3 + 16 + 16 + 24))
    assert (inner.macs, neck.macs) == (pytest.approx(pixels * 64), pytest.approx(pixels * 32 + 5))
    assert (inner.params, neck.params) == (32 + 1 + 32, 32 + 1 + 5)
    assert (stem.activation, inner.activation, neck.activation) == (2 * pixels, pixels, pixels)
    assert found.blocks == {"conv": 1, "matmul": 1}
    assert [group.block for group in found.groups] == [1, 1, 1]
    work = {kernel.macs: kernel.groups for kernel in found.kernels if kernel.macs}
    assert work[pixels * 3 * 32] == ("stem",)
    assert set(work[pixels * 32 * 24]) == {"stem", "neck"}
    assert work[5 * 24] == ("neck",)


def test_time_is_that_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On which every layer takes a millisecond, and nothing else takes any time."""
    alignment = measured(prepared(written(wide)))
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "measured", lambda *_, **__: alignment)
    model = prepared(written(wide))
    machine = Machine(model)
    monkeypatch.setattr(latency, "kernels", machine)
    machine.formula = lambda op, u, v: 1000 * u * v if op in ("Conv", "Gemm") else 0.0
    found = profile(model, analyze(model))
    by_name = {group.name: group for group in found.groups}
    # stem, inner, outer, neck and fc each take 1000 microseconds, in proportion to what they read and make
    assert by_name["stem"].microseconds == pytest.approx(1000 * 4 / 32)
    assert by_name["inner"].microseconds == pytest.approx(1000 * 2 / 16)
    assert by_name["neck"].microseconds == pytest.approx(1000 * 2 / 24)


def test_the_block_that_a_group_should_keep(likes_sixteen: None) -> None:
    model = prepared(written(wide))
    found = profiled(written(wide))
    liked = measured(model)
    assert found.blocks == {"conv": 16, "matmul": 16}
    assert [group.block for group in found.groups] == [block(group, liked) for group in analyze(model).groups]
    assert {group.name: group.block for group in found.groups} == {"stem": 16, "inner": 16, "neck": 16}


def quantised(n: Net) -> None:
    x = rounded(n, n.image(1, 3, 8, 8))
    for name, channels in (("a", 3), ("b", 8)):
        w, zero = stored(n, 8, channels, 3, 3, name=name)
        w = n.op("DequantizeLinear", w, scales(n), zero)
        x = rounded(n, n.op("Conv", x, w, pads=[1] * 4, name=f"conv.{name}"))
    n.output(n.conv(x, 5, name="last"))


def lookup(n: Net) -> None:
    """Two inputs, one of integers."""
    x = n.op("Gather", n.weight(20, 8, name="table"), n.input("ids", "batch", 5, dtype=TensorProto.INT64))
    x = n.op("Add", n.linear(x, 12, name="left"), n.linear(n.input("x", "batch", 5, 7), 12, name="right"))
    n.output(n.linear(n.op("Relu", x), 4, name="last"))


def last_state(n: Net) -> None:
    """A recurrent layer that leaves an input and its first output out."""
    w, r = n.weight(1, 24, 3, name="W"), n.weight(1, 24, 6, name="R")
    inputs = [n.input("x", 4, 2, 3), w, r, n.weight(1, 48, name="B"), "", n.weight(1, 2, 6, name="h")]
    n.nodes.append(helper.make_node("LSTM", inputs, ["", "last_state"], name="lstm", hidden_size=6))
    n.output(n.gemm(n.squeeze("last_state", 0), 5, name="last"))


@pytest.mark.parametrize(
    ("proto", "groups"),
    [
        (lambda: half(NETS["resnet"]()), 4),
        (lambda: written(quantised), 2),
        (lambda: written(lookup), 2),
        (lambda: written(last_state), 1),
    ],
    ids=["half floats", "quantised", "two inputs", "recurrent"],
)
def test_other_models(proto: Callable[[], onnx.ModelProto], groups: int) -> None:
    assert len(profiled(proto()).groups) == groups


def test_sizes_of_free_dimensions() -> None:
    one, three = (profiled(written(lookup), {"batch": batch}) for batch in (1, 3))
    assert (one.dims, three.dims) == ({"batch": 1}, {"batch": 3})
    assert [3 * group.macs for group in one.groups] == pytest.approx([group.macs for group in three.groups])
    assert [group.params for group in one.groups] == [group.params for group in three.groups]
    with pytest.raises(UserError, match="no free dimension 'time'"):
        profiled(written(lookup), {"time": 3})


@pytest.mark.parametrize(
    "write",
    [
        lambda n: n.output(n.op("Relu", n.image(1, 3, 4, 4))),
        lambda n: n.output(n.op("Identity", n.image(1, 3, 4, 4))),
        lambda n: n.output(n.conv(n.image(1, 3, 4, 4), 6, name="only")),
    ],
    ids=["no weights", "nothing to do", "only the last layer"],
)
def test_models_without_a_group(write: Callable[[Net], None]) -> None:
    found = profiled(written(write))
    assert found.groups == ()
    assert all(kernel.groups == () for kernel in found.kernels)


def test_what_is_told_on_the_way_and_for_json() -> None:
    told: list[tuple[str, float]] = []
    found = profiled(written(lambda n: wide(n, 20)), on_progress=lambda stage, part: told.append((stage, part)))
    assert [stage for stage, _ in told if stage != "kernels"] == ["widths", "whole"]
    parts = [part for stage, part in told if stage == "kernels"]
    assert parts == sorted(parts)
    assert len(parts) > 3
    data = found.to_dict()
    assert data.keys() == {"milliseconds", "kernels", "groups", "blocks", "threads", "dims", "notes"}
    assert data["kernels"][0]["groups"] == found.kernels[0].groups
    again: list[str] = []
    second = profiled(written(lambda n: wide(n, 20)), on_progress=lambda stage, part: again.append(stage))
    assert again == ["widths", "whole"]
    assert [k.microseconds for k in second.kernels] == [k.microseconds for k in found.kernels]
    assert np.isfinite(second.milliseconds)
