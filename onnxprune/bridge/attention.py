"""Attention as one operator, in its standard and onnxruntime's forms: all become softmax(scale q k' + bias) v.

Inside, heads have an axis of their own: (batch, heads, time, size). Fewer key heads than query heads are repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from onnxprune.bridge.norm import with_statistics
from onnxprune.bridge.registry import Step, op

_MS = "com.microsoft::"
_split: Any = torch.split


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, softcap: float = 0.0
) -> tuple[Tensor, list[Tensor]]:
    """The result, and the scores at each stage: raw, capped, with the bias, as probabilities."""
    if k.shape[1] != q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    raw = torch.matmul(q * scale, k.transpose(-1, -2))
    capped = softcap * torch.tanh(raw / softcap) if softcap else raw
    biased = capped if bias is None else capped + bias
    shares = torch.softmax(biased, -1)
    return torch.matmul(shares.to(v.dtype), v), [raw, capped, biased, shares]


def to_heads(x: Tensor, heads: int) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def from_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def causal(q: Tensor, k: Tensor, past: int, hidden: float = -math.inf) -> Tensor:
    """What a query must not see: keys behind its own place."""
    rows = torch.arange(q.shape[2], device=q.device).unsqueeze(1) + past
    later = torch.arange(k.shape[2], device=q.device) > rows
    return torch.zeros(later.shape, dtype=q.dtype, device=q.device).masked_fill(later, hidden)


def as_bias(mask: Tensor, dtype: torch.dtype, hidden: float = -math.inf) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, hidden)


@op("Attention")
def attention(s: Step) -> Sequence[fx.Node | None]:
    if s.has(6) or any(s.attr(name, -1) not in (-1, None) for name in ("left_window_size", "right_window_size")):
        raise s.refuse("lengths of an external cache and sliding windows are not known")
    heads = (s.attr("q_num_heads"), s.attr("kv_num_heads"))
    made = s.emit(
        standard,
        [s.tensor(index) for index in range(6)],
        heads,
        s.attr("scale"),
        bool(s.attr("is_causal", 0)),
        s.attr("softcap", 0.0),
        s.attr("qk_matmul_output_mode", 0),
    )
    return s.several(made)


def standard(
    inputs: Sequence[Tensor | None],
    heads: tuple[int | None, int | None],
    scale: float | None,
    is_causal: bool,
    softcap: float,
    stage: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v, mask, past_k, past_v = inputs
    assert q is not None and k is not None and v is not None  # noqa: PT018  the standard demands them
    flat = q.dim() == 3
    if flat:
        q, k, v = to_heads(q, heads[0] or 1), to_heads(k, heads[1] or 1), to_heads(v, heads[1] or 1)
    past = 0 if past_k is None else past_k.shape[2]
    k = k if past_k is None else torch.cat([past_k, k], 2)
    v = v if past_v is None else torch.cat([past_v, v], 2)
    bias = None
    if mask is not None:
        bias = as_bias(mask, q.dtype)
        if bias.shape[-1] < k.shape[2]:
            bias = torch.nn.functional.pad(bias, [0, k.shape[2] - bias.shape[-1]], value=-math.inf)
    if is_causal:
        late = causal(q, k, past)
        bias = late if bias is None else bias + late
    y, scores = attend(q, k, v, bias, q.shape[-1] ** -0.5 if scale is None else scale, softcap)
    order = [scores[0], scores[2], scores[1], scores[3]]
    return from_heads(y) if flat else y, k, v, order[stage]


@op(_MS + "Attention")
def packed_attention(s: Step) -> Sequence[fx.Node | None]:
    if s.has(4) or s.attr("do_rotary", 0):
        raise s.refuse("a cache of earlier keys and rotation inside it are not known")
    made = s.emit(
        packed,
        [s.tensor(index) for index in (0, 1, 2, 3, 5)],
        s.attr("num_heads"),
        s.attr("qkv_hidden_sizes"),
        s.attr("scale"),
        bool(s.attr("unidirectional", 0)),
        s.attr("mask_filter_value", -10000.0),
        s.wants(1),
    )
    return s.several(made)


def packed(
    inputs: Sequence[Tensor | None],
    heads: int,
    sizes: Sequence[int] | None,
    scale: float | None,
    one_way: bool,
    hidden: float,
    keeps: bool,
) -> tuple[Tensor, Tensor | None]:
    """One matrix makes queries, keys and values."""
    x, w, b, mask, extra = inputs
    assert x is not None and w is not None  # noqa: PT018  the operator demands them
    made = torch.matmul(x, w) if b is None else torch.matmul(x, w) + b
    q, k, v = (to_heads(part, heads) for part in _split(made, sizes or made.shape[-1] // 3, -1))
    bias = _masked(mask, q, k, hidden)
    if extra is not None:
        bias = extra if bias is None else bias + extra
    if one_way:
        late = causal(q, k, 0, hidden)
        bias = late if bias is None else bias + late
    y, _ = attend(q, k, v, bias, scale or q.shape[-1] ** -0.5)
    return from_heads(y), torch.stack([k, v]) if keeps else None


def _masked(mask: Tensor | None, q: Tensor, k: Tensor, hidden: float) -> Tensor | None:
    """A mask of any of its ranks; of rank 1 it says how long each sequence is, then perhaps where it begins."""
    if mask is None:
        return None
    batch, length = q.shape[0], k.shape[2]
    places = torch.arange(length, device=q.device)
    if mask.dim() == 1:
        keep = places < mask[:batch].unsqueeze(1)
        if mask.shape[0] == 2 * batch:
            keep = keep & (places >= mask[batch:].unsqueeze(1))
    else:
        keep = mask != 0
    while keep.dim() < 4:
        keep = keep.unsqueeze(1)
    return as_bias(keep, q.dtype, hidden)


@op(_MS + "MultiHeadAttention")
def multi_head(s: Step) -> Sequence[fx.Node | None]:
    if not s.has(1) or not s.has(2):
        raise s.refuse("packed queries, keys and values are not known")
    made = s.emit(
        separate,
        [s.tensor(index) if s.has(index) else None for index in range(8)],
        s.attr("num_heads"),
        s.attr("scale"),
        bool(s.attr("unidirectional", 0)),
        s.attr("mask_filter_value", -10000.0),
    )
    return s.several(made)


def separate(
    inputs: Sequence[Tensor | None], heads: int, scale: float | None, one_way: bool, hidden: float
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v, b, mask, extra, past_k, past_v = inputs
    assert q is not None and k is not None and v is not None  # noqa: PT018  checked before
    if b is not None:
        inner = q.shape[-1]
        q = q + b[:inner]
        if k.dim() == 3:
            k, v = k + b[inner : 2 * inner], v + b[2 * inner :]
    q = to_heads(q, heads)
    k, v = (to_heads(x, heads) if x.dim() == 3 else x for x in (k, v))
    past = 0 if past_k is None else past_k.shape[2]
    k = k if past_k is None else torch.cat([past_k, k], 2)
    v = v if past_v is None else torch.cat([past_v, v], 2)
    bias = _masked(mask, q, k, hidden)
    if extra is not None:
        bias = extra if bias is None else bias + extra
    if one_way:
        late = causal(q, k, past, hidden)
        bias = late if bias is None else bias + late
    y, _ = attend(q, k, v, bias, scale or q.shape[-1] ** -0.5)
    return from_heads(y), k, v


@op(_MS + "GroupQueryAttention")
def grouped(s: Step) -> Sequence[fx.Node | None]:
    if s.attr("smooth_softmax", 0) or s.attr("local_window_size", -1) not in (-1, None) or len(s.node.input) > 9:
        raise s.refuse("sliding windows, given positions and further biases are not known")
    made = s.emit(
        grouped_attention,
        [s.tensor(index) if s.has(index) else None for index in (0, 1, 2, 3, 4, 5, 7, 8)],
        s.attr("num_heads"),
        s.attr("kv_num_heads"),
        s.attr("scale"),
        s.attr("softcap", 0.0),
        bool(s.attr("do_rotary", 0)),
        bool(s.attr("rotary_interleaved", 0)),
    )
    return s.several(made)


def grouped_attention(
    inputs: Sequence[Tensor | None],
    heads: int,
    kv_heads: int,
    scale: float | None,
    softcap: float,
    rotates: bool,
    interleaved: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal; all sequences of the batch are equally long, as in training."""
    q, k, v, past_k, past_v, _, cos, sin = inputs
    assert q is not None
    if k is None or v is None:  # packed
        size = q.shape[-1] // (heads + 2 * kv_heads)
        q, k, v = _split(q, [heads * size, kv_heads * size, kv_heads * size], -1)
    q, k, v = to_heads(q, heads), to_heads(k, kv_heads), to_heads(v, kv_heads)
    past = 0 if past_k is None else past_k.shape[2]
    if rotates and cos is not None and sin is not None:
        at = torch.arange(past, past + q.shape[2], device=q.device)
        q, k = (rotated(x, cos[at], sin[at], interleaved) for x in (q, k))
    k = k if past_k is None else torch.cat([past_k, k], 2)
    v = v if past_v is None else torch.cat([past_v, v], 2)
    y, _ = attend(q, k, v, causal(q, k, past), scale or q.shape[-1] ** -0.5, softcap)
    return from_heads(y), k, v


@op("RotaryEmbedding")
def rotary(s: Step) -> fx.Node:
    places = s.tensor(3)
    return s.emit(turned, s.tensor(0), s.tensor(1), s.tensor(2), places, *_rotation(s))


@op(_MS + "RotaryEmbedding")
def rotary_before(s: Step) -> fx.Node:
    return s.emit(turned, s.tensor(0), s.tensor(2), s.tensor(3), s.tensor(1), *_rotation(s))


def _rotation(s: Step) -> tuple[Any, ...]:
    return bool(s.attr("interleaved", 0)), s.attr("num_heads", 0), s.attr("rotary_embedding_dim", 0)


def turned(x: Tensor, cos: Tensor, sin: Tensor, at: Tensor | None, interleaved: bool, heads: int, size: int) -> Tensor:
    flat = x.dim() == 3
    if flat:
        x = to_heads(x, heads or x.shape[-1] // (size or 2 * cos.shape[-1]))
    if at is not None:
        if at.numel() == 1 and at.dim() == 1:  # where the first one stands
            at = at + torch.arange(x.shape[2], device=x.device).unsqueeze(0)
        cos, sin = cos[at], sin[at]
    if cos.dim() == 3:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    y = rotated(x, cos, sin, interleaved)
    return from_heads(y) if flat else y


def rotated(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Pairs of coordinates turned by an angle; those beyond the table stay."""
    size = 2 * cos.shape[-1]
    part, rest = x[..., :size], x[..., size:]
    a, b = (part[..., 0::2], part[..., 1::2]) if interleaved else part.chunk(2, -1)
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    if interleaved:
        y = torch.stack([real, imaginary], -1).flatten(-2)
    else:
        y = torch.cat([real, imaginary], -1)
    return torch.cat([y, rest], -1) if rest.shape[-1] else y


@op(_MS + "EmbedLayerNormalization")
def embed_norm(s: Step) -> Sequence[fx.Node | None]:
    made = s.emit(
        embedded,
        [s.tensor(index) if s.has(index) else None for index in range(9)],
        s.attr("epsilon", 1e-12),
    )
    return s.several(made)


def embedded(inputs: Sequence[Tensor | None], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Words, places and segments, added and normalised; and how long each sequence is."""
    ids, segments, words, places, kinds, scale, shift, mask, at = inputs
    assert ids is not None and words is not None and places is not None  # noqa: PT018
    assert scale is not None
    total = words[ids.long()]
    total = total + (places[: ids.shape[1]] if at is None else places[at.long()])
    if kinds is not None and segments is not None:
        total = total + kinds[segments.long()]
    lengths = ids.new_zeros(ids.shape[0]) if mask is None else mask.sum(1)
    return with_statistics(total, scale, shift, -1, epsilon)[0], lengths.to(torch.int32), total
