"""Which samples make up which step is a function of seed and epoch; nothing is lost and nothing comes twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import image_model

from onnxprune.data.preprocess import Preprocess
from onnxprune.data.sources import open_data
from onnxprune.errors import UserError
from onnxprune.training.augment import Augment, draw
from onnxprune.training.feed import Feed
from onnxprune.training.recipe import Recipe
from onnxprune.training.samples import Decoded, Held, Raw, Samples, Streamed, samples_of

CPU = torch.device("cpu")


def numbered(count: int) -> Held:
    return Held(Raw((np.arange(count, dtype=np.float32)[:, None],), np.arange(count)))


def steps(samples: Samples, recipe: Recipe, epoch: int, rank: int = 0, ranks: int = 1) -> list[list[int]]:
    batches = Feed(("x",), CPU).training(samples, recipe, epoch, rank, ranks)
    return [batch.labels.tolist() for batch in batches if batch.labels is not None]


def test_an_epoch_takes_every_sample_once_and_drops_the_rest() -> None:
    found = steps(numbered(22), Recipe(batch=5, seed=1), 0)
    assert [len(step) for step in found] == [5, 5, 5, 5]
    assert len({x for step in found for x in step}) == 20
    assert found == steps(numbered(22), Recipe(batch=5, seed=1), 0)
    assert found != steps(numbered(22), Recipe(batch=5, seed=1), 1)
    assert found != steps(numbered(22), Recipe(batch=5, seed=2), 0)
    assert sorted(found[0]) != found[0]


def test_processes_share_each_step() -> None:
    alone = steps(numbered(40), Recipe(batch=8), 3)
    parts = [steps(numbered(40), Recipe(batch=4), 3, rank, 2) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == alone


def test_too_few_samples_are_taken_again() -> None:
    (step,) = steps(numbered(3), Recipe(batch=8), 0)
    assert len(step) == 8
    assert set(step) == {0, 1, 2}


def test_measuring_is_in_order_and_complete() -> None:
    feed = Feed(("x",), CPU, fixed=4)
    batches = list(feed.measuring(numbered(10), 256))
    assert [batch.count for batch in batches] == [4, 4, 2]
    assert [len(batch.inputs["x"]) for batch in batches] == [4, 4, 4]  # the model takes nothing else
    assert batches[-1].inputs["x"][:, 0].tolist() == [8, 9, 9, 9]
    parts = [list(Feed(("x",), CPU).measuring(numbered(10), 4, rank, 2)) for rank in range(2)]
    assert [[batch.count for batch in part] for part in parts] == [[4, 2], [4]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "photos" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (10, 8, 3), np.uint8)).save(folder / f"{number:02d}.png")
    return tmp_path / "photos"


HOW = Preprocess(size=(8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), color="bgr")


def test_images_are_what_measuring_sees(photos: Path) -> None:
    data = open_data(photos, image_model(), preprocess=HOW)
    held, _ = samples_of(data)
    decoded, notes = samples_of(data, hold=100)
    assert isinstance(held, Held)
    assert held.raw.arrays[0].dtype == np.uint8
    assert isinstance(decoded, Decoded)
    assert "decoded in every epoch" in notes[-1]
    (expected,) = list(data)
    feed = Feed(("image",), CPU)
    for samples in (held, decoded):
        (batch,) = feed.measuring(samples, 32)
        assert np.array_equal(batch.inputs["image"].numpy(), expected.feeds["image"])
        assert batch.labels is not None
        assert batch.labels.tolist() == expected.labels.tolist()
    orders = [
        [raw.labels.tolist() for raw in each.shuffled(np.random.default_rng(0), 5, slice(0, 5))]
        for each in (held, decoded)
    ]
    assert orders[0] == orders[1]
    assert held.digest != decoded.digest


def test_a_broken_image_is_left_out_and_its_step_stays_full(photos: Path) -> None:
    (photos / "cat/00.png").write_bytes(b"nothing")
    data = open_data(photos, image_model(), preprocess=HOW)
    held, notes = samples_of(data)
    assert held.count == 11
    assert "1 of 12 images cannot be read" in notes[0]
    decoded, _ = samples_of(data, hold=100)
    found = list(decoded.shuffled(np.random.default_rng(0), 12, slice(0, 12)))
    assert [len(raw) for raw in found] == [12]
    assert sum(map(len, decoded.ordered(4))) == 11


def test_arrays_that_do_not_fit_are_streamed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.random((50, 3, 8, 8), np.float32), np.arange(50)
    np.savez(tmp_path / "x.npz", image=images, labels=labels)
    data = open_data(tmp_path / "x.npz", image_model(), batch=7)
    held, _ = samples_of(data)
    assert isinstance(held, Held)
    assert np.array_equal(held.raw.arrays[0], images)
    streamed, _ = samples_of(data, hold=20 * images[0].nbytes)
    assert isinstance(streamed, Streamed)
    assert (streamed.count, streamed.labelled, streamed.window) == (50, True, 20)
    found = steps(streamed, Recipe(batch=5), 0)
    assert sorted(x for step in found for x in step) == list(range(50))
    assert all(x < 20 for step in found[:4] for x in step)
    assert found == steps(streamed, Recipe(batch=5), 0) != steps(streamed, Recipe(batch=5), 1)
    assert found[0] != [0, 1, 2, 3, 4]


def test_several_shapes_are_refused(tmp_path: Path) -> None:
    for size in (8, 16):
        np.save(tmp_path / f"{size}.npy", np.zeros((4, 3, size, size), np.float32))
    data = open_data(tmp_path, image_model(size=None))
    with pytest.raises(UserError, match=r"samples of shapes \[\(3, 16, 16\)\] and \[\(3, 8, 8\)\]"):
        samples_of(data)


def test_images_of_any_size_need_one(photos: Path) -> None:
    with pytest.raises(UserError, match="give --size"):
        samples_of(open_data(photos, image_model(size=None)))


def pixels(count: int = 64) -> torch.Tensor:
    return torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(0)) * 255


def drawn(count: int = 64) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return draw(np.random.default_rng(0), count, slice(None))


def test_flip_turns_half_of_them() -> None:
    images = pixels()
    made = Augment(flip=True).apply(images, drawn(), 255)
    same = (made == images).flatten(1).all(1)
    turned = (made == images.flip(-1)).flatten(1).all(1)
    assert (same ^ turned).all()
    assert 16 < int(same.sum()) < 48


def test_crop_moves_within_a_black_frame() -> None:
    images = pixels()
    made = Augment(crop=2).apply(images, drawn(), 255)
    framed = torch.nn.functional.pad(images, (2, 2, 2, 2))
    windows = [framed[:, :, i : i + 8, j : j + 8] for i in range(5) for j in range(5)]
    found = torch.stack([(made == window).flatten(1).all(1) for window in windows])
    assert (found.sum(0) == 1).all()
    assert int(found.any(1).sum()) > 20  # nearly all of the 25 places occur


def test_jitter_and_cutout_do_what_they_say() -> None:
    images = pixels()
    made = Augment(jitter=0.5).apply(images, drawn(), 255)
    assert 0 <= float(made.min()) < float(made.max()) <= 255
    assert not torch.equal(made, images)
    gray = pixels().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    tinted = Augment(jitter=0.5).apply(gray, drawn(), 255)
    assert torch.allclose(tinted[:, 0], tinted[:, 2], atol=1e-2)  # gray stays gray
    hidden = Augment(cutout=4).apply(images, drawn(), 255)
    changed = (hidden != images).any(1).sum((1, 2))
    assert int(changed.max()) == 16
    assert int(changed.min()) >= 4  # a corner at least


def test_augmentation_needs_images() -> None:
    flat = Held(Raw((np.zeros((8, 5), np.float32),), np.zeros(8, np.int64)))
    with pytest.raises(UserError, match="flip, crop"):
        list(Feed(("x",), CPU, Augment(flip=True)).training(flat, Recipe(batch=4), 0))
    images = Held(Raw((np.zeros((8, 3, 4, 4), np.float32),), np.zeros(8, np.int64)))
    with pytest.raises(UserError, match="which value is white"):
        list(Feed(("x",), CPU, Augment(jitter=0.1)).training(images, Recipe(batch=4), 0))
