"""Vision transformers (Dosovitskiy et al. 2021; the sizes of DeiT), parameters named as timm names them.

patches + positions -> blocks: x + attention(norm(x)), x + mlp(norm(x)) -> norm -> first token, or mean -> linear
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxprune.models_zoo.builders.built import Built, pictures


class Attention(nn.Module):
    """Queries, keys and values from one linear layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Every token asks all tokens."""
        tokens = x.shape[1]
        q, k, v = self.qkv(x).reshape(-1, tokens, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q * self.size**-0.5 @ k.transpose(-2, -1)).softmax(-1)
        y: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(-1, tokens, self.heads * self.size))
        return y


class MLP(nn.Module):
    """Two linear layers."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Token by token."""
        y: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return y


class Block(nn.Module):
    """Attention, then the layers for each token."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), MLP(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        x = x + self.attn(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class PatchEmbed(nn.Module):
    """A token per patch."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, image: Tensor) -> Tensor:
        """Tokens of a batch of images."""
        found: Tensor = self.proj(image)
        return found.flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """With a token for the class, or with the mean over all tokens."""

    def __init__(
        self, side: int, patch: int, width: int, depth: int, heads: int, classes: int, *, class_token: bool
    ) -> None:
        super().__init__()
        tokens = (side // patch) ** 2 + class_token
        self.patch_embed = PatchEmbed(patch, width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02) if class_token else None
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, 4 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.patch_embed(image)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.pos_embed))
        logits: Tensor = self.head(x[:, 0] if self.cls_token is not None else x.mean(1))
        return logits


def vit(width: int, depth: int, heads: int, side: int, classes: int) -> Built:
    """On patches of 16 px."""
    return pictures(ViT(side, 16, width, depth, heads, classes, class_token=True), side)


def vit_cifar(classes: int) -> Built:
    """Five blocks on patches of 4 px of 32."""
    return pictures(ViT(32, 4, 96, 5, 3, classes, class_token=False), 32)
