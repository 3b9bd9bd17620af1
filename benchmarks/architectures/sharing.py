"""Networks in which one weight is used twice, or one of several is chosen; sets, graphs and points."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812  everybody's name for it
from torch import nn

from architectures.case import BATCH, TEXT, Architecture, Case


class Siamese(nn.Module):
    """Two pictures through one tower; their difference is judged."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.inward = nn.Linear(32, 24)
        self.head = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        x, y = (self.inward(self.tower(item).flatten(1)) for item in (a, b))
        out: torch.Tensor = self.head((x - y).abs())
        return out


class Correlation(nn.Module):
    """A tracker: the features of one picture are the kernel that is run over the other's."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 24, 3, 2), nn.ReLU())
        self.kernel, self.search = nn.Conv2d(24, 32, 3), nn.Conv2d(24, 32, 3)
        self.head = nn.Sequential(nn.Conv2d(32, 24, 1), nn.ReLU(), nn.Conv2d(24, 4, 1))

    def forward(self, template: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        kernel, maps = self.kernel(self.tower(template)), self.search(self.tower(image))
        b, c = maps.shape[:2]
        joined = F.conv2d(maps.flatten(0, 1)[None], kernel.flatten(0, 1)[:, None], groups=b * c)
        out: torch.Tensor = self.head(joined.view(b, c, *joined.shape[2:]))
        return out


class Tied(nn.Module):
    """The embedding is the output layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, 32)
        self.feed = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.norm = nn.LayerNorm(32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        x = self.norm(x + self.feed(x))
        return F.linear(x, self.embed.weight)


class Repeated(nn.Module):
    """One block, run three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, 2, 1)
        self.block = nn.Sequential(nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 24, 3, padding=1))
        self.head = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        for _ in range(3):
            x = (x + self.block(x)).relu()
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


class Experts(nn.Module):
    """All experts run on every token, a router weighs them (batched weights), or only the best two count."""

    def __init__(self, *, best: int = 0) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.router = nn.Linear(32, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 32, 48) / 6), nn.Parameter(torch.randn(4, 48, 32) / 7)
        self.head, self.best = nn.Linear(32, 8), best

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        weights = self.router(x).softmax(-1)
        if self.best:
            weights = weights * (weights >= weights.topk(self.best, -1).values[..., -1:])
        hidden = torch.einsum("bsd,edf->bsef", x, self.up).relu()
        mixed = torch.einsum("bsef,efd,bse->bsd", hidden, self.down, weights)
        out: torch.Tensor = self.head(x + mixed)
        return out


class ExpertList(nn.Module):
    """Experts as modules, their answers stacked and weighed."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(24, 32)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(32, 40), nn.ReLU(), nn.Linear(40, 32)) for _ in range(3))
        self.router, self.head = nn.Linear(32, 3), nn.Linear(32, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inward(x).relu()
        answers = torch.stack([expert(x) for expert in self.experts], 1)
        mixed = (self.router(x).softmax(-1)[..., None] * answers).sum(1)
        out: torch.Tensor = self.head(mixed)
        return out


class PointNet(nn.Module):
    """A learned transform of the points, shared layers, a maximum over points; local and global features joined."""

    def __init__(self) -> None:
        super().__init__()

        def shared(*widths: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for a, b in itertools.pairwise(widths):
                layers += [nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.ReLU()]
            return nn.Sequential(*layers)

        self.where, self.turn = shared(3, 24, 32), nn.Linear(32, 9)
        self.local, self.deep = shared(3, 24), shared(24, 48, 64)
        self.head = nn.Sequential(shared(24 + 64, 40), nn.Conv1d(40, 5, 1))
        self.classes = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = points.transpose(1, 2)
        turn = self.turn(self.where(x).amax(2)).view(-1, 3, 3) + torch.eye(3)
        local = self.local(torch.bmm(points, turn).transpose(1, 2))
        overall = self.deep(local).amax(2)
        joined = torch.cat([local, overall[..., None].expand(-1, -1, local.size(2))], 1)
        return self.classes(overall), self.head(joined)


class DenseGraph(nn.Module):
    """Messages by multiplication with a normalised adjacency matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(12, 32), nn.Linear(32, 40)])
        self.own = nn.ModuleList([nn.Linear(12, 32), nn.Linear(32, 40)])
        self.head = nn.Linear(40, 6)

    def forward(self, nodes: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        weights = adjacency.softmax(-1)
        x = nodes
        for layer, own in zip(self.layers, self.own, strict=True):
            x = (weights @ layer(x) + own(x)).relu()
        out: torch.Tensor = self.head(x.mean(1))
        return out


class EdgeGraph(nn.Module):
    """Messages gathered along edges and scattered onto their targets; attention over a node's edges as in GAT."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(12, 32), nn.Linear(32, 40)])
        self.own = nn.ModuleList([nn.Linear(12, 32), nn.Linear(32, 40)])
        self.message = nn.Sequential(nn.Linear(80, 48), nn.ReLU(), nn.Linear(48, 24))
        self.head = nn.Linear(64, 6)

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        source, target = edges[0], edges[1]
        x = nodes
        for layer, own in zip(self.layers, self.own, strict=True):
            sent = layer(x)[source]
            x = (own(x) + torch.zeros_like(own(x)).index_add(0, target, sent)).relu()
        message = self.message(torch.cat([x[source], x[target]], 1))
        place = target[:, None].expand(-1, 24)
        got = message.new_zeros(x.size(0), 24).scatter_add(0, place, message)
        out: torch.Tensor = self.head(torch.cat([x, got], 1))
        return out


class Policy(nn.Module):
    """An actor and a critic on one trunk, actions squashed and clipped."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(17, 48), nn.Tanh(), nn.Linear(48, 40), nn.Tanh())
        self.mean, self.value = nn.Linear(40, 6), nn.Sequential(nn.Linear(40, 24), nn.Tanh(), nn.Linear(24, 1))
        self.register_buffer("centre", torch.randn(17))
        self.register_buffer("spread", torch.rand(17) + 0.5)

    def forward(self, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.trunk(((seen - self.centre) / self.spread).clamp(-5, 5))
        return self.mean(x).tanh(), self.value(x)


class Fields(nn.Module):
    """A recommender: embeddings of categories beside numbers, pairwise products, a deep part (DeepFM, DLRM)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(30, 16) for _ in range(4))
        self.numbers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.deep = nn.Sequential(nn.Linear(5 * 16 + 25, 48), nn.ReLU(), nn.Linear(48, 1))

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        parts = [embed(categories[:, i]) for i, embed in enumerate(self.embed)]
        fields = torch.stack([self.numbers(numbers), *parts], 1)
        pairs = fields @ fields.transpose(1, 2)
        out: torch.Tensor = self.deep(torch.cat([fields.flatten(1), pairs.flatten(1)], 1)).sigmoid()
        return out


def _pictures(network: Callable[[], nn.Module], names: tuple[str, str], sizes: tuple[int, int], exporter: str) -> Case:
    inputs = {name: torch.randn(2, 3, size, size) for name, size in zip(names, sizes, strict=True)}
    return Case(network(), inputs, dict.fromkeys(inputs, BATCH))


def _tokens(network: Callable[[], nn.Module], exporter: str) -> Case:
    return Case(network(), {"tokens": torch.randint(0, 50, (2, 9))}, {"tokens": TEXT})


def _floats(network: Callable[[], nn.Module], shape: tuple[int, ...], free: dict[int, str], exporter: str) -> Case:
    return Case(network(), {"x": torch.randn(2, *shape)}, {"x": free})


def _dense_graph(exporter: str) -> Case:
    inputs = {"nodes": torch.randn(2, 7, 12), "adjacency": torch.randn(2, 7, 7)}
    return Case(DenseGraph(), inputs, {"nodes": {0: "batch"}, "adjacency": {0: "batch"}})


def _edge_graph(exporter: str) -> Case:
    inputs = {"nodes": torch.randn(9, 12), "edges": torch.randint(0, 9, (2, 20))}
    return Case(EdgeGraph(), inputs, {"nodes": {0: "nodes"}, "edges": {1: "edges"}})


def _fields(exporter: str) -> Case:
    inputs = {"numbers": torch.randn(2, 8), "categories": torch.randint(0, 30, (2, 4))}
    return Case(Fields(), inputs, dict.fromkeys(inputs, BATCH))


_NETS: dict[str, Callable[[str], Case]] = {
    "siamese": partial(_pictures, Siamese, ("left", "right"), (32, 32)),
    "siamese_tracker": partial(_pictures, Correlation, ("template", "image"), (32, 64)),
    "tied_embedding": partial(_tokens, Tied),
    "repeated_block": partial(_floats, Repeated, (3, 32, 32), BATCH),
    "moe_dense": partial(_tokens, Experts),
    "moe_best_two": partial(_tokens, partial(Experts, best=2)),
    "moe_list": partial(_floats, ExpertList, (24,), BATCH),
    "pointnet": partial(_floats, PointNet, (40, 3), {0: "batch", 1: "points"}),
    "gnn_dense": _dense_graph,
    "gnn_edges": _edge_graph,
    "rl_policy": partial(_floats, Policy, (17,), BATCH),
    "recommender": _fields,
}
ARCHITECTURES = tuple(Architecture(name, build, "sharing") for name, build in _NETS.items())
