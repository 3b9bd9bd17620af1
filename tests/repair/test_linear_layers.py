"""Every form against onnxruntime: rows times matrix plus bias is what the layer makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from building import F, Net
from onnx import TensorProto, helper
from oracle import opened, prepared

from onnxprune.execution import runtime
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.repair.linear_layers import (
    FEWEST_ROWS,
    MOST_ROWS,
    ROWS_BEYOND,
    Layer,
    Rows,
    layers,
    matrices,
    rows_for,
    stored,
)

Array = np.ndarray[Any, Any]
CLOSE = 1e-5
"""Of the largest output."""
ALL = 1 << 20
RNG = np.random.default_rng(0)


def ran(model: Model, feeds: dict[str, Array], *names: str) -> dict[str, Array]:
    """These tensors as onnxruntime makes them."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    there = {item.name for item in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    return runtime.run(runtime.session(model.replace(proto=proto)), feeds)


def feeds_of(model: Model) -> dict[str, Array]:
    shapes = {item.name: [d.dim_value or 3 for d in item.type.tensor_type.shape.dim] for item in model.graph.input}
    return {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def gap(model: Model, layer: Layer, feeds: dict[str, Array]) -> float:
    """The largest difference between rows times matrix and the layer's output, relative to the largest output."""
    x_is_fed = layer.x in feeds
    made = ran(model, feeds, layer.y, *([] if x_is_fed else [layer.x]))
    x, y = feeds[layer.x] if x_is_fed else made[layer.x], made[layer.y]
    shape = model.weights[layer.weight].shape
    assert layer.makes(x.shape, shape) == y.shape
    rows = Rows(layer, y.shape, ALL, np.random.default_rng(0))
    found = matrices(layer, model.weights)
    read = rows.read(x, shape)
    assert read.shape == (layer.groups, y.size // layer.outputs(shape), layer.features(shape))
    computed = read @ found.weight.transpose(0, 2, 1) + found.bias[:, None, :]
    wanted = rows.made(y)
    assert computed.shape == wanted.shape
    assert np.abs(wanted).max() > 0.1, "something comes out"
    return float(np.abs(computed - wanted).max() / np.abs(wanted).max())


def same_again(model: Model, layer: Layer) -> bool:
    """Whether what is stored is what was there, bit by bit."""
    kept = stored(layer, matrices(layer, model.weights), model.weights)
    assert set(kept) == {layer.weight, *([layer.bias] if layer.bias else [])}
    return all(
        tensor.name == name
        and tensor.dtype == TensorProto.FLOAT
        and np.array_equal(tensor.array(), _array(model, name))
        for name, tensor in kept.items()
    )


def _array(model: Model, name: str) -> Array:
    return model.weights[name].array()


def convolution(shape: tuple[int, ...], kind: str, out: int, kernel: tuple[int, ...], bias: bool, **more: Any) -> Model:
    n = Net()
    x, group = n.image(*shape), more.get("group", 1)
    form = (out, shape[1] // group) if kind == "Conv" else (shape[1], out // group)
    w = n.weight(*form, *kernel, name="w")
    n.output(n.op(kind, x, w, *([n.weight(out, name="b")] if bias else []), name="layer", **more))
    return prepared(n.proto())


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], str, int, tuple[int, ...], bool, dict[str, Any]]] = {
    "1x1": ((2, 4, 5, 6), "Conv", 3, (1, 1), True, {}),
    "1x1-strides": ((2, 4, 7, 6), "Conv", 3, (1, 1), False, {"strides": [2, 3]}),
    "3x3": ((2, 4, 5, 6), "Conv", 3, (3, 3), True, {}),
    "padded": ((2, 4, 5, 6), "Conv", 3, (3, 3), False, {"pads": [1, 1, 1, 1]}),
    "lopsided": ((2, 4, 5, 6), "Conv", 3, (3, 2), True, {"pads": [0, 2, 1, 3], "strides": [2, 1]}),
    "pads-beyond-the-kernel": ((2, 4, 5, 6), "Conv", 3, (2, 2), True, {"pads": [3, 2, 4, 5], "strides": [2, 3]}),
    "dilated": ((2, 4, 9, 8), "Conv", 3, (3, 3), True, {"dilations": [2, 3], "pads": [2, 3, 1, 0], "strides": [1, 2]}),
    "stride-leaves-a-rest": ((2, 3, 8, 8), "Conv", 4, (3, 3), True, {"strides": [3, 3]}),
    "grouped": ((2, 6, 5, 5), "Conv", 4, (3, 3), True, {"group": 2, "pads": [1, 1, 1, 1]}),
    "depthwise": ((2, 6, 5, 5), "Conv", 6, (3, 3), True, {"group": 6, "pads": [1, 1, 1, 1]}),
    "depthwise-twice": ((2, 3, 5, 5), "Conv", 6, (3, 3), False, {"group": 3}),
    "1d": ((2, 4, 11), "Conv", 3, (5,), True, {"strides": [2], "pads": [3, 1], "dilations": [2]}),
    "3d": ((2, 2, 4, 5, 6), "Conv", 3, (2, 3, 1), True, {"strides": [1, 2, 2], "pads": [1, 0, 0, 0, 1, 2]}),
    "same-upper": ((2, 4, 5, 8), "Conv", 3, (2, 4), True, {"auto_pad": "SAME_UPPER", "strides": [1, 3]}),
    "same-lower": ((2, 4, 5, 8), "Conv", 3, (2, 4), True, {"auto_pad": "SAME_LOWER", "strides": [1, 3]}),
    "same-of-a-wide-stride": ((2, 4, 7, 8), "Conv", 3, (1, 2), True, {"auto_pad": "SAME_UPPER", "strides": [3, 4]}),
    "valid": ((2, 4, 5, 8), "Conv", 3, (2, 3), True, {"auto_pad": "VALID", "strides": [1, 2]}),
    "one-place": ((2, 4, 3, 3), "Conv", 3, (3, 3), True, {}),
    "one-channel": ((2, 1, 5, 5), "Conv", 1, (3, 3), True, {}),
    "up-2": ((2, 4, 3, 5), "ConvTranspose", 6, (2, 2), True, {"strides": [2, 2]}),
    "up-no-stride": ((2, 4, 3, 5), "ConvTranspose", 6, (3, 3), False, {}),
    "up-padded": ((2, 4, 3, 5), "ConvTranspose", 6, (4, 3), True, {"strides": [2, 2], "pads": [1, 0, 2, 1]}),
    "up-more": (
        (2, 4, 3, 5),
        "ConvTranspose",
        6,
        (3, 3),
        True,
        {"strides": [2, 3], "pads": [1, 1, 1, 1], "output_padding": [1, 2]},
    ),
    "up-dilated": (
        (2, 4, 3, 5),
        "ConvTranspose",
        6,
        (3, 2),
        True,
        {"strides": [2, 1], "dilations": [2, 3], "pads": [1, 2, 0, 1], "output_padding": [1, 0]},
    ),
    "up-cut-beyond-the-kernel": (
        (2, 4, 6, 6),
        "ConvTranspose",
        3,
        (2, 2),
        True,
        {"strides": [2, 2], "pads": [3, 2, 2, 4]},
    ),
    "up-grouped": ((2, 6, 3, 4), "ConvTranspose", 4, (3, 3), True, {"group": 2, "strides": [2, 2]}),
    "up-depthwise": ((2, 6, 3, 4), "ConvTranspose", 6, (2, 2), True, {"group": 6, "strides": [2, 2]}),
    "up-gaps": ((2, 4, 3, 3), "ConvTranspose", 5, (2, 2), True, {"strides": [3, 4]}),
    "up-valid": ((2, 4, 3, 3), "ConvTranspose", 5, (3, 3), True, {"strides": [2, 2], "auto_pad": "VALID"}),
    "up-1d": ((2, 4, 7), "ConvTranspose", 3, (5,), True, {"strides": [3], "pads": [1, 2]}),
    "up-3d": ((2, 2, 3, 2, 4), "ConvTranspose", 3, (2, 3, 1), True, {"strides": [2, 1, 2], "pads": [0, 1, 0, 1, 0, 0]}),
}


@pytest.mark.parametrize("form", CONVOLUTIONS)
def test_convolutions(form: str) -> None:
    shape, kind, out, kernel, bias, more = CONVOLUTIONS[form]
    model = convolution(shape, kind, out, kernel, bias, **more)
    (layer,) = layers(model)
    assert (layer.weight, layer.bias) == ("w", "b" if bias else None)
    assert gap(model, layer, feeds_of(model)) < CLOSE
    assert same_again(model, layer)


def random_convolution(rng: np.random.Generator) -> tuple[Any, ...]:
    rank = int(rng.integers(1, 4))
    kind = str(rng.choice(["Conv", "ConvTranspose"]))
    group = int(rng.choice([1, 1, 2, 3]))
    kernel = rng.integers(1, 4, rank)
    strides, dilations, pads = rng.integers(1, 4, rank), rng.integers(1, 3, rank), rng.integers(0, 3, 2 * rank)
    sizes = rng.integers(4, 8, rank)
    more = {"group": group, "strides": strides.tolist(), "dilations": dilations.tolist(), "pads": pads.tolist()}
    if kind == "ConvTranspose":
        more["output_padding"] = [int(rng.integers(0, stride)) for stride in strides]
    shape = (2, group * int(rng.integers(1, 3)), *sizes.tolist())
    return shape, kind, group * int(rng.integers(1, 3)), tuple(kernel.tolist()), bool(rng.integers(2)), more


def test_convolutions_at_random() -> None:
    rng = np.random.default_rng(1)
    tried = 0
    for _ in range(120):
        shape, kind, out, kernel, bias, more = random_convolution(rng)
        model = convolution(shape, kind, out, kernel, bias, **more)
        (layer,) = layers(model)
        made = layer.makes(shape, model.weights["w"].shape)
        assert made is not None
        if min(made) < 1:
            continue  # nothing comes out
        assert gap(model, layer, feeds_of(model)) < CLOSE, (shape, kind, out, kernel, bias, more)
        assert same_again(model, layer)
        tried += 1
    assert tried > 100


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("bias", [None, (5,), (1, 5)])
def test_gemm(turned: int, bias: tuple[int, ...] | None) -> None:
    n = Net()
    w = n.weight(*((5, 4) if turned else (4, 5)), name="w")
    more = [n.weight(*bias, name="b")] if bias else []
    n.output(n.op("Gemm", n.image("batch", 4), w, *more, transB=turned))
    model = prepared(n.proto())
    (layer,) = layers(model)
    assert (layer.bias, layer.channel) == ("b" if bias else None, -1)
    assert gap(model, layer, feeds_of(model)) < CLOSE
    assert same_again(model, layer)


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("bias", [None, (5,), (1, 5)])
def test_matmul(rank: int, first: bool, bias: tuple[int, ...] | None) -> None:
    n = Net()
    y = n.op("MatMul", n.image(*range(2, rank + 1), 4), n.weight(4, 5, name="w"), name="product")
    if bias:
        b = n.weight(*bias, name="b")
        y = n.op("Add", *((b, y) if first else (y, b)), name="add")
    n.output(y)
    model = prepared(n.proto())
    (layer,) = layers(model)
    assert (layer.bias, layer.y) == ("b" if bias else None, y)
    assert gap(model, layer, feeds_of(model)) < CLOSE
    assert same_again(model, layer)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Gemm"])
def test_a_normalisation_behind_is_part_of_the_layer(kind: str) -> None:
    n = Net()
    if kind == "Gemm":
        y = n.op("Gemm", n.image(3, 4), n.weight(4, 6, name="w"))
    else:
        form = (6, 4) if kind == "Conv" else (4, 6)
        y = n.op(kind, n.image(2, 4, 5, 5), n.weight(*form, 3, 3, name="w"))
    n.output(n.op("Relu", n.norm(y, name="bn")))
    model = prepared(n.proto())
    (layer,) = layers(model)
    assert (layer.bias, layer.y) == ("bn.bias", "bn.out")
    assert gap(model, layer, feeds_of(model)) < CLOSE
    kept = stored(layer, matrices(layer, model.weights), model.weights)
    assert set(kept) == {"w", "bn.bias"}
    for name, tensor in kept.items():
        np.testing.assert_allclose(tensor.array(), _array(model, name), rtol=1e-6)


def test_what_a_normalisation_stores_is_what_was_solved() -> None:
    """Other matrices, stored and read again: what onnxruntime makes is their product."""
    n = Net()
    n.output(n.norm(n.conv(n.image(2, 4, 5, 5), 6, 3, bias=False, name="conv"), name="bn"))
    model = prepared(n.proto())
    (layer,) = layers(model)
    old = matrices(layer, model.weights)
    rng = np.random.default_rng(3)
    new = type(old)(rng.standard_normal(old.weight.shape), rng.standard_normal(old.bias.shape), old.factor)
    changed = model.replace(weights={**model.weights, **stored(layer, new, model.weights)})
    again = matrices(layer, changed.weights)
    np.testing.assert_allclose(again.weight, new.weight, rtol=1e-6)
    np.testing.assert_allclose(again.bias, new.bias, rtol=1e-5, atol=1e-6)
    assert gap(changed, layer, feeds_of(model)) < CLOSE


def test_channels_that_a_normalisation_hides_keep_their_weights() -> None:
    n = Net()
    n.output(n.norm(n.conv(n.image(2, 4, 5, 5), 6, 3, bias=False, name="conv"), name="bn"))
    model = prepared(n.proto())
    scale = _array(model, "bn.weight").copy()
    scale[[1, 4]] = 0, 1e-9
    model = model.replace(weights={**model.weights, "bn.weight": Tensor.of("bn.weight", scale)})
    (layer,) = layers(model)
    found = matrices(layer, model.weights)
    assert found.free.tolist() == [[True, False, True, True, False, True]]
    kept = stored(layer, found, model.weights)
    np.testing.assert_allclose(kept["conv.weight"].array(), _array(model, "conv.weight"), rtol=1e-6)
    moved = stored(layer, type(found)(found.weight + 1, found.bias, found.factor), model.weights)["conv.weight"].array()
    still = np.isclose(moved, _array(model, "conv.weight")).all(axis=(1, 2, 3))
    assert still.tolist() == [False, True, False, False, True, False]
    nothing = np.zeros_like(scale)
    dead = model.replace(weights={**model.weights, "bn.weight": Tensor.of("bn.weight", nothing)})
    assert not matrices(layer, dead.weights).free.any()
    assert same_again(dead, layer)


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1)])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_an_add_behind_a_convolution_is_its_bias(kind: str, shape: tuple[int, ...]) -> None:
    n = Net()
    form = (6, 4) if kind == "Conv" else (4, 6)
    y = n.op(kind, n.image(2, 4, 5, 5), n.weight(*form, 3, 3, name="w"))
    n.output(n.op("Add", y, n.weight(*shape, name="b", scale=0.5)))
    model = prepared(n.proto())
    (layer,) = layers(model)
    assert layer.bias == "b"
    assert gap(model, layer, feeds_of(model)) < CLOSE
    assert same_again(model, layer)


def test_a_bias_along_another_axis_is_none() -> None:
    for shape in ((5,), (5, 5), (1, 5, 1), (2, 1, 1, 1)):
        n = Net()
        y = n.op("Conv", n.image(2, 4, 7, 7), n.weight(5, 4, 3, 3, name="w"), name="conv")
        n.output(n.op("Add", y, n.weight(*shape, name="b")))
        model = prepared(n.proto())
        (layer,) = layers(model)
        assert (layer.bias, layer.y) == (None, "conv.out")
        assert gap(model, layer, feeds_of(model)) < CLOSE


def found_in(build: Any) -> list[Layer]:
    n = Net()
    build(n, n.image(2, 4, 6, 6))
    return layers(prepared(n.proto()))


def test_forms_that_are_left_out() -> None:
    def flat(n: Net, x: str) -> str:
        return n.op("Flatten", x, axis=1)

    forms: dict[str, Any] = {
        "a weight that is computed": lambda n, x: n.output(n.op("Conv", x, n.op("Tanh", n.weight(3, 4, 1, 1)))),
        "a weight of halves": lambda n, x: n.output(
            n.op("Cast", n.op("Conv", n.op("Cast", x, to=10), n.const(np.ones((3, 4, 1, 1)), np.float16)), to=F)
        ),
        "a weight that comes out": lambda n, x: n.output(n.op("Conv", x, n.weight(3, 4, 1, 1, name="w")), "w"),
        "a bias that comes out": lambda n, x: n.output(
            n.op("Conv", x, n.weight(3, 4, 1, 1), n.weight(3, name="b")), "b"
        ),
        "a bias that is computed": lambda n, x: n.output(
            n.op("Conv", x, n.weight(9, 4, 1, 1), n.op("Tanh", n.weight(9)))
        ),
        "matrices one by one": lambda n, x: n.output(n.op("MatMul", x, n.weight(2, 4, 6, 5))),
        "a weight on the left": lambda n, x: n.output(n.op("MatMul", n.weight(5, 6), x)),
        "a vector": lambda n, x: n.output(n.op("MatMul", x, n.weight(6))),
        "a transposed input": lambda n, x: n.output(n.op("Gemm", flat(n, x), n.weight(2, 5), transA=1)),
        "alpha": lambda n, x: n.output(n.op("Gemm", flat(n, x), n.weight(144, 5), alpha=0.5)),
        "beta": lambda n, x: n.output(n.op("Gemm", flat(n, x), n.weight(144, 5), n.weight(5), beta=0.5)),
        "a bias per row": lambda n, x: n.output(n.op("Gemm", flat(n, x), n.weight(144, 5), n.weight(2, 1))),
        "a bias for all": lambda n, x: n.output(n.op("Gemm", flat(n, x), n.weight(144, 5), n.weight(1))),
        "implied padding": lambda n, x: n.output(
            n.op("ConvTranspose", x, n.weight(4, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])
        ),
        "an output shape": lambda n, x: n.output(
            n.op("ConvTranspose", x, n.weight(4, 3, 3, 3), output_shape=[13, 12], strides=[2, 2])
        ),
    }
    for name, build in forms.items():
        assert found_in(build) == [], name
    assert len(found_in(lambda n, x: n.output(n.op("Conv", x, n.weight(3, 4, 1, 1))))) == 1


def test_weights_that_somebody_else_reads() -> None:
    def twice(n: Net, x: str) -> None:
        w = n.weight(4, 4, 1, 1)
        n.output(n.op("Conv", n.op("Conv", x, w, name="a"), w, name="b"))

    def bias_for_two(n: Net, x: str) -> None:
        b = n.weight(4, name="b")
        y = n.op("Conv", x, n.weight(4, 4, 1, 1), b, name="conv")
        n.output(n.op("Add", y, n.op("Reshape", b, n.ints(1, 4, 1, 1))))

    def by_a_body(n: Net, x: str) -> None:
        w = n.weight(4, 4, 1, 1, name="w")
        y = n.op("Conv", x, w, name="conv")
        body = helper.make_graph(
            [helper.make_node("Conv", [x, "w"], ["inner"])], "body", [], [onnx.ValueInfoProto(name="inner")]
        )
        other = helper.make_graph(
            [helper.make_node("Identity", [x], ["same"])], "other", [], [onnx.ValueInfoProto(name="same")]
        )
        (z,) = n.ops("If", 1, n.const(True, np.bool_), then_branch=body, else_branch=other)
        n.output(n.op("Add", y, z))

    for build in (twice, bias_for_two, by_a_body):
        n = Net()
        build(n, n.image(2, 4, 6, 6))
        assert layers(opened(n.proto())) == []


def test_a_product_that_somebody_else_reads_has_no_tail() -> None:
    def comes_out(n: Net, x: str) -> None:
        y = n.op("Conv", x, n.weight(4, 4, 1, 1), name="conv")
        n.output(n.norm(y), y)

    def read_twice(n: Net, x: str) -> None:
        y = n.op("Conv", x, n.weight(4, 4, 1, 1), name="conv")
        n.output(n.op("Add", n.norm(y), y))

    def read_by_a_body(n: Net, x: str) -> None:
        y = n.op("Conv", x, n.weight(4, 4, 1, 1), name="conv")
        bodies = [
            helper.make_graph([helper.make_node(kind, [y], [kind])], kind, [], [onnx.ValueInfoProto(name=kind)])
            for kind in ("Neg", "Abs")
        ]
        (z,) = n.ops("If", 1, n.const(True, np.bool_), then_branch=bodies[0], else_branch=bodies[1])
        n.output(n.op("Add", n.norm(y), z))

    def in_training(n: Net, x: str) -> None:
        y = n.op("Conv", x, n.weight(4, 4, 1, 1), name="conv")
        n.output(
            n.op(
                "BatchNormalization",
                y,
                *(n.positive(4) for _ in range(4)),
                name="bn",
                training_mode=1,
                made=(2, 4, 6, 6),
            )
        )

    def twice_the_same(n: Net, x: str) -> None:
        y = n.op("Conv", x, n.weight(4, 4, 1, 1), name="conv")
        n.output(n.op("Add", y, y))

    for build in (comes_out, read_twice, read_by_a_body, in_training, twice_the_same):
        (layer,) = found_in(build)
        assert (layer.y, layer.bias) == ("conv.out", None), build.__name__


def test_a_default_that_a_caller_may_replace_is_a_weight() -> None:
    n = Net()
    n.output(n.op("Conv", n.image(2, 4, 6, 6), n.weight(3, 4, 1, 1, name="w")))
    proto = n.proto()
    proto.graph.input.append(helper.make_tensor_value_info("w", F, (3, 4, 1, 1)))
    assert [layer.weight for layer in layers(prepared(proto))] == ["w"]
    assert [layer.x for layer in layers(opened(proto))] == ["image"]


def test_an_input_of_one_axis_has_no_rows() -> None:
    n = Net()
    n.output(n.op("MatMul", n.image(4), n.weight(4, 5)))
    (layer,) = layers(prepared(n.proto()))
    assert layer.makes((4,), (4, 5)) is None
    assert layer.makes((3, 4), (4, 5)) == (3, 5)


def test_some_rows_are_the_same_of_input_and_output() -> None:
    model = convolution((3, 4, 9, 8), "Conv", 6, (3, 3), True, group=2, pads=[1, 1, 1, 1], strides=[2, 1])
    (layer,) = layers(model)
    feeds = feeds_of(model)
    y = ran(model, feeds, layer.y)[layer.y]
    every, some = (Rows(layer, y.shape, most, np.random.default_rng(5)) for most in (ALL, 50))
    found = matrices(layer, model.weights)
    read, made = some.read(feeds["image"], model.weights["w"].shape), some.made(y)
    assert read.shape == (2, 50, 18)
    assert made.shape == (2, 50, 3)
    np.testing.assert_allclose(read @ found.weight.transpose(0, 2, 1) + found.bias[:, None], made, atol=1e-5)
    where = [int(np.flatnonzero((every.made(y)[0] == row).all(axis=1))[0]) for row in made[0]]
    assert where == sorted(set(where)), "each at most once, and in order"
    assert where[0] < 40 and where[-1] > 80, "from everywhere"  # noqa: PT018


def test_how_many_rows() -> None:
    assert rows_for(9) == FEWEST_ROWS
    assert rows_for(100) == 256 * 100
    assert rows_for(9216) == MOST_ROWS
    assert rows_for(9217) == ROWS_BEYOND
