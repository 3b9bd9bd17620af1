"""Images that nobody took: as smooth as they should be, the same for the same seed, and of use."""

from __future__ import annotations

import numpy as np
import pytest

import onnxprune
from onnxprune.data.synthetic import SLOPE, images, is_image
from onnxprune.models_zoo import digits


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 3, 32, 32), True),
        ((4, 1, 8, 8), True),
        ((4, 64, 48, 3), True),
        ((4, 64, 32, 32), False),
        ((4, 3, 4, 4), False),
        ((4, 3, 32), False),
        ((4, 0, 32, 32), False),
    ],
)
def test_what_looks_like_images(shape: tuple[int, ...], expected: bool) -> None:
    assert is_image(shape) is expected


def test_the_spectrum_falls_as_it_should() -> None:
    made = images((64, 1, 64, 64), np.random.default_rng(0))
    power = np.abs(np.fft.fft2(made[:, 0])).mean(axis=0)[0, 1:32]
    slope = np.polyfit(np.log(np.arange(1, 32)), np.log(power), 1)[0]
    assert slope == pytest.approx(-SLOPE, abs=0.1)


def test_scale_colours_and_layout() -> None:
    made = images((200, 3, 32, 32), np.random.default_rng(1))
    assert made.dtype == np.float32
    assert made.std() == pytest.approx(1, abs=1e-3)
    red, green = made[:, 0].ravel(), made[:, 1].ravel()
    assert 0.7 < np.corrcoef(red, green)[0, 1] < 0.95
    assert images((2, 16, 24, 3), np.random.default_rng(1)).shape == (2, 16, 24, 3)
    again = images((200, 3, 32, 32), np.random.default_rng(1))
    assert (made == again).all()


def test_as_data_of_a_model() -> None:
    model = onnxprune.load(digits.model_path())
    first, second = (
        np.concatenate([batch.feeds["image"] for batch in onnxprune.open_data("synthetic:6", model, batch=4)])
        for _ in range(2)
    )
    assert first.shape == (6, 1, 8, 8)
    assert (first == second).all()
    noise = np.concatenate([batch.feeds["image"] for batch in onnxprune.open_data("random:6", model, batch=4)])
    rough = [np.abs(np.diff(x, axis=3)).mean() / x.std() for x in (first, noise)]
    assert rough[0] < 0.7 * rough[1]
