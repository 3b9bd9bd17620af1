"""Every form that data comes in gives the arrays that went into it, batch by batch, or says what is wrong with it."""

from __future__ import annotations

import itertools
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxprune.data import arrays, images
from onnxprune.data.preprocess import Preprocess, read_preprocess
from onnxprune.data.sources import Dataset, Request, open_data, reopened
from onnxprune.errors import UserError
from onnxprune.files.model import Model

Array = np.ndarray[Any, Any]


def model(graph: str) -> Model:
    return Model(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}'), {})


POINTS = model("(float[batch, 2] x) => (float[batch, 2] y) { y = Relu(x) }")
FOURS = model("(float[4, 2] x) => (float[4, 2] y) { y = Relu(x) }")
WIDE = model("(float[n, m] x) => (float[n, m] y) { y = Relu(x) }")
TOKENS = model("(int64[n, seq] ids, bool[n, seq] mask) => (int64[n, seq] z) { m = Cast<to = 7>(mask) z = Mul(ids, m) }")
STATEFUL = model("(float[batch, 5] x, float[2, batch, 3] h) => (float y) { y = ReduceMax(h) }")
PICTURES = model("(float[n, 3, 2, 2] x) => (float[n, 3, 2, 2] y) { y = Relu(x) }")
GRAY = model("(float[n, 1, 4, 4] x) => (float[n, 1, 4, 4] y) { y = Relu(x) }")
BYTES = model("(uint8[n, 2, 2, 3] x) => (float[n, 2, 2, 3] y) { y = Cast<to = 1>(x) }")


def numbers(*shape: int) -> Array:
    return np.arange(np.prod(shape)).reshape(shape).astype(np.float64)


def joined(data: Dataset, name: str = "x") -> Array:
    return np.concatenate([batch.feeds[name][: batch.count] for batch in data])


def labels(data: Dataset) -> list[int]:
    return [int(n) for batch in data if batch.labels is not None for n in batch.labels]


def save(path: Path, mode: str, size: tuple[int, int], pixels: Any) -> None:
    """An image of (width, height) with these pixels, row by row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size)
    image.putdata(pixels)
    image.save(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Arrays


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_an_archive_of_arrays(folder: Path, write: Callable[..., None]) -> None:
    write(folder / "a.npz", x=numbers(10, 2), labels=np.arange(10)[::-1])
    data = open_data("a.npz", POINTS, batch=4)
    for _ in range(2):
        batches = list(data)
        assert [batch.count for batch in batches] == [4, 4, 2]
        assert [batch.spare for batch in batches] == [0, 0, 0]
        assert {batch.feeds["x"].dtype for batch in batches} == {np.dtype("float32")}
        assert (joined(data) == numbers(10, 2)).all()
        assert labels(data) == list(range(10))[::-1]
    assert data.samples == 10


@pytest.mark.parametrize("name", ["labels", "label", "y"])
def test_labels_have_three_names_and_what_is_left_over_is_said(folder: Path, name: str) -> None:
    np.savez(folder / "a.npz", **{"x": numbers(3, 2), name: [2, 0, 1], "xs": [1]})
    data = open_data("a.npz", POINTS)
    assert labels(data) == [2, 0, 1]
    assert data.notes == ["not used, for no input has such a name: 'xs'"]


@pytest.mark.parametrize(
    "array",
    [
        numbers(6, 2),
        np.asfortranarray(numbers(6, 2)),
        numbers(6, 2).astype(">f4"),
        numbers(6, 2).astype(np.uint8),
        numbers(6, 2).astype(np.float16),
    ],
    ids=["plain", "columns", "big-endian", "integers", "halves"],
)
def test_an_array_however_it_is_stored(folder: Path, array: Array) -> None:
    np.save(folder / "a.npy", array)
    assert (joined(open_data("a.npy", POINTS, batch=4)) == numbers(6, 2)).all()
    taken = joined(open_data("a.npy", POINTS, limit=3))
    assert (taken == numbers(6, 2)[::2]).all()


def test_a_folder_of_files_is_one_set(folder: Path) -> None:
    np.savez(folder / "2.npz", x=numbers(8, 2)[5:], y=[5, 6, 7])
    np.savez(folder / "1.npz", x=numbers(8, 2)[:5], y=[0, 1, 2, 3, 4])
    data = open_data(folder, POINTS, batch=4)
    assert [batch.count for batch in data] == [4, 4]
    assert (joined(data) == numbers(8, 2)).all()
    assert labels(open_data(folder, POINTS, limit=4)) == [0, 2, 4, 6]
    assert open_data(folder, POINTS, limit=4).samples == 4


def test_a_model_of_one_size_gets_full_batches_and_copies_do_not_count(folder: Path) -> None:
    np.savez(folder / "a.npz", x=numbers(6, 2), labels=np.arange(6))
    first, last = open_data("a.npz", FOURS, batch=32)
    assert (first.count, first.spare, last.count, last.spare) == (4, 0, 2, 2)
    assert (last.feeds["x"] == numbers(6, 2)[[4, 5, 5, 5]]).all()
    assert last.labels is not None
    assert last.labels.tolist() == [4, 5]
    bound, _ = open_data("a.npz", POINTS, batch=32, dims={"batch": 4})
    assert bound.feeds["x"].shape == (4, 2)


def test_several_inputs_and_lengths_that_change(folder: Path) -> None:
    for i, length in enumerate((3, 3, 5)):
        ids = np.full((2, length), i, np.int32)
        np.savez(folder / f"{i}.npz", ids=ids, mask=np.ones((2, length), np.int8))
    shapes = [
        (batch.feeds["ids"].shape, batch.feeds["mask"].dtype, batch.feeds["ids"].dtype)
        for batch in open_data(folder, TOKENS)
    ]
    assert shapes == [((4, 3), np.dtype(bool), np.dtype("int64")), ((2, 5), np.dtype(bool), np.dtype("int64"))]


def test_what_is_not_stacked_comes_as_it_was_written(folder: Path) -> None:
    for i in range(3):
        np.savez(folder / f"{i}.npz", x=numbers(4, 5) + i, h=numbers(2, 4, 3), labels=[i] * 4)
    batches = list(open_data(folder, STATEFUL, batch=2, limit=5))
    assert [(batch.count, batch.feeds["h"].shape) for batch in batches] == [(4, (2, 4, 3))] * 2
    assert batches[1].feeds["x"][0, 0] == 1
    open_layers = model("(float[batch, 5] x, float[layers, batch, 3] h) => (float y) { y = ReduceMax(h) }")
    (whole,) = open_data("0.npz", open_layers, batch=2)
    assert (whole.count, whole.feeds["x"].shape, whole.feeds["h"].shape) == (4, (4, 5), (2, 4, 3))


def test_memory_holds_a_batch_and_not_the_set(folder: Path) -> None:
    np.savez_compressed(folder / "a.npz", x=np.zeros((1 << 10, 1 << 13), np.float32))
    tracemalloc.start()
    try:
        count = sum(batch.count for batch in open_data("a.npz", WIDE, batch=8))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 1 << 10
    assert peak < 2 << 20, "32 MiB would be all of it"


def test_what_is_small_can_be_kept(folder: Path) -> None:
    np.save(folder / "a.npy", numbers(6, 2).astype(np.float32))
    kept, read = (reopened(Request("a.npy", batch=4), POINTS, hold=hold) for hold in (49, 48))
    assert (joined(kept) == joined(read)).all()
    (folder / "a.npy").unlink()
    assert (joined(kept) == numbers(6, 2)).all()
    with pytest.raises(UserError, match=r"cannot read 'a\.npy'"):
        list(read)
    np.savez_compressed(folder / "a.npz", x=np.zeros((1 << 10, 1 << 13), np.float32))
    large = reopened(Request("a.npz", batch=8), WIDE, hold=1 << 20)
    tracemalloc.start()
    try:
        for _ in large:
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"x": numbers(3, 4)}, "float64 [3, 4] for input 'x' (float32 [batch, 2])"),
        ({"x": numbers(3)}, "float64 [3] for input 'x'"),
        ({"X": numbers(3, 2)}, "no array 'x', only 'X'; did you mean 'X'?; the model takes 'x' (float32 [batch, 2])"),
        ({"x": np.full((3, 2), np.nan)}, "is given NaN"),
        ({"x": np.full((3, 2), 1e300)}, "too large"),
        ({"x": np.array([["a", "b"]])}, "takes numbers, not <U1"),
        ({"x": np.zeros((3, 2), complex)}, "complex128, which is neither numbers nor text"),
        ({"x": np.array([[{}, {}]])}, "object, which is neither"),
        ({"x": numbers(0, 2)}, "holds no samples"),
        ({"x": numbers(3, 2), "labels": [1, 2]}, "labels of shape (2,) for 3 samples"),
        ({"x": numbers(3, 2), "labels": ["a", "b", "c"]}, "labels must be numbers, not <U1"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, stored: dict[str, Any], said: str) -> None:
    np.savez(folder / "a.npz", **stored)
    with pytest.raises(UserError) as error:
        list(open_data("a.npz", POINTS))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("ids", "mask", "said"),
    [
        (numbers(2, 3), np.ones((2, 3)), "'ids' (int64 [n, seq]) takes whole numbers, and is given float64"),
        (np.full((2, 3), 1 << 63, np.uint64), np.ones((2, 3), bool), "outside its range"),
        (
            np.ones((2, 3), int),
            np.full((2, 3), 2),
            "'mask' (bool [n, seq]) is given numbers outside its range (2 to 2)",
        ),
        (np.ones((2, 3), int), np.ones((2, 4), bool), "'seq' is 3 in one input and 4 in 'mask'"),
        (np.ones((2, 3), int), np.ones((5, 3), bool), "different numbers of samples: 'ids' 2, 'mask' 5"),
    ],
)
def test_no_number_is_changed_on_the_way(folder: Path, ids: Array, mask: Array, said: str) -> None:
    np.savez(folder / "a.npz", ids=ids, mask=mask)
    with pytest.raises(UserError) as error:
        list(open_data("a.npz", TOKENS))
    assert said in str(error.value)


def test_sizes_given_by_the_user_hold(folder: Path) -> None:
    np.savez(folder / "a.npz", ids=np.ones((2, 3), int), mask=np.ones((2, 3), bool))
    assert len(list(open_data("a.npz", TOKENS, dims={"seq": 3}))) == 1
    with pytest.raises(UserError, match=r"int64 \[2, 3\] for input 'ids' \(int64 \[n, 4\]\)"):
        list(open_data("a.npz", TOKENS, dims={"ids:1": 4}))
    with pytest.raises(UserError, match="no free dimension 'sqe'; did you mean 'seq'"):
        open_data("a.npz", TOKENS, dims={"sqe": 4})


def test_a_file_does_not_decide_how_much_memory_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(folder / "lies.npz", "w") as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**11, 2)})
    with pytest.raises(UserError, match="is cut short"):
        open_data("lies.npz", POINTS)
    monkeypatch.setattr(arrays, "LARGEST", 1 << 20)
    np.savez_compressed(folder / "wide.npz", x=np.zeros((8, 1 << 16), np.float32))
    assert sum(batch.count for batch in open_data("wide.npz", WIDE, batch=4)) == 8
    with pytest.raises(UserError, match="at once, where at most 0 are read; use smaller batches"):
        list(open_data("wide.npz", WIDE, batch=5))


@pytest.mark.parametrize(("name", "content"), [("a.npz", b"PK\3\4nothing"), ("a.npy", b"nothing"), ("b.npy", b"")])
def test_broken_files_are_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"cannot read '{name}'"):
        open_data(name, POINTS)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nowhere", "there is no 'nowhere'"),
        ("a\0b", "there is no 'a"),
        ("notes.txt", "neither .npy nor .npz"),
        (".", "holds no images"),
    ],
)
def test_what_is_no_data(folder: Path, spec: str, said: str) -> None:
    (folder / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=said):
        open_data(spec, PICTURES)


@pytest.mark.parametrize("options", [{"limit": 0}, {"batch": 0}, {"seed": -1}, {"batch": 2.5}, {"limit": True}])
def test_numbers_that_cannot_be(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(options))} must be a whole number"):
        open_data("random", POINTS, **options)


# Functions


def module(folder: Path, text: str) -> str:
    """A module of the user's, under a name that no other test has imported."""
    name = f"mine{next(_names)}"
    (folder / f"{name}.py").write_text(f"import numpy as np\n{text}")
    return name


_names = itertools.count()


@pytest.mark.parametrize(
    ("item", "labelled"),
    [
        ("np.full((2, 2), i)", False),
        ("{'x': np.full((2, 2), i), 'other': 1}", False),
        ("({'x': np.full((2, 2), i)}, [i, i])", True),
        ("[np.full((2, 2), i), np.array([i, i])]", True),
        ("{'x': np.full((2, 2), i), 'labels': [i, i]}", True),
    ],
)
def test_a_function_that_yields_batches(folder: Path, item: str, labelled: bool) -> None:
    name = module(folder, f"def batches():\n    for i in range(3):\n        yield {item}\n")
    before = list(sys.path)
    data = open_data(f"{name}:batches", POINTS, batch=4)
    assert data.samples is None
    for _ in range(2):
        assert [batch.count for batch in data] == [4, 2]
        assert joined(data)[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
        assert labels(data) == ([0, 0, 1, 1, 2, 2] if labelled else [])
    assert data.samples == 6
    assert sys.path == before
    assert len(joined(open_data(f"{name}:batches", POINTS, limit=3))) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def batch(): pass", "there is no 'batches' in 'NAME'; did you mean 'batch'?"),
        ("batches = 3", "'NAME:batches' is not a function"),
        ("def batches(:", "'NAME:batches' failed in"),
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("def batches():\n    yield np.ones((1, 2))\n    raise KeyError('gone')", "line 4: KeyError: 'gone'"),
        ("def batches(): yield np.ones((2, 3))", "batch 0 of 'NAME:batches' holds float64 [2, 3] for input 'x'"),
        ("def batches(): yield {'z': np.ones((2, 2))}", "batch 0 of 'NAME:batches' has no array 'x', only 'z'"),
        ("def batches(): return None", "'NAME:batches' gives NoneType, which holds no batches: it must yield them"),
        ("def batches(): raise SystemExit(3)", "line 2: SystemExit: 3"),
        ("def batches(): return []", "'NAME:batches' holds no samples"),
        (
            "def batches(): yield from [(np.ones((1, 2)), [1]), np.ones((1, 2))]",
            "labels for a part of its samples only",
        ),
    ],
)
def test_what_a_function_can_get_wrong(folder: Path, text: str, said: str) -> None:
    name = module(folder, text)
    with pytest.raises(UserError) as error:
        list(open_data(f"{name}:batches", POINTS))
    assert said.replace("NAME", name) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_module_that_is_not_there(folder: Path) -> None:
    with pytest.raises(UserError, match="there is no module 'not_a_module' in this folder or on Python's path"):
        open_data("not_a_module:batches", POINTS)


@pytest.mark.parametrize("again", ["yield np.random.rand(2, 2)", "yield np.ones((2 + len(CALLS), 2))"])
def test_data_that_changes_is_refused(folder: Path, again: str) -> None:
    name = module(folder, f"CALLS = []\ndef batches():\n    CALLS.append(1)\n    {again}\n")
    data = open_data(f"{name}:batches", POINTS)
    list(data)
    with pytest.raises(UserError, match="gives other data each time"):
        list(data)


def test_digests_tell_data_apart(folder: Path) -> None:
    for name, array in (("a", numbers(4, 2)), ("b", numbers(4, 2)), ("c", numbers(4, 2) + 1)):
        np.save(folder / f"{name}.npy", array)
    a, b, c = (open_data(f"{name}.npy", POINTS).digest for name in "abc")
    assert a == b != c


# Random numbers


def test_random_numbers() -> None:
    data = open_data("random:70", POINTS, batch=32)
    assert [batch.count for batch in data] == [32, 32, 6]
    assert (joined(data) == joined(data)).all()
    assert len(np.unique(joined(data))) == 140, "batches differ from each other"
    assert joined(open_data("random", POINTS)).shape == (64, 2)
    assert joined(open_data("random", POINTS, limit=5)).shape == (5, 2)
    assert not (joined(open_data("random:70", POINTS, seed=1)) == joined(data)).any()
    assert "random" in data.notes[0]
    assert [batch.count for batch in open_data("random:6", FOURS)] == [4, 2]
    assert [batch.feeds["h"].shape for batch in open_data("random:5", STATEFUL, batch=3)] == [(2, 3, 3)] * 2
    for spec in ("random:0", "random:999999999"):
        with pytest.raises(UserError, match="number of samples must be 1 to"):
            open_data(spec, POINTS)


# Images


def test_pixels_become_what_the_input_takes(folder: Path) -> None:
    pixels = [(0, 51, 102), (153, 204, 255), (10, 20, 30), (40, 50, 60)]
    save(folder / "photos/a.png", "RGB", (2, 2), pixels)
    plain = np.array(pixels, np.float32).reshape(2, 2, 3)
    (batch,) = open_data("photos", PICTURES)
    assert batch.labels is None
    np.testing.assert_allclose(batch.feeds["x"][0], plain.transpose(2, 0, 1) / 255, rtol=1e-6)

    def fed(given: Model = PICTURES, **how: Any) -> Array:
        (found,) = open_data("photos", given, preprocess=Preprocess(**how))
        first: Array = found.feeds["x"][0]
        return first

    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    expected = ((plain / 255 - np.array(mean)) / np.array(std)).transpose(2, 0, 1)
    np.testing.assert_allclose(fed(mean=mean, std=std), expected, atol=1e-6)
    np.testing.assert_allclose(fed(scale=1.0, color="bgr"), plain[..., ::-1].transpose(2, 0, 1), rtol=1e-6)
    np.testing.assert_allclose(fed(mean=(0.5,), std=(0.5,)), plain.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)
    assert fed(BYTES).dtype == np.uint8
    assert (fed(BYTES) == plain).all()


def test_images_are_covered_and_cut_evenly(folder: Path) -> None:
    save(folder / "photos/wide.png", "L", (8, 4), [10 * (i % 8) for i in range(32)])
    (batch,) = open_data("photos", GRAY, preprocess=Preprocess(scale=1))
    assert (batch.feeds["x"][0, 0] == [20, 30, 40, 50]).all(), "the middle four of eight columns, not scaled"
    save(folder / "big/a.png", "L", (8, 8), [7] * 64)
    free = model("(float[n, 1, h, w] x) => (float y) { y = ReduceMax(x) }")
    (own,) = open_data("big", free)
    (small,) = open_data("big", free, preprocess=Preprocess(size=(3, 5), scale=1))
    assert own.feeds["x"].shape == (1, 1, 8, 8)
    assert small.feeds["x"].shape == (1, 1, 3, 5)
    assert (small.feeds["x"] == 7).all()


def test_class_folders_are_labels(folder: Path) -> None:
    for i, name in enumerate(("dog/1.png", "cat/2.png", "cat/more/1.png", "emu/1.PNG")):
        save(folder / "photos" / name, "RGB", (2, 2), [(i, i, i)] * 4)
    (folder / "photos/cat/notes.txt").write_text("no image")
    (folder / "photos/cat/._2.png").write_text("what macOS leaves")
    data = open_data("photos", PICTURES, preprocess=Preprocess(scale=1))
    assert labels(data) == [0, 0, 1, 2]
    assert joined(data)[:, 0, 0, 0].tolist() == [1, 2, 0, 3]
    assert data.classes == 3
    assert labels(open_data("photos", PICTURES, limit=2)) == [0, 1]
    assert (joined(open_data(folder, PICTURES)) == joined(open_data("photos", PICTURES))).all(), "alone: gone into"


def test_folders_that_mislead(folder: Path) -> None:
    for name in ("train/cat/1.png", "val/cat/1.png"):
        save(folder / "split" / name, "RGB", (2, 2), [(0, 0, 0)] * 4)
    with pytest.raises(UserError, match="holds train and val, which are no classes"):
        open_data("split", PICTURES)
    save(folder / "split/1.png", "RGB", (2, 2), [(0, 0, 0)] * 4)
    with pytest.raises(UserError, match="holds 1 images beside folders with 2 more"):
        open_data("split", PICTURES)
    np.save(folder / "split/a.npy", numbers(2, 2))
    with pytest.raises(UserError, match="both images and arrays"):
        open_data("split", PICTURES)
    for name in ("2", "10"):
        save(folder / "numbered" / name / "1.png", "RGB", (2, 2), [(0, 0, 0)] * 4)
    assert open_data("numbered", PICTURES).notes == [
        "class folders are numbered in order of their names as text, 10 before 2"
    ]


def test_an_archive_of_images_is_read_where_it_lies(folder: Path) -> None:
    save(folder / "a.png", "RGB", (2, 2), [(255, 255, 255)] * 4)
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for name in ("set/cat/1.png", "set/../../dog/1.png", "set/readme.md"):
            archive.write(folder / "a.png", name)
    (folder / "a.png").unlink()
    before = sorted(folder.rglob("*"))
    data = open_data("photos.zip", PICTURES)
    assert labels(data) == [0, 1]
    assert (joined(data) == 1).all()
    assert sorted(folder.rglob("*")) == before
    (folder / "broken.zip").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot read 'broken.zip'"):
        open_data("broken.zip", PICTURES)


def test_images_that_cannot_be_read_are_counted_and_named(folder: Path) -> None:
    save(folder / "photos/good.png", "RGB", (2, 2), [(0, 0, 0)] * 4)
    whole = (folder / "photos/good.png").read_bytes()
    (folder / "photos/cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "photos/text.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0")
    save(folder / "photos/deep.png", "I;16", (2, 2), [60000] * 4)
    data = open_data("photos", PICTURES)
    assert sum(batch.count for batch in data) == 1
    assert data.notes[0].startswith("3 of 4 images cannot be read and are left out: cut.png (")
    assert "deep.png (its pixels are I;16, not 8 bits per channel)" in data.notes[0]
    (folder / "photos/good.png").unlink()
    with pytest.raises(UserError, match="'photos' holds no samples; 3 of 3 images cannot be read"):
        list(open_data("photos", PICTURES))


def test_images_that_are_not_even_tried(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(folder / "bomb/a.png", "L", (64, 64), [0] * 4096)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)  # above it Pillow warns, above twice of it refuses
    with pytest.raises(UserError, match="decompression bomb"):
        list(open_data("bomb", GRAY))
    (folder / "other").mkdir()
    Image.new("L", (4, 4)).save(folder / "other/a.png", format="PCX")
    with pytest.raises(UserError, match="no image of a known format"):
        list(open_data("other", GRAY))
    (folder / "links").mkdir()
    (folder / "links/a.png").symlink_to("nothing")
    with pytest.raises(UserError, match="no regular file"):
        list(open_data("links", GRAY))
    save(folder / "large/a.png", "L", (4, 4), [0] * 16)
    monkeypatch.setattr(images, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="MiB are too many"):
        list(open_data("large", GRAY))


@pytest.mark.parametrize(
    ("given", "how", "said"),
    [
        ("float[n, 4, 8, 8] x", {}, "does not show where its channels are"),
        ("float[n, 3, 3, 3] x", {}, "give the layout, nchw or nhwc"),
        ("float[n, 4, 8, 8] x", {"layout": "nchw"}, "takes 4 channels as nchw, and color rgb makes 3"),
        ("float[n, 3, 8, 8] x", {"color": "gray"}, "takes 3 channels as nchw, and color gray makes 1"),
        ("float[n, 3, 8, 8] x", {"size": (4, 8)}, "size 4x8 does not fit"),
        ("float[n, 3, 8, w] x", {}, "leaves one side of the images open"),
        ("float[n, 1, 8, 8] x", {"mean": (1, 2, 3)}, "mean has 3 numbers, and color gray makes 1"),
        ("uint8[n, 3, 8, 8] x", {"mean": (1,)}, "mean, std and scale are for floats"),
        ("float[n, 3, 8] x", {}, "images need an input of 4 axes"),
        ("float[n, 3, 8, 8] x, float[n] s", {}, "feeds a model of one input"),
    ],
)
def test_what_the_input_does_not_show_is_asked_for(folder: Path, given: str, how: dict[str, Any], said: str) -> None:
    save(folder / "photos/a.png", "RGB", (2, 2), [(0, 0, 0)] * 4)
    with pytest.raises(UserError) as error:
        open_data("photos", model(f"({given}) => (float y) {{ y = Identity(x) }}"), preprocess=Preprocess(**how))
    assert said in str(error.value)


def test_preprocessing_is_for_images(folder: Path) -> None:
    np.save(folder / "a.npy", numbers(2, 2))
    with pytest.raises(UserError, match="mean, std, size, layout and color are for images"):
        open_data("a.npy", POINTS, preprocess=Preprocess(mean=(0.5,)))
    assert len(list(open_data("a.npy", POINTS, preprocess=Preprocess()))) == 1


def test_preprocessing_from_a_file(folder: Path) -> None:
    path = folder / "p.toml"
    path.write_text('size = 224\nmean = [0.485, 0.456, 0.406]\nstd = 0.5\ncolor = "bgr"\nlayout = "nhwc"\nscale = 1\n')
    expected = Preprocess((224, 224), (0.485, 0.456, 0.406), (0.5,), "nhwc", "bgr", 1)
    assert read_preprocess(path) == expected
    path.write_text("size = [2, 3]\n")
    assert read_preprocess(path) == Preprocess(size=(2, 3))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sise = 3", "unknown key 'sise'; did you mean 'size'"),
        ("size = 0", "size must be two whole numbers"),
        ("size = [3, true]", "size must be two whole numbers"),
        ("mean = [1, 2]", "mean must be one number, or one for each channel, not (1, 2)"),
        ("mean = inf", "mean must be one number"),
        ("std = [1, 0, 1]", "std must be other than 0"),
        ("layout = 'chwn'", "layout must be nchw or nhwc, not 'chwn'"),
        ("color = 3", "color must be rgb or bgr or gray, not 3"),
        ("scale = 0", "scale must be a number above 0"),
        ("scale", "not valid TOML"),
    ],
)
def test_preprocessing_that_cannot_be(folder: Path, text: str, said: str) -> None:
    (folder / "p.toml").write_text(text)
    with pytest.raises(UserError) as error:
        read_preprocess("p.toml")
    assert str(error.value).startswith("'p.toml'")
    assert said in str(error.value)


def test_images_need_pillow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UserError, match=r"pip install 'onnxprune\[images\]'"):
        open_data(folder, PICTURES)


def test_text(folder: Path) -> None:
    """Words from a file or made up; objects that are no words are refused."""
    words = model("(string[n] t) => (string[n] y) { y = Identity(t) }")
    np.savez(folder / "a.npz", t=np.array(["one", "two", "three"]))
    assert [list(batch.feeds["t"]) for batch in open_data("a.npz", words)] == [["one", "two", "three"]]
    for batch in open_data("random:3", words):
        assert all(isinstance(word, str) for word in batch.feeds["t"])
    name = module(folder, "def batches(): yield {'t': np.array([1, 'b'], object)}")
    with pytest.raises(UserError, match=r"input 't' \(text \[n\]\) takes text, not object"):
        list(open_data(f"{name}:batches", words))
