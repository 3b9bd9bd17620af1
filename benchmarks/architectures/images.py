"""Image networks in plain torch that no library of classifiers has: decoders, super-resolution, generators, mixers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812  everybody's name for it
from torch import nn

from architectures.case import BATCH, IMAGE, Architecture, Case


def _block(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(a, b, 3, padding=1, bias=False),
        nn.BatchNorm2d(b),
        nn.ReLU(),
        nn.Conv2d(b, b, 3, padding=1, bias=False),
        nn.BatchNorm2d(b),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Skips are concatenated; upsampling is learned, or interpolation to the size of the skip."""

    def __init__(self, *, learned: bool) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(3, 16), _block(16, 24), _block(24, 32)])
        self.bottom = _block(32, 48)
        self.rise = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 2, 2) if learned else nn.Conv2d(a, b, 1) for a, b in ((48, 32), (32, 24), (24, 16))
        )
        self.up = nn.ModuleList([_block(64, 32), _block(48, 24), _block(32, 16)])
        self.head = nn.Conv2d(16, 3, 1)
        self.learned = learned

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for block in self.down:
            skips.append(block(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.bottom(x)
        for rise, block in zip(self.rise, self.up, strict=True):
            skip = skips.pop()
            x = rise(x)
            if not self.learned:
                x = F.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([skip, x], 1))
        out: torch.Tensor = self.head(x)
        return out


class EDSR(nn.Module):
    """Residual blocks without normalisation, a long skip, pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 32, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(32, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 32, 3, padding=1)) for _ in range(3)
        )
        self.tail = nn.Sequential(
            nn.Conv2d(32, 128, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(32, 12, 3, padding=1), nn.PixelShuffle(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = first = self.head(x)
        for block in self.body:
            x = x + 0.5 * block(x)
        out: torch.Tensor = self.tail(x + first)
        return out


class CARN(nn.Module):
    """Cascading: everything so far is concatenated and squeezed; grouped convolutions, pixel shuffle of a group."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 32, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(32, 32, 3, padding=1, groups=4), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1, groups=4)
            )
            for _ in range(3)
        )
        self.squeeze = nn.ModuleList(nn.Conv2d(32 * (i + 2), 32, 1) for i in range(3))
        self.rise = nn.Sequential(nn.Conv2d(32, 128, 3, padding=1, groups=4), nn.ReLU(), nn.PixelShuffle(2))
        self.tail = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x)
        seen = x
        for block, squeeze in zip(self.blocks, self.squeeze, strict=True):
            seen = torch.cat([seen, (block(x) + x).relu()], 1)
            x = squeeze(seen).relu()
        out: torch.Tensor = self.tail(self.rise(x))
        return out


class StyleTransfer(nn.Module):
    """Reflection padding, instance normalisation, residual blocks, nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()

        def conv(a: int, b: int, kernel: int, stride: int = 1) -> list[nn.Module]:
            return [
                nn.ReflectionPad2d(kernel // 2),
                nn.Conv2d(a, b, kernel, stride),
                nn.InstanceNorm2d(b, affine=True),
            ]

        self.down = nn.Sequential(*conv(3, 16, 9), nn.ReLU(), *conv(16, 32, 3, 2), nn.ReLU(), *conv(32, 48, 3, 2))
        self.body = nn.ModuleList(nn.Sequential(*conv(48, 48, 3), nn.ReLU(), *conv(48, 48, 3)) for _ in range(2))
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2),
            *conv(48, 32, 3),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            *conv(32, 16, 3),
            nn.ReLU(),
            nn.ReflectionPad2d(4),
            nn.Conv2d(16, 3, 9),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(x).relu()
        for block in self.body:
            x = x + block(x)
        out: torch.Tensor = self.up(x)
        return out


class DDPMBlock(nn.Module):
    """Group normalisation, the time added per channel, a projected skip."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, a), nn.SiLU(), nn.Conv2d(a, b, 3, padding=1))
        self.time = nn.Linear(64, b)
        self.second = nn.Sequential(nn.GroupNorm(8, b), nn.SiLU(), nn.Conv2d(b, b, 3, padding=1))
        self.skip = nn.Conv2d(a, b, 1) if a != b else nn.Identity()

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.first(x) + self.time(time)[:, :, None, None]
        out: torch.Tensor = self.second(h) + self.skip(x)
        return out


class PixelAttention(nn.Module):
    """Attention among the pixels, q, k and v from one convolution."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.qkv, self.out, self.heads = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1), heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
        weights = torch.einsum("bhcn,bhcm->bhnm", q, k).mul((c // self.heads) ** -0.5).softmax(-1)
        mixed = torch.einsum("bhnm,bhcm->bhcn", weights, v).reshape(b, c, h, w)
        out: torch.Tensor = x + self.out(mixed)
        return out


class DDPM(nn.Module):
    """A small denoising UNet: sinusoidal time embedding, attention at the bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64))
        self.inward = nn.Conv2d(3, 32, 3, padding=1)
        self.down = nn.ModuleList([DDPMBlock(32, 32), DDPMBlock(32, 48)])
        self.shrink = nn.ModuleList([nn.Conv2d(32, 32, 3, 2, 1), nn.Conv2d(48, 48, 3, 2, 1)])
        self.middle, self.attention = DDPMBlock(48, 48), PixelAttention(48, 4)
        self.up = nn.ModuleList([DDPMBlock(96, 48), DDPMBlock(80, 32)])
        self.head = nn.Sequential(nn.GroupNorm(8, 32), nn.SiLU(), nn.Conv2d(32, 3, 3, padding=1))
        self.register_buffer("frequencies", torch.exp(-torch.arange(16) * 0.5))

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        angles = timestep[:, None] * self.frequencies
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        x = self.inward(x)
        skips = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            x = block(x, time)
            skips.append(x)
            x = shrink(x)
        x = self.attention(self.middle(x, time))
        for block in self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, skips.pop()], 1), time)
        out: torch.Tensor = self.head(x)
        return out


class Modulated(nn.Module):
    """StyleGAN2's convolution: the style scales the weight's inputs, which is then demodulated; a sample is a group."""

    def __init__(self, a: int, b: int, *, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(b, a, 3, 3))
        self.bias = nn.Parameter(torch.randn(b))
        self.style = nn.Linear(32, a)
        self.demodulate = demodulate

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        batch, a, height, width = x.shape
        weight = self.weight[None] * self.style(style)[:, None, :, None, None]
        if self.demodulate:
            weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        weight = weight.reshape(-1, a, 3, 3)
        y = F.conv2d(x.reshape(1, -1, height, width), weight, padding=1, groups=batch)
        return y.reshape(batch, -1, height, width) + self.bias[None, :, None, None]


class ModulatedInputs(nn.Module):
    """The same, computed on the activations: scale the input, convolve, scale the output."""

    def __init__(self, a: int, b: int, *, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(b, a, 3, 3))
        self.bias = nn.Parameter(torch.randn(b))
        self.style = nn.Linear(32, a)
        self.demodulate = demodulate

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        scale = self.style(style)
        y = F.conv2d(x * scale[:, :, None, None], self.weight, padding=1)
        if self.demodulate:
            power = scale.square() @ self.weight.square().sum((2, 3)).t()
            y = y * (power + 1e-8).rsqrt()[:, :, None, None]
        return y + self.bias[None, :, None, None]


class StyleGAN(nn.Module):
    """Mapping network, learned constant, modulated convolutions, an image summed up over resolutions."""

    def __init__(self, conv: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(24, 40), nn.LeakyReLU(0.2), nn.Linear(40, 32), nn.LeakyReLU(0.2))
        self.constant = nn.Parameter(torch.randn(1, 32, 4, 4))
        self.convs = nn.ModuleList(conv(a, b) for a, b in ((32, 32), (32, 24), (24, 16)))
        self.pictures = nn.ModuleList(conv(b, 3, demodulate=False) for b in (32, 24, 16))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        style = self.mapping(z)
        x = self.constant.expand(z.size(0), -1, -1, -1)
        image: torch.Tensor | int = 0
        for conv, picture in zip(self.convs, self.pictures, strict=True):
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2.0, mode="bilinear"), style), 0.2)
            before = image if isinstance(image, int) else F.interpolate(image, scale_factor=2.0, mode="bilinear")
            image = before + picture(x, style)
        assert not isinstance(image, int)
        return image


class DCGAN(nn.Module):
    """Transposed convolutions from a vector to a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(24, 48, 4),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.ConvTranspose2d(48, 32, 4, 2, 1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 3, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(z[:, :, None, None])
        return out


class VAE(nn.Module):
    """Encoder to mean and deviation, decoder from a given noise."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()
        )
        self.moments = nn.Linear(32 * 64, 40)
        self.inward = nn.Linear(20, 32 * 64)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Sigmoid()
        )

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        mean, spread = self.moments(self.encoder(x)).chunk(2, 1)
        z = mean + noise * (0.1 * spread).exp()
        out: torch.Tensor = self.decoder(self.inward(z).relu().unflatten(1, (32, 8, 8)))
        return out


class MixerBlock(nn.Module):
    """Tokens mixed, then channels."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.tokens = nn.Sequential(nn.Linear(tokens, 24), nn.GELU(), nn.Linear(24, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        out: torch.Tensor = x + self.channels(self.norms[1](x))
        return out


class Mixer(nn.Module):
    """MLP-Mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.blocks = nn.Sequential(MixerBlock(16, 32), MixerBlock(16, 32))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        out: torch.Tensor = self.head(self.norm(x).mean(1))
        return out


class Hourglass(nn.Module):
    """Pose estimation: a small hourglass with heat maps, and the expected position of each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(3, 24)
        self.inner, self.low = _block(24, 32), _block(32, 24)
        self.heat = nn.Conv2d(24, 5, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x)
        low = self.low(self.inner(F.avg_pool2d(x, 2)))
        heat = self.heat(x + F.interpolate(low, scale_factor=2.0, mode="nearest"))
        weights = heat.flatten(2).softmax(-1).unflatten(2, heat.shape[2:])
        columns = torch.linspace(0, 1, 32)
        return heat, torch.stack([(weights.sum(2) * columns).sum(-1), (weights.sum(3) * columns).sum(-1)], -1)


class SpatialTransformer(nn.Module):
    """A localisation net whose answer warps features through grid_sample."""

    def __init__(self) -> None:
        super().__init__()
        self.features = _block(3, 24)
        self.where = nn.Sequential(
            nn.Conv2d(3, 16, 7, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 6)
        )
        self.tail = nn.Sequential(nn.Conv2d(24, 32, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        theta = self.where(x).view(-1, 2, 3)
        line = torch.linspace(-1, 1, 32)
        points = torch.stack([*torch.meshgrid(line, line, indexing="xy"), torch.ones(32, 32)], -1).view(-1, 3)
        grid = torch.matmul(points, theta.transpose(1, 2)).view(-1, 32, 32, 2)
        warped = F.grid_sample(self.features(x), grid, align_corners=False)
        out: torch.Tensor = self.head(self.tail(warped))
        return out


def _picture(
    network: Callable[[], nn.Module],
    size: int,
    exporter: str,
    *,
    free: bool = False,
    noise: int = 0,
    steps: bool = False,
) -> Case:
    inputs = {"image": torch.randn(2, 3, size, size)}
    dynamic = {"image": IMAGE if free else BATCH}
    if noise:
        inputs["noise"], dynamic["noise"] = torch.randn(2, noise), BATCH
    if steps:
        inputs["timestep"], dynamic["timestep"] = torch.tensor([3.0, 8.0]), BATCH
    return Case(network(), inputs, dynamic)


def _latent(network: Callable[[], nn.Module], exporter: str) -> Case:
    return Case(network(), {"z": torch.randn(2, 24)}, {"z": BATCH})


_NETS: dict[str, Callable[[str], Case]] = {
    "unet_transposed": partial(_picture, partial(UNet, learned=True), 64),
    "unet_resized": partial(_picture, partial(UNet, learned=False), 64, free=True),
    "edsr": partial(_picture, EDSR, 32, free=True),
    "carn": partial(_picture, CARN, 32, free=True),
    "style_transfer": partial(_picture, StyleTransfer, 64, free=True),
    "ddpm_unet": partial(_picture, DDPM, 32, steps=True),
    "stylegan": partial(_latent, partial(StyleGAN, Modulated)),
    "stylegan_inputs": partial(_latent, partial(StyleGAN, ModulatedInputs)),
    "dcgan": partial(_latent, DCGAN),
    "vae": partial(_picture, VAE, 32, noise=20),
    "mlp_mixer": partial(_picture, Mixer, 32),
    "hourglass_pose": partial(_picture, Hourglass, 32),
    "spatial_transformer": partial(_picture, SpatialTransformer, 32),
}
ARCHITECTURES = tuple(Architecture(name, build, "images") for name, build in _NETS.items())
