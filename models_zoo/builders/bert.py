"""BERT (Devlin et al. 2019): post-norm blocks, queries, keys and values from a layer each, a pooled first token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxprune.models_zoo.builders.built import Built, tokens

POSITIONS = 512


class Attention(nn.Module):
    """Every token asks those that are there."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, absent: Tensor) -> Tensor:
        """`absent` is added to what a token says of another: 0, or far below it."""
        q, k, v = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        weights = (q @ k.transpose(-2, -1) * self.size**-0.5 + absent).softmax(-1)
        y: Tensor = self.output((weights @ v).transpose(1, 2).flatten(2))
        return y

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[1], self.heads, self.size).transpose(1, 2)


class Layer(nn.Module):
    """Attention, then two linear layers, each added and normalised."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention, self.norm1 = Attention(width, heads), nn.LayerNorm(width, eps=1e-12)
        self.intermediate, self.output = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, absent: Tensor) -> Tensor:
        """One layer."""
        x = self.norm1(x + self.attention(x, absent))
        y: Tensor = self.norm2(x + self.output(functional.gelu(self.intermediate(x))))
        return y


class BERT(nn.Module):
    """Embeddings, layers, pooler."""

    def __init__(self, layers: int, width: int, heads: int, inner: int, vocabulary: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(POSITIONS, width)
        self.types = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(Layer(width, heads, inner) for _ in range(layers))
        self.pooler = nn.Linear(width, width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """What each token came to mean, and what all of them did."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.positions(places) + self.types(torch.zeros_like(input_ids)))
        absent = (1 - attention_mask[:, None, None].to(x.dtype)) * -1e4
        for layer in self.layers:
            x = layer(x, absent)
        return x, torch.tanh(self.pooler(x[:, 0]))


def bert(layers: int, width: int, heads: int, inner: int, vocabulary: int, length: int) -> Built:
    """Of any size; `length` is how many tokens a text has."""
    if width % heads:
        raise ValueError("width must be a multiple of heads")
    module = BERT(layers, width, heads, inner, vocabulary)
    return tokens(module, vocabulary, length, ("last_hidden_state", "pooler_output"), mask=True)
