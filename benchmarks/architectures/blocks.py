"""One small residual network with each block that papers put between its convolutions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812  everybody's name for it
from torch import nn

from architectures.case import BATCH, IMAGE, Architecture, Case


class SE(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, width // 4), nn.Linear(width // 4, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.up(self.down(x.mean((2, 3))).relu()).sigmoid()
        return x * scale[:, :, None, None]


class CBAM(nn.Module):
    """Channel attention from mean and maximum, spatial attention from mean and maximum over channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(width, width // 4, 1), nn.ReLU(), nn.Conv2d(width // 4, width, 1))
        self.spatial = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * (self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1))).sigmoid()
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * self.spatial(both).sigmoid()  # type: ignore[no-any-return]  # nn.Module


class ECA(nn.Module):
    """A convolution along the channels: their order counts, so nothing of them can go."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.mean((2, 3))[:, None]
        return x * self.conv(y).sigmoid().transpose(1, 2)[..., None]  # type: ignore[no-any-return]  # nn.Module


class CoordAtt(nn.Module):
    """Rows and columns pooled apart, concatenated, squeezed and split again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze, self.norm = nn.Conv2d(width, 8, 1), nn.BatchNorm2d(8)
        self.rows, self.columns = nn.Conv2d(8, width, 1), nn.Conv2d(8, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height = x.size(2)
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)
        both = F.hardswish(self.norm(self.squeeze(torch.cat([rows, columns], 2))))
        rows, columns = both[:, :, :height], both[:, :, height:].transpose(2, 3)
        return x * self.rows(rows).sigmoid() * self.columns(columns).sigmoid()  # type: ignore[no-any-return]


class NonLocal(nn.Module):
    """Attention over positions with three narrow convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(width, width // 2, 1) for _ in range(3))
        self.out = nn.Conv2d(width // 2, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (conv(x).flatten(2) for conv in (self.q, self.k, self.v))
        weights = torch.bmm(q.transpose(1, 2), k).softmax(-1)
        mixed = torch.bmm(v, weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        out: torch.Tensor = x + self.out(mixed)
        return out


class SplitAttention(nn.Module):
    """Selective kernels: two branches, a softmax between them for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(width, width, k, padding=k // 2) for k in (3, 5))
        self.down, self.up = nn.Linear(width, 8), nn.Linear(8, 2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = torch.stack([conv(x).relu() for conv in self.branches], 1)
        weights = self.up(self.down(maps.sum(1).mean((2, 3))).relu()).unflatten(1, (2, -1)).softmax(1)
        return (maps * weights[..., None, None]).sum(1)


class Shuffle(nn.Module):
    """Grouped convolutions with their channels shuffled in between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, groups=4) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x).relu().unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)
        out: torch.Tensor = self.second(y)
        return out


class Ghost(nn.Module):
    """Half of the channels are cheap functions of the other half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.primary = nn.Conv2d(width, width // 2, 1)
        self.cheap = nn.Conv2d(width // 2, width // 2, 3, padding=1, groups=width // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.primary(x).relu()
        return torch.cat([y, self.cheap(y).relu()], 1)


class Maxout(nn.Module):
    """The larger of two channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 2 * width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).unflatten(1, (-1, 2)).amax(2)  # type: ignore[no-any-return]  # nn.Module


class Dense(nn.Module):
    """Every layer reads all before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width + 8 * i), nn.ReLU(), nn.Conv2d(width + 8 * i, 8, 3, padding=1))
            for i in range(3)
        )
        self.out = nn.Conv2d(width + 24, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        out: torch.Tensor = self.out(x)
        return out


class Inception(nn.Module):
    """Parallel branches of several widths."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(width, 8, 1), nn.Conv2d(width, 12, 3, padding=1)
        self.pooled = nn.Conv2d(width, width - 20, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.pooled(F.max_pool2d(x, 3, 1, 1))
        return torch.cat([self.one(x), self.three(x), pooled], 1).relu()


class GroupNormed(nn.Module):
    """GroupNorm and weight standardisation, as in big-transfer networks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(4, width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.conv.weight
        mean, var = w.mean((1, 2, 3), keepdim=True), w.var((1, 2, 3), keepdim=True)
        return F.conv2d(self.norm(x).relu(), (w - mean) * (var + 1e-6).rsqrt(), self.conv.bias, padding=1)


class WeightNormed(nn.Module):
    """Direction and length of each filter apart."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu()  # type: ignore[no-any-return]  # nn.Module


class PReLUs(nn.Module):
    """A slope for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.act(self.conv(x))
        return out


class FiLM(nn.Module):
    """Scale and shift of every channel from the image itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.moments = nn.Conv2d(width, width, 3, padding=1), nn.Linear(width, 2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, shift = self.moments(x.mean((2, 3))).chunk(2, 1)
        return (self.conv(x) * scale[..., None, None] + shift[..., None, None]).relu()  # type: ignore[no-any-return]


class Residual(nn.Module):
    """A stem, two stages with the block in each, a classifier."""

    def __init__(self, block: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.first, self.second = block(32), block(48)
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.Conv2d(b, a, 3, padding=1), nn.ReLU()
            )
            for a, b in ((32, 40), (48, 56))
        )
        self.down = nn.Sequential(nn.Conv2d(32, 48, 3, 2, 1), nn.BatchNorm2d(48), nn.ReLU())
        self.head = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.first(self.convs[0](x))
        x = self.down(x)
        x = x + self.second(self.convs[1](x))
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


def _build(block: Callable[[int], nn.Module], exporter: str) -> Case:
    free = block in (SE, CBAM, GroupNormed, NonLocal)
    return Case(Residual(block), {"image": torch.randn(2, 3, 32, 32)}, {"image": IMAGE if free else BATCH})


_BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "se": SE,
    "cbam": CBAM,
    "eca": ECA,
    "coordatt": CoordAtt,
    "non_local": NonLocal,
    "split_attention": SplitAttention,
    "channel_shuffle": Shuffle,
    "ghost": Ghost,
    "maxout": Maxout,
    "dense_block": Dense,
    "inception_block": Inception,
    "groupnorm_ws": GroupNormed,
    "weight_norm": WeightNormed,
    "prelu": PReLUs,
    "film": FiLM,
}
ARCHITECTURES = tuple(
    Architecture(f"block_{name}", partial(_build, block), "blocks") for name, block in _BLOCKS.items()
)
