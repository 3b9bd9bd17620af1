"""Piece by piece gives what one run gives, whatever is looked at and wherever it is held meanwhile."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from building import F, Net
from nets import DIMS, NETS
from onnx import TensorProto, helper
from oracle import prepared

from onnxprune.data.sources import open_data
from onnxprune.errors import UserError
from onnxprune.execution import runtime
from onnxprune.execution.batches import Batch
from onnxprune.execution.walk import Walk, origin, reads, take_all
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor

Array = np.ndarray[Any, Any]
CLOSE = 1e-5
"""Of the largest entry: onnxruntime fuses other nodes in a piece than in the whole."""


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; nothing may be left there."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def everything(model: Model) -> list[str]:
    """All tensors that nodes make, in order."""
    return [name for node in model.graph.node for name in node.output if name]


def at_once(model: Model, batches: list[Batch]) -> dict[str, list[Array]]:
    """Every tensor, of one plain run for each batch; only what counts."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in everything(model))
    session = runtime.session(model.replace(proto=proto), optimize=False)
    found: dict[str, list[Array]] = {}
    for batch in batches:
        for name, array in {**runtime.run(session, batch.feeds), **batch.feeds}.items():
            whole = batch.count + batch.spare
            found.setdefault(name, []).append(array[: batch.count] if array.shape[:1] == (whole,) else array)
    return found


def taken(walk: Walk, batches: list[Batch]) -> Walk:
    for batch in batches:
        walk.take(batch)
    return walk


def agree(walk: Walk, expected: dict[str, list[Array]], names: list[str]) -> None:
    for name in names:
        arrays = list(walk.arrays(name))
        assert len(arrays) == len(expected[name])
        for array, wanted in zip(arrays, expected[name], strict=True):
            assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape), name
            top = float(np.abs(wanted).max(initial=0.0)) or 1.0
            np.testing.assert_allclose(array, wanted, rtol=0, atol=CLOSE * top, err_msg=name)


def net(name: str) -> tuple[Model, list[Batch]]:
    model = prepared(NETS[name]())
    return model, list(open_data("random:5", model, batch=2, dims=DIMS.get(name)))


@pytest.mark.parametrize("room", [1 << 30, 3000, 0])
@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("name", NETS)
def test_every_tensor_is_that_of_one_run(name: str, step: int, room: int) -> None:
    model, batches = net(name)
    expected = at_once(model, batches)
    nodes = model.graph.node
    with taken(Walk(model, room=room), batches) as walk:
        for stop in range(step, len(nodes) + step, step):
            made = [each for node in nodes[stop - step : stop] for each in node.output if each]
            walk.until(min(stop, len(nodes)), made)
            agree(walk, expected, made)
        assert walk.position == len(nodes)


def test_what_is_alive_can_be_looked_at_and_nothing_else() -> None:
    model, batches = net("resnet")
    names = everything(model)
    with taken(Walk(model), batches) as walk:
        for stop in range(len(names)):
            walk.until(stop)
            later = {name for node in model.graph.node[stop:] for name in reads(node)}
            before = {*names[:stop], "image"}
            assert {name for name in before if walk.holds(name)} == before & later
            assert not any(walk.holds(name) for name in names[stop:])


def test_wanted_tensors_stay_for_as_long_as_they_are_wanted() -> None:
    model, batches = net("resnet")
    expected = at_once(model, batches)
    with taken(Walk(model), batches) as walk:
        walk.until(4, {"stem.bn.out", "image"})
        agree(walk, expected, ["stem.bn.out", "image"])
        walk.until(9, {"stem.bn.out", "stem.conv.out"})
        agree(walk, expected, ["stem.bn.out"])
        assert not walk.holds("stem.conv.out"), "it was not wanted when it ran"
        walk.until(9)
        assert not walk.holds("stem.bn.out")
        assert not walk.holds("image")


@pytest.mark.parametrize("room", [1 << 30, 0])
def test_ahead_shows_what_would_come_with_the_weights_of_now(room: int) -> None:
    model, batches = net("resnet")
    expected = at_once(model, batches)
    with taken(Walk(model, room=room), batches) as walk:
        walk.until(3)
        for _ in range(2):
            for array, wanted in zip(walk.ahead(6, "layer1.0.bn.out"), expected["layer1.0.bn.out"], strict=True):
                np.testing.assert_allclose(array, wanted, rtol=0, atol=CLOSE * float(np.abs(wanted).max()))
        assert (walk.position, walk.holds("layer1.0.bn.out")) == (3, False)
        shift = model.weights["layer1.0.bn.bias"].array()
        walk.exchange({"layer1.0.bn.bias": Tensor.of("layer1.0.bn.bias", shift + 1)})
        walk.until(6, {"layer1.0.bn.out"})
        for array, wanted in zip(walk.arrays("layer1.0.bn.out"), expected["layer1.0.bn.out"], strict=True):
            np.testing.assert_allclose(array, wanted + 1, rtol=0, atol=CLOSE * float(np.abs(wanted).max()))


def test_a_stop_that_lies_behind_runs_nothing_again() -> None:
    model, batches = net("resnet")
    with taken(Walk(model), batches) as walk:
        walk.until(6, {"stem.bn.out"})
        walk.until(2, {"stem.bn.out"})
        assert (walk.position, walk.holds("stem.bn.out")) == (6, True)


def test_the_end_that_nobody_wants() -> None:
    model, batches = net("resnet")
    with taken(Walk(model), batches) as walk:
        walk.until(len(model.graph.node))
        assert not walk.holds("fc.out")
        walk.until(len(model.graph.node), {"fc.out"})
        assert not walk.holds("fc.out")


def test_batches_of_different_sizes_and_lengths() -> None:
    model = prepared(NETS["transformer"]())
    rng = np.random.default_rng(0)
    batches = [
        Batch({"x": rng.standard_normal((count, time, 5), dtype=np.float32)}, None, count)
        for count, time in ((1, 4), (3, 2), (2, 7))
    ]
    expected = at_once(model, batches)
    with taken(Walk(model, room=200), batches) as walk:
        assert walk.counts == [1, 3, 2]
        for stop in (5, 11, len(model.graph.node)):
            made = [name for node in model.graph.node[:stop] for name in node.output]
            wanted = [name for name in made if walk.holds(name) or name not in made[: walk.position]]
            walk.until(stop, wanted)
            agree(walk, expected, [name for name in wanted if walk.holds(name)])
            assert walk.holds(model.graph.node[stop - 1].output[0])


def test_samples_that_fill_up_a_batch_do_not_count() -> None:
    n = Net()
    x = n.conv(n.image(4, 3, 5, 5), 6, 3, name="conv")
    n.output(n.gemm(n.op("Flatten", n.op("Relu", x, name="relu"), name="flat"), 3, name="fc"))
    n.output(n.reduce("ReduceMean", x, 0, 2, 3, keepdims=0, name="mean"))
    model = prepared(n.proto())
    batches = list(open_data("random:6", model))
    assert [(batch.count, batch.spare) for batch in batches] == [(4, 0), (2, 2)]
    expected = at_once(model, batches)
    with taken(Walk(model, room=0), batches) as walk:
        walk.until(3, [*everything(model), "image"])
        assert [len(array) for array in walk.arrays("conv.out")] == [4, 2]
        assert [array.shape for array in walk.arrays("image")] == [(4, 3, 5, 5), (2, 3, 5, 5)]
        agree(walk, expected, ["conv.out", "relu.out", "flat.out"])
        walk.until(5, ["fc.out", "mean.out"])
        agree(walk, expected, ["fc.out", "mean.out"])
        assert [array.shape for array in walk.arrays("mean.out")] == [(6,), (6,)]


def branching() -> Model:
    """A body that reads three tensors of the graph around it, one of them a weight."""
    n = Net()
    x = n.image("batch", 3, 5, 5)
    y = n.conv(x, 4, 3, name="first")
    n.weight(4, 4, 1, 1, name="inner.weight")
    bodies = []
    for kind in ("Add", "Sub"):
        nodes = [
            helper.make_node("Conv", ["early", "inner.weight"], [f"{kind}.conv"]),
            helper.make_node(kind, [f"{kind}.conv", "first.out"], [f"{kind}.out"]),
        ]
        bodies.append(helper.make_graph(nodes, kind, [], [helper.make_tensor_value_info(f"{kind}.out", F, None)]))
    n.nodes.append(helper.make_node("Neg", [y], ["early"], name="neg"))
    mean = n.op("ReduceMean", n.op("Abs", x, name="between"), keepdims=0, name="mean")
    which = n.op("Greater", mean, n.scalar(0.8), name="which")
    (w,) = n.ops("If", 1, which, then_branch=bodies[0], else_branch=bodies[1], name="if")
    n.output(n.op("Relu", w, name="last", made=("batch", 4, 5, 5)))
    return prepared(n.proto())


@pytest.mark.parametrize("room", [1 << 30, 0])
def test_bodies_read_what_was_made_long_before(room: int) -> None:
    model = branching()
    batches = list(open_data("random:5", model, batch=1))
    expected = at_once(model, batches)
    assert len({bool(array) for array in expected["which.out"]}) == 2, "both bodies run"
    with taken(Walk(model, room=room), batches) as walk:
        for stop in range(1, len(model.graph.node) + 1):
            made = list(model.graph.node[stop - 1].output)
            walk.until(stop, made)
            agree(walk, expected, made)
            assert walk.holds("early") == (2 <= stop < 6)


def test_spilling_changes_no_bit_and_leaves_no_file(scratch: Path) -> None:
    model, batches = net("densenet")
    found: list[dict[str, list[Array]]] = []
    for room in (1 << 30, 5000, 0):
        seen: dict[str, list[Array]] = {}
        with taken(Walk(model, room=room), batches) as walk:
            for stop in range(2, len(model.graph.node) + 2, 2):
                names = [name for node in model.graph.node[stop - 2 : stop] for name in node.output]
                walk.until(stop, names)
                seen |= {name: [array.copy() for array in walk.arrays(name)] for name in names}
                files = sum(1 for path in scratch.rglob("*") if path.suffix == ".npy")
                alive = [name for name in [*everything(model), "image"] if walk.holds(name)]
                assert files == (0 if room == 1 << 30 else files)
                if room == 0:
                    assert files == len(alive) * len(batches)
        found.append(seen)
        assert list(scratch.iterdir()) == []
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, arrays in found[0].items():
            assert all(a.tobytes() == b.tobytes() for a, b in zip(arrays, other[name], strict=True)), name


def test_room_comes_back_when_tensors_go(scratch: Path) -> None:
    """Held in memory in turn: what is alive fits, what was made in all does not."""
    n = Net()
    x = n.image(1, 1, 10, 10)
    for _ in range(20):
        x = n.op("Neg", x)
    n.output(x)
    model = prepared(n.proto())
    with taken(Walk(model, room=3 * 400), list(open_data("random:1", model))) as walk:
        for stop in range(1, 21):
            walk.until(stop)
            assert not [path for path in scratch.rglob("*") if path.suffix == ".npy"]


def test_an_error_leaves_nothing_behind(scratch: Path) -> None:
    model, batches = net("resnet")

    def fails() -> None:
        with taken(Walk(model, room=0), batches) as walk:
            walk.until(5)
            assert [path for path in scratch.rglob("*") if path.suffix == ".npy"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert list(scratch.iterdir()) == []


def test_data_that_ends_in_an_error_leaves_nothing_behind(scratch: Path) -> None:
    model, batches = net("resnet")

    def broken() -> Iterator[Batch]:
        yield from batches
        raise UserError("no more")

    def fails() -> None:
        with Walk(model, room=0) as walk:
            for batch in broken():
                walk.take(batch)

    with pytest.raises(UserError, match="no more"):
        fails()
    assert list(scratch.iterdir()) == []


def test_other_weights_count_from_here_on() -> None:
    model, batches = net("resnet")
    rng = np.random.default_rng(1)
    names = ["stem.conv.weight", "layer1.1.conv.weight", "fc.bias"]
    other = {name: Tensor.of(name, rng.standard_normal(model.weights[name].shape).astype(np.float32)) for name in names}
    half = everything(model).index("layer1.0.relu.out") + 1
    late = model.replace(weights={**model.weights, **{name: other[name] for name in names[1:]}})
    expected = at_once(late, batches)
    with taken(Walk(model), batches) as walk:
        walk.until(half)
        walk.exchange(other)
        walk.until(len(model.graph.node), ["layer1.1.conv.out", "fc.out"])
        agree(walk, expected, ["layer1.1.conv.out", "fc.out"])
    plain = at_once(model, batches)["fc.out"][0]
    assert np.abs(plain - expected["fc.out"][0]).max() > 0.1, "it makes a difference"


def test_scalars_integers_truths_and_words() -> None:
    n = Net()
    x = n.image("batch", 3, 4, 4)
    size = n.op("Gather", n.op("Shape", x, name="shape"), n.const(0, np.int64), name="size")
    big = n.op("Greater", x, n.scalar(0.0), name="big")
    word = n.op("Cast", n.op("ReduceMax", x, keepdims=0, name="max"), to=TensorProto.STRING, name="word")
    back = n.op("Cast", word, to=F, name="back")
    half = n.op("Cast", x, to=TensorProto.FLOAT16, name="half")
    y = n.op("Add", n.op("Cast", half, to=F, name="whole"), back, name="sum")
    y = n.op("Mul", y, n.op("Cast", size, to=F, name="count"), name="times")
    n.output(n.op("Where", big, y, x, name="where"))
    model = prepared(n.proto())
    batches = list(open_data("random:3", model, batch=2))
    expected = at_once(model, batches)
    for room in (1 << 30, 0):
        with taken(Walk(model, room=room), batches) as walk:
            for stop in range(1, len(model.graph.node) + 1):
                (name,) = model.graph.node[stop - 1].output
                walk.until(stop, [name])
                for array, wanted in zip(walk.arrays(name), expected[name], strict=True):
                    assert np.array_equal(array, wanted), name
                    assert array.dtype == wanted.dtype


def test_weights_are_not_kept_from_piece_to_piece() -> None:
    model, batches = net("resnet")
    with taken(Walk(model), batches) as walk:
        walk.until(3)
        assert not any(walk.holds(name) for name in model.weights)


@pytest.mark.parametrize("kind", ["sequence", "bfloat16"])
def test_what_cannot_be_followed_is_named(kind: str) -> None:
    n = Net()
    x = n.image("batch", 3, 4, 4)
    if kind == "sequence":
        y = n.op("SequenceConstruct", x, x, name="made")
        z = n.op("ConcatFromSequence", y, axis=0, name="used")
    else:
        y = n.op("Cast", x, to=TensorProto.BFLOAT16, name="made")
        z = n.op("Cast", y, to=F, name="used")
    n.output(z)
    model = prepared(n.proto())
    batches = list(open_data("random:2", model))
    with taken(Walk(model), batches) as walk:
        walk.until(2, ["used.out"])
        assert walk.holds("used.out"), "inside of a piece anything goes"
    with taken(Walk(model), batches) as walk, pytest.raises(UserError, match=f"'made.out' is a .*{kind[:3]}.*batch to"):
        walk.until(1)


def test_numbers_that_are_none_are_named() -> None:
    n = Net()
    y = n.op("Sqrt", n.image("batch", 2), name="root")
    n.output(n.op("Div", y, n.const(np.float32([0, 1])), name="ratio"))
    model = prepared(n.proto())
    batches = [Batch({"image": np.float32([[1, 4]])}, None, 1), Batch({"image": np.float32([[1, -1]])}, None, 1)]
    with taken(Walk(model), batches) as walk:
        walk.until(2, ["root.out", "ratio.out", "image"])
        assert [array.tolist() for array in walk.numbers("image")] == [[[1, 4]], [[1, -1]]]
        fine = walk.numbers("root.out")
        assert next(fine).tolist() == [[1, 2]]
        with pytest.raises(UserError, match="NaN or Inf in 'root.out', which node 'root' makes"):
            next(fine)
        with pytest.raises(UserError, match="NaN or Inf in 'ratio.out', which node 'ratio' makes"):
            next(walk.numbers("ratio.out"))
    fed = [Batch({"image": np.float32([[np.inf, 0]])}, None, 1)]
    with taken(Walk(model), fed) as walk, pytest.raises(UserError, match="NaN or Inf in input 'image'$"):
        next(walk.numbers("image"))


def test_two_inputs() -> None:
    n = Net()
    a, b = n.input("a", "batch", 3), n.input("b", "batch", 4)
    y = n.op("Add", n.gemm(a, 5, name="left"), n.gemm(b, 5, name="right"), name="sum")
    n.output(n.op("Relu", y, name="relu"))
    model = prepared(n.proto())
    batches = list(open_data("random:3", model, batch=2))
    expected = at_once(model, batches)
    with taken(Walk(model), batches) as walk:
        walk.until(1, ["left.out"])
        assert (walk.holds("a"), walk.holds("b")) == (False, True)
        walk.until(4, everything(model))
        agree(walk, expected, ["left.out", "right.out", "sum.out", "relu.out"][1:])


def wrong_somewhere() -> Model:
    """Masked by -Inf on purpose; a root of what is negative reaches the end through three more nodes."""
    n = Net()
    x = n.op("Relu", n.gemm(n.input("x", "batch", 3), 4, name="first"), name="relu")
    hidden = n.op("Where", n.const([True, False, False, False]), n.const(np.float32(-np.inf)), x, name="mask")
    root = n.op("Sqrt", n.op("Neg", n.op("Softmax", hidden, axis=-1, name="soft"), name="minus"), name="root")
    y = n.gemm(n.op("Mul", root, x, name="times"), 4, name="second")
    n.output(n.gemm(n.op("Relu", n.op("Clip", y, name="clip")), 2, name="last"))
    return prepared(n.proto())


def test_where_nan_comes_from() -> None:
    model = wrong_somewhere()
    batches = [Batch({"x": np.float32([[1, 2, 3]])}, None, 1)] * 2
    last = next(node for node in model.graph.node if node.name == "last")
    with Walk(model) as walk:
        take_all(batches, walk, to="look at")
        walk.until(len(model.graph.node) - 1, [last.input[0]])
        with pytest.raises(UserError, match="NaN or Inf in 'root.out', which node 'root' makes"):
            list(walk.numbers(last.input[0]))


def test_where_inf_comes_from() -> None:
    model = wrong_somewhere()
    assert origin(model, Batch({"x": np.float32([[1, 2, 3]])}, None, 1), "mask.out") == (
        "'mask.out', which node 'mask' makes"
    )
    assert origin(model, Batch({"x": np.float32([[1, np.inf, 3]])}, None, 1), "relu.out") == "input 'x'"
