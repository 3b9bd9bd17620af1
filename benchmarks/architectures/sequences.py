"""Networks over sequences in plain torch: recurrent ones in all their forms, dilated convolutions, attention."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from architectures.case import TEXT, Architecture, Case

FEATURES = 12
LENGTH = 9


class Recurrent(nn.Module):
    """Embedding, recurrent layers, and a head on every step or on the last one."""

    def __init__(self, kind: type[nn.RNNBase], *, last: bool = False, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 24)
        self.layers = kind(24, 32, batch_first=True, **options)
        width = 64 if options.get("bidirectional") else 32
        self.head = nn.Sequential(nn.Linear(width, 48), nn.ReLU(), nn.Linear(48, 7))
        self.last = last

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        steps, _ = self.layers(self.embed(tokens))
        out: torch.Tensor = self.head(steps[:, -1] if self.last else steps)
        return out


class EncoderDecoder(nn.Module):
    """The state of one LSTM starts another one."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(FEATURES, 32, batch_first=True)
        self.decoder = nn.LSTM(FEATURES, 32, batch_first=True)
        self.head = nn.Linear(32, FEATURES)

    def forward(self, past: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
        _, state = self.encoder(past)
        out: torch.Tensor = self.head(self.decoder(future, state)[0])
        return out


class Stateful(nn.Module):
    """The state comes in and goes out, as speech detectors and policies have it."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(FEATURES, 24)
        self.layers = nn.LSTM(24, 32, num_layers=2)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
        steps, (h, c) = self.layers(self.inward(x).relu().transpose(0, 1), (h, c))
        return self.head(steps[-1]), h, c


class Cells(nn.Module):
    """Cells called step by step: no recurrent operator in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTMCell(FEATURES, 32), nn.GRUCell(32, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(x.size(0), 32)
        g = x.new_zeros(x.size(0), 24)
        for step in range(4):
            h, c = self.first(x[:, step], (h, c))
            g = self.second(h, g)
        out: torch.Tensor = self.head(g)
        return out


class CRNN(nn.Module):
    """Text recognition: convolutions, height pooled away, a bidirectional LSTM over the width."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 48, 64)
        blocks: list[nn.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            pool = nn.MaxPool2d(2) if i < 2 else nn.MaxPool2d((2, 1))
            blocks += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), pool]
        self.features = nn.Sequential(*blocks)
        self.layers = nn.LSTM(64 * 2, 40, num_layers=2, bidirectional=True)
        self.head = nn.Linear(80, 37)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = self.features(image)
        steps, _ = self.layers(maps.flatten(1, 2).permute(2, 0, 1))
        return self.head(steps).log_softmax(2)  # type: ignore[no-any-return]  # nn.Module


class TCN(nn.Module):
    """Dilated causal convolutions with residuals; the padding at the end is sliced off."""

    def __init__(self) -> None:
        super().__init__()
        widths = (FEATURES, 24, 24, 32)
        self.convs = nn.ModuleList(
            nn.Conv1d(a, b, 3, padding=2 * 2**i, dilation=2**i) for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) for b in widths[1:])
        self.skips = nn.ModuleList(
            nn.Conv1d(a, b, 1) if a != b else nn.Identity() for a, b in itertools.pairwise(widths)
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, (conv, norm, skip) in enumerate(zip(self.convs, self.norms, self.skips, strict=True)):
            x = (norm(conv(x)[:, :, : -2 * 2**i]).relu() + skip(x)).relu()
        out: torch.Tensor = self.head(x[:, :, -1])
        return out


class WaveNet(nn.Module):
    """Gated units: one convolution makes both halves, tanh of one times sigmoid of the other, skips summed."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Conv1d(1, 24, 1)
        self.gated = nn.ModuleList(nn.Conv1d(24, 64, 3, padding=2**i, dilation=2**i) for i in range(4))
        self.residual = nn.ModuleList(nn.Conv1d(32, 24, 1) for _ in range(4))
        self.skip = nn.ModuleList(nn.Conv1d(32, 40, 1) for _ in range(4))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(40, 48, 1), nn.ReLU(), nn.Conv1d(48, 16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inward(x)
        total: torch.Tensor | int = 0
        for gated, residual, skip in zip(self.gated, self.residual, self.skip, strict=True):
            a, b = gated(x).chunk(2, dim=1)
            y = a.tanh() * b.sigmoid()
            total = total + skip(y)
            x = x + residual(y)
        out: torch.Tensor = self.head(total)
        return out


class ConformerLike(nn.Module):
    """Subsampling convolutions, attention, a GLU convolution module, half-step feed-forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.sub = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.inward = nn.Linear(16 * 4, 32)
        self.feed = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 32))
        self.norm = nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.conv = nn.Sequential(
            nn.Conv1d(32, 64, 1),
            nn.GLU(1),
            nn.Conv1d(32, 32, 7, padding=3, groups=32),
            nn.BatchNorm1d(32),
            nn.SiLU(),
            nn.Conv1d(32, 32, 1),
        )
        self.head = nn.Linear(32, 20)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        maps = self.sub(mel.unsqueeze(1))
        x = self.inward(maps.transpose(1, 2).flatten(2))
        x = x + 0.5 * self.feed(x)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)
        out: torch.Tensor = self.head(x)
        return out


def _tokens(network: Callable[[], nn.Module], exporter: str) -> Case:
    return Case(network(), {"tokens": torch.randint(0, 40, (2, LENGTH))}, {"tokens": TEXT})


def _series(network: Callable[[], nn.Module], shape: tuple[int, ...], free: dict[int, str], exporter: str) -> Case:
    return Case(network(), {"x": torch.randn(2, *shape)}, {"x": free})


def _pair(exporter: str) -> Case:
    inputs = {"past": torch.randn(2, LENGTH, FEATURES), "future": torch.randn(2, 5, FEATURES)}
    return Case(EncoderDecoder(), inputs, {"past": TEXT, "future": {0: "batch", 1: "steps"}})


def _stateful(exporter: str) -> Case:
    inputs = {"x": torch.randn(2, LENGTH, FEATURES), "h": torch.randn(2, 2, 32), "c": torch.randn(2, 2, 32)}
    return Case(Stateful(), inputs, {"x": TEXT, "h": {1: "batch"}, "c": {1: "batch"}})


_NETS: dict[str, Callable[[str], Case]] = {
    "lstm": partial(_tokens, partial(Recurrent, nn.LSTM)),
    "lstm_last": partial(_tokens, partial(Recurrent, nn.LSTM, last=True)),
    "lstm_stacked_bi": partial(_tokens, partial(Recurrent, nn.LSTM, num_layers=2, bidirectional=True)),
    "gru": partial(_tokens, partial(Recurrent, nn.GRU)),
    "gru_stacked_bi": partial(_tokens, partial(Recurrent, nn.GRU, num_layers=2, bidirectional=True)),
    "rnn": partial(_tokens, partial(Recurrent, nn.RNN)),
    "rnn_bi": partial(_tokens, partial(Recurrent, nn.RNN, bidirectional=True, last=True)),
    "lstm_encoder_decoder": _pair,
    "lstm_stateful": _stateful,
    "lstm_cells": partial(_series, Cells, (4, FEATURES), {0: "batch"}),
    "crnn": partial(_series, CRNN, (1, 32, 64), {0: "batch", 3: "width"}),
    "tcn": partial(_series, TCN, (FEATURES, 32), {0: "batch", 2: "steps"}),
    "wavenet": partial(_series, WaveNet, (1, 64), {0: "batch", 2: "steps"}),
    "conformer_like": partial(_series, ConformerLike, (32, 16), {0: "batch", 1: "steps"}),
}
ARCHITECTURES = tuple(Architecture(name, build, "sequences") for name, build in _NETS.items())
