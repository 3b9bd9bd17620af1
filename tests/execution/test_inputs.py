"""Shapes, values and fall-backs of generated inputs, on models small enough to know what is right."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from onnxprune.errors import UserError
from onnxprune.execution.inputs import parse_dims, random_feeds, runnable_feeds
from onnxprune.execution.runtime import session
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.dims import default_dims
from onnxprune.graph.symbols import evaluate, names


def model(graph: str, **weights: Any) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}')
    return Model(proto, {name: Tensor.of(name, array) for name, array in weights.items()})


def shapes(feeds: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in feeds.items()}


IMAGE = "(float[batch, 3, height, width] x) => (float[a, b, c, d] y) { y = Relu(x) }"
TEXT = """(int64[batch, seq] input_ids, int64[batch, seq] attention_mask, int64[batch, seq] position_ids,
           int64[batch, seq] token_type_ids) => (float[a, b, c] y, int64[batch, seq] z)
          { ids = Cast<to = 6>(input_ids) y = Gather(table, ids) s = Add(attention_mask, position_ids)
            z = Add(s, token_type_ids) }"""


@pytest.fixture
def text() -> Model:
    return model(TEXT, table=np.zeros((7, 4), np.float32))


def anonymous(rank: int) -> Model:
    """An input whose axes are all called `?`, as some exporters do."""
    made = model(f"(float[{', '.join('?' * rank)}] x) => (float y) {{ y = Relu(x) }}".replace("?", "q"))
    for dim in made.graph.input[0].type.tensor_type.shape.dim:
        dim.dim_param = "?"
    return made


def test_pixels() -> None:
    assert shapes(random_feeds(model(IMAGE))) == {"x": (1, 3, 224, 224)}
    assert shapes(random_feeds(model(IMAGE), batch=2, dims={"height": 5})) == {"x": (2, 3, 5, 224)}


def test_equal_names_get_equal_sizes_and_unknown_ones_do_not() -> None:
    assert default_dims(anonymous(4)) == {"x:0": 1, "x:1": 3, "x:2": 224, "x:3": 224}
    assert shapes(random_feeds(anonymous(4), dims={"x:2": 7})) == {"x": (1, 3, 7, 224)}
    twice = model("(float[n, s0] x, float[s0, s0, 2] z) => (float y) { y = Relu(x) }")
    assert shapes(random_feeds(twice, dims={"s0": 3})) == {"x": (1, 3), "z": (3, 3, 2)}
    assert shapes(random_feeds(twice, dims={"z:1": 3})) == {"x": (1, 3), "z": (3, 3, 2)}


def test_text(text: Model) -> None:
    feeds = random_feeds(text)
    assert set(shapes(feeds).values()) == {(1, 16)}
    ids = feeds["input_ids"]
    assert ids.min() >= 0
    assert 2 <= ids.max() < 7, "below the table's 7 rows, and not only 0 and 1"
    assert (feeds["attention_mask"] == 1).all()
    assert feeds["position_ids"].tolist() == [list(range(16))]
    assert (feeds["token_type_ids"] == 0).all()
    runnable_feeds(text)


def test_table_of_another_axis_and_several_tables() -> None:
    graph = "(int64[n] i) => (float y, float z) { y = Gather<axis = 1>(wide, i) z = Gather(long, i) }"
    both = model(graph, wide=np.zeros((2, 5), np.float32), long=np.zeros((9, 2), np.float32))
    ids = random_feeds(both, dims={"n": 400})["i"]
    assert sorted(set(ids.tolist())) == [0, 1, 2, 3, 4]


def test_an_offset_index_keeps_within_the_table() -> None:
    shifted = model(
        "(int64[n, seq] i) => (float y) { j = Add(i, four) y = Gather(table, j) }",
        four=np.array(4), table=np.zeros((6, 2), np.float32),
    )  # fmt: skip
    assert set(random_feeds(shifted)["i"].ravel().tolist()) <= {0, 1}
    runnable_feeds(shifted)


def test_past_and_arithmetic() -> None:
    cached = model(
        """(int64[batch, sequence_length] ids, int64[batch, "past_sequence_length + sequence_length"] attention_mask,
            float[batch, 2, past_sequence_length, 8] past_key_values_0_key, float[batch, total_length] total)
           => (float y) { y = Relu(total) }""".replace('"past_sequence_length + sequence_length"', "sum")
    )
    cached.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "past_sequence_length + sequence_length"
    feeds = random_feeds(cached, dims={"sequence_length": 4})
    assert shapes(feeds) == {
        "ids": (1, 4), "attention_mask": (1, 20), "past_key_values_0_key": (1, 2, 16, 8), "total": (1, 20),
    }  # fmt: skip


def test_a_mask_without_names_covers_the_past_too() -> None:
    cached = model(
        "(int64[s0, s1] ids, int64[s0, s2] mask, float[s0, 2, s3, 8] past_key) => (float y) { y = Relu(past_key) }"
    )
    assert default_dims(cached) == {"s0": 1, "s1": 16, "s2": 32, "s3": 16}


def test_symbols() -> None:
    assert names("past + 2*s0") == ("past", "s0")
    assert evaluate("(h//32)*8 - 1", {"h": 64}) == 15
    assert evaluate("a - b", {"a": 1, "b": 5}) == 1, "a size is at least 1"
    for plain in ("batch-size", "DynamicDimension.0", "floor(h/2)", "h/2", "s0", "a ** b", "3"):
        assert names(plain) == (plain,)


def test_readers_fix_what_the_type_leaves_open() -> None:
    w = np.zeros((4, 5, 3, 3), np.float32)
    pixels_last = model(
        "(float[n, h, w, c] x) => (float y) { t = Transpose<perm = [0, 3, 1, 2]>(x) y = Conv<group = 2>(t, k) }", k=w
    )
    assert shapes(random_feeds(pixels_last)) == {"x": (1, 224, 224, 10)}
    assert shapes(random_feeds(model("(float x) => (float y) { y = Relu(x) }"))) == {"x": ()}
    dense = model("(float[n, f] x) => (float y) { t = Sub(x, m) y = Gemm<transB = 1>(t, k) }", k=w[0, 0], m=w[0, 0, 0])
    assert shapes(random_feeds(dense)) == {"x": (1, 3)}
    recurrent = model("(float[t, n, f] x) => (float y) { y = LSTM<hidden_size = 1>(x, k, r) }", k=w[:, :, 0], r=w)
    assert shapes(random_feeds(recurrent)) == {"x": (16, 1, 3)}


def test_unknown_rank() -> None:
    made = model("(float x) => (float y) { y = Conv(x, k) }", k=np.zeros((4, 6, 3), np.float32))
    made.graph.input[0].type.tensor_type.ClearField("shape")
    assert shapes(random_feeds(made)) == {"x": (1, 6, 16)}
    other = model("(float x) => (float y) { y = Relu(x) }")
    other.graph.input[0].type.tensor_type.ClearField("shape")
    assert shapes(random_feeds(other, dims={"x:2": 5, "x:1": 4})) == {"x": (1, 4, 5)}


@pytest.mark.parametrize(
    "dtype", ["float16", "float", "double", "bfloat16", "int8", "uint8", "int32", "int64", "bool", "string"]
)
def test_types(dtype: str) -> None:
    made = model(f"({dtype}[n, 3] x, {dtype} s) => ({dtype}[n, 3] y, {dtype} z) {{ y = Identity(x) z = Identity(s) }}")
    feeds = runnable_feeds(made).feeds
    wanted = {"float": "float32", "double": "float64", "string": "O", "bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    assert {array.dtype for array in feeds.values()} == {np.dtype(wanted)}


def test_bytes_are_pixels_and_masks_that_hide_are_false() -> None:
    made = model("(uint8[1, 8, 8, 3] x, bool[n, s] key_padding_mask, bool[n, s] mask) => (uint8 y) { y = Identity(x) }")
    feeds = random_feeds(made)
    assert feeds["x"].max() > 200
    assert not feeds["key_padding_mask"].any()
    assert feeds["mask"].all()


def test_lengths_and_sizes() -> None:
    made = model(
        """(float[t, n, 3] x, int32[n] lengths, float[1, 2] im_shape, int64 sr, float timestep) => (float y)
           { y = LSTM<hidden_size = 1>(x, k, r, , lengths) }""",
        k=np.zeros((1, 4, 3), np.float32), r=np.zeros((1, 4, 1), np.float32),
    )  # fmt: skip
    feeds = random_feeds(made, dims={"t": 9})
    assert feeds["lengths"].tolist() == [9]
    assert feeds["im_shape"].tolist() == [[224, 224]]
    assert feeds["sr"] == 16000
    assert 0 < feeds["timestep"] <= 1


def test_seed() -> None:
    one, again, other = (random_feeds(model(IMAGE), seed=seed, dims={"height": 8})["x"] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert abs(float(one.std()) - 1) < 0.1
    more = model(IMAGE.replace("(float[batch", "(float[2] first, float[batch", 1))
    assert np.array_equal(random_feeds(more, seed=1, dims={"height": 8})["x"], one), "other inputs change nothing"


FIXED = IMAGE[: IMAGE.index("{")] + "{{ s = Constant<value = int64[2] {{1, {size}}}>() y = Reshape(x, s) }}"


def test_goes_on_until_onnxruntime_runs() -> None:
    found = runnable_feeds(model(FIXED.format(size=3 * 64 * 64)))
    assert found.dims == {"batch": 1, "height": 64, "width": 64}
    assert shapes(found.feeds) == {"x": (1, 3, 64, 64)}
    tall = runnable_feeds(model(FIXED.format(size=3 * 64 * 256)), dims={"height": 256})
    assert tall.dims == {"batch": 1, "height": 256, "width": 64}


def test_gives_up_with_advice(capfd: pytest.CaptureFixture[str]) -> None:
    impossible = model(FIXED.format(size=7))
    with pytest.raises(UserError) as caught:
        runnable_feeds(impossible, session(impossible))
    message = str(caught.value)
    assert "\n" not in message
    for part in ("--dim 'height=N'", "--dim 'batch=N'", "x['batch', 3, 'height', 'width']", "height=224", "Reshape"):
        assert part in message
    with pytest.raises(UserError, match=r"^onnxruntime cannot run the model on random inputs: .*Reshape"):
        runnable_feeds(impossible, dims={"batch": 1, "height": 2, "width": 2})
    assert capfd.readouterr().err == "", "failed attempts are quiet"


def test_session_is_opened_once_and_few_bindings_are_tried() -> None:
    class Broken:
        tries = 0

        def run(self, *_: object) -> None: ...

        def run_with_ort_values(self, *_: object) -> None:
            Broken.tries += 1
            raise RuntimeError("no\nsecond line")

    with pytest.raises(UserError, match=r"no$"):
        runnable_feeds(model(IMAGE), lambda: Broken())
    assert 3 <= Broken.tries <= 6


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("batch", "write NAME=SIZE"),
        ("=4", "write NAME=SIZE"),
        ("batch=four", "'four' is not a whole number"),
        ("batch=2.5", "'2.5' is not a whole number"),
        ("batch=0", "must be at least 1"),
        ("batch=-1", "must be at least 1"),
        ("batsh=4", "no free dimension 'batsh'; did you mean 'batch'"),
        ("zzz=4", "the free ones are batch, height, width"),
        ("x:1=4", "'x:1' is fixed at 3"),
    ],
)
def test_dim_option_mistakes(item: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_dims([item], model(IMAGE))


def test_dim_option() -> None:
    assert parse_dims(["batch=4", " x:2 = 8"], model(IMAGE)) == {"batch": 4, "x:2": 8}
    assert parse_dims(["a + 1=4"]) == {"a + 1": 4}
    assert parse_dims(["seq=4", "batch=2"], model(IMAGE), model(TEXT)) == {"seq": 4, "batch": 2}
    with pytest.raises(UserError, match="given twice, as 1 and as 2"):
        parse_dims(["batch=1", "batch=2"])


def test_dims_that_do_not_exist_are_not_ignored() -> None:
    with pytest.raises(UserError, match="did you mean 'height'"):
        random_feeds(model(IMAGE), dims={"heigth": 3})


@pytest.mark.parametrize("size", [0, -1, 2**31, 10**30, 1.5])
def test_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(UserError, match="dimension 'batch': .* is not possible, the size must be at (least|most)"):
        random_feeds(model(IMAGE), dims={"batch": size})


def test_dims_that_are_no_mapping() -> None:
    with pytest.raises(UserError, match="dims must map names to sizes"):
        random_feeds(model(IMAGE), dims="batch=2")  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize("size", [10**6, 2**31, 2**62])
def test_inputs_that_would_fill_the_memory(size: int) -> None:
    huge = model(f"(float[1, {size}, {size}] x) => (float y) {{ y = Relu(x) }}")
    with pytest.raises(UserError, match=r"input 'x' of shape \[1, .* would take .* GiB"):
        random_feeds(huge)
    with pytest.raises(UserError, match=r"input 'x' of shape \[1, .* would take .* GiB"):
        runnable_feeds(huge)


def test_a_guess_that_would_fill_the_memory_is_not_the_last() -> None:
    """224 by 224 pixels of 20000 channels take 4 GB, 64 by 64 of them a third of one."""
    tall = model("(float[batch, height, width, 20000] x) => (float y) { y = ReduceMax(x) }")
    with pytest.raises(UserError, match="would take"):
        random_feeds(tall)
    assert runnable_feeds(tall).dims == {"batch": 1, "height": 64, "width": 64}


def test_other_than_tensors() -> None:
    made = model("(float[2] x) => (float y) { y = Relu(x) }")
    made.graph.input[0].type.CopyFrom(onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(1, None)))
    with pytest.raises(UserError, match="input 'x' is not a tensor but sequence"):
        random_feeds(made)
    made.graph.input[0].type.CopyFrom(onnx.helper.make_optional_type_proto(onnx.helper.make_tensor_type_proto(1, None)))
    with pytest.raises(UserError, match="input 'x' is not a tensor but optional"):
        random_feeds(made)


def test_initializers_are_not_fed() -> None:
    made = model("(float[2] x, float[2] w) => (float y) { y = Add(x, w) }", w=np.zeros(2, np.float32))
    assert list(random_feeds(made)) == ["x"]
