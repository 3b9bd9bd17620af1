"""Images that nobody took: noise with the spectrum of natural images, for calibration without data.

Neighbouring pixels of photographs are alike, and so are their colours; the power of a spatial frequency f falls like
1 / f^2 to 1 / f^3. White noise has neither, and drives a network into places where no image does. So the noise is given
amplitudes of 1 / f^1.5, and most of it is shared by the colours; mean 0 and variance 1, as inputs mostly are scaled.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

WITHOUT_DATA = 512
"""Samples where people name none."""
SLOPE = 1.5
"""Of the amplitudes over frequency."""
OWN = 0.4
"""How much of a colour is its own, against what all share."""
LEAST = 8
"""Pixels that an axis of an image has at least."""
COLORS = 4
"""Channels that an image has at most."""


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether an input of this shape holds images: (N, C, H, W) or (N, H, W, C) with few channels."""
    return len(shape) == 4 and any(_fits(shape, axis) for axis in (1, 3))


def images(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Noise of this shape that is as smooth as photographs."""
    last = not _fits(shape, 1)
    number, height, width, colors = (shape[i] for i in ((0, 1, 2, 3) if last else (0, 2, 3, 1)))
    down, across = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    frequency = np.hypot(down, across)
    frequency[0, 0] = 1 / max(height, width)
    shared, own = (_noise(number, channels, frequency, rng) for channels in (1, colors))
    mixed = shared + OWN * own
    mixed /= mixed.std()
    return np.ascontiguousarray(np.moveaxis(mixed, 1, 3) if last else mixed, dtype=np.float32)


def _noise(number: int, channels: int, frequency: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    white = rng.standard_normal((number, channels, *frequency.shape))
    smooth = np.fft.ifft2(np.fft.fft2(white) * frequency**-SLOPE).real
    return np.asarray(smooth / smooth.std())


def _fits(shape: tuple[int, ...], channel: int) -> bool:
    sides = [size for axis, size in enumerate(shape) if axis not in (0, channel)]
    return 0 < shape[channel] <= COLORS and min(sides) >= LEAST
