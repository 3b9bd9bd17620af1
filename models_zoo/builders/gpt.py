"""Decoders: GPT-2 (Radford et al. 2019), and Llama (Touvron et al. 2023) with grouped-query attention.

    GPT-2   learned positions, LayerNorm, one layer for q, k and v, GELU
    Llama   rotated positions, RMSNorm, several query heads per key and value (Ainslie et al. 2023), gated SiLU

The output layer is the word embedding, transposed, in both. Every token sees itself and those before it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxprune.models_zoo.builders.built import Built, tokens

POSITIONS = 1024
"""Of GPT-2."""
ROTATION = 10_000.0
"""The longest of Llama's wave lengths, in tokens and up to 2 pi."""


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention (batch, heads, tokens, size), none looking ahead."""
    count = q.shape[2]
    ahead = torch.full((count, count), -1e9, device=q.device).triu(1)
    found: Tensor = (q @ k.transpose(-2, -1) * q.shape[3] ** -0.5 + ahead).softmax(-1) @ v
    return found


class GPT2Block(nn.Module):
    """Attention, then two linear layers, each behind a normalisation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.c_attn, self.c_proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ln_2, self.c_fc, self.c_out = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        parts = self.c_attn(self.ln_1(x)).chunk(3, 2)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        x = x + self.c_proj(attended(q, k, v).transpose(1, 2).flatten(2))
        y: Tensor = x + self.c_out(functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))
        return y


class GPT2(nn.Module):
    """Words and positions, blocks, scores of the next word."""

    def __init__(self, layers: int, width: int, heads: int, vocabulary: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(POSITIONS, width)
        self.h = nn.Sequential(*(GPT2Block(width, heads) for _ in range(layers)))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits of the word after each."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.ln_f(self.h(self.wte(input_ids) + self.wpe(places)))
        return functional.linear(x, self.wte.weight)


class RMSNorm(nn.Module):
    """By the root of the mean square."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised."""
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5))


class LlamaAttention(nn.Module):
    """Each key and value serves several queries."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.size, self.share = width // heads, heads // kv_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(width, kv_heads * self.size, bias=False) for _ in range(2))
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Every token asks itself and those before it."""
        q, k, v = (
            layer(x).unflatten(2, (-1, self.size)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = self._turned(q, cos, sin), self._turned(k, cos, sin)
        k, v = (self._repeated(part) for part in (k, v))
        y: Tensor = self.o_proj(attended(q, k, v).transpose(1, 2).flatten(2))
        return y

    def _repeated(self, x: Tensor) -> Tensor:
        """0 1 -> 0 0 0 1 1 1."""
        return x[:, :, None].expand(-1, -1, self.share, -1, -1).flatten(1, 2)

    @staticmethod
    def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        low, high = x.chunk(2, 3)
        return x * cos + torch.cat([-high, low], 3) * sin


class LlamaBlock(nn.Module):
    """Attention, then a gated layer, each behind a normalisation."""

    def __init__(self, width: int, heads: int, kv_heads: int, inner: int) -> None:
        super().__init__()
        self.input_layernorm, self.self_attn = RMSNorm(width), LlamaAttention(width, heads, kv_heads)
        self.post_attention_layernorm = RMSNorm(width)
        self.gate_proj, self.up_proj = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """One block."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        y = self.post_attention_layernorm(x)
        out: Tensor = x + self.down_proj(functional.silu(self.gate_proj(y)) * self.up_proj(y))
        return out


class Llama(nn.Module):
    """Words, blocks, scores of the next word."""

    def __init__(self, layers: int, width: int, heads: int, kv_heads: int, inner: int, vocabulary: int) -> None:
        super().__init__()
        self.size = width // heads
        self.embed_tokens = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(LlamaBlock(width, heads, kv_heads, inner) for _ in range(layers))
        self.norm = RMSNorm(width)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits of the word after each."""
        waves = ROTATION ** (torch.arange(0, self.size, 2, device=input_ids.device) / -self.size)
        angles = torch.arange(input_ids.shape[1], device=input_ids.device)[:, None] * waves.repeat(2)
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin())
        return functional.linear(self.norm(x), self.embed_tokens.weight)


def gpt2(layers: int, width: int, heads: int, vocabulary: int, length: int) -> Built:
    """Of any size; `length` is how many tokens a text has."""
    if width % heads:
        raise ValueError("width must be a multiple of heads")
    return tokens(GPT2(layers, width, heads, vocabulary), vocabulary, length, ("logits",))


def llama(layers: int, width: int, heads: int, kv_heads: int, inner: int, vocabulary: int, length: int) -> Built:
    """Of any size; `heads` is a multiple of `kv_heads`."""
    if heads % kv_heads or width % heads:
        raise ValueError("width must be a multiple of heads, and heads of kv_heads")
    return tokens(Llama(layers, width, heads, kv_heads, inner, vocabulary), vocabulary, length, ("logits",))
