"""Recurrent layers in ONNX's layout: gates stacked in its own order, directions first.

    W (directions, gates*hidden, input)    R (directions, gates*hidden, hidden)    B (directions, 2*gates*hidden)

torch's own kernels run what they know, with the gates put into their order as they are used; what has other
activations, peepholes, clips or lengths goes step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from onnxprune.bridge.registry import Step, op

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where torch's gates stand in ONNX's: i o f c becomes i f c o, z r h becomes r z h."""
_DEFAULTS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}


@op("LSTM", "GRU", "RNN")
def recurrent(s: Step) -> Sequence[fx.Node | None]:
    kind = s.node.op_type
    directions = 2 if s.attr("direction", "forward") == "bidirectional" else 1
    named = [_decoded(name).lower() for name in s.attr("activations", [])] or list(_DEFAULTS[kind]) * directions
    alphas, betas = list(s.attr("activation_alpha", [])), list(s.attr("activation_beta", []))
    made = s.emit(
        run,
        kind,
        [s.tensor(index) if s.has(index) else None for index in range(8)],
        s.attr("direction", "forward"),
        s.attr("hidden_size"),
        named,
        (alphas, betas),
        s.attr("clip", 0.0),
        bool(s.attr("linear_before_reset", 0)),
        bool(s.attr("layout", 0)),
        bool(s.attr("input_forget", 0)),
    )
    return s.several(made)


@op("com.microsoft::DynamicQuantizeLSTM")
def dynamic_lstm(s: Step) -> Sequence[fx.Node | None]:
    """Its matrices are stored transposed and in whole numbers, and stay as they are."""
    named = [_decoded(name).lower() for name in s.attr("activations", [])]
    both = s.attr("direction", "forward") == "bidirectional"
    made = s.emit(
        run,
        "LSTM",
        [
            s.tensor(0),
            s.emit(unpacked, s.tensor(1), s.tensor(8), s.tensor(9)),
            s.emit(unpacked, s.tensor(2), s.tensor(10), s.tensor(11)),
            *(s.tensor(index) for index in range(3, 8)),
        ],
        s.attr("direction", "forward"),
        s.attr("hidden_size"),
        named or list(_DEFAULTS["LSTM"]) * (1 + both),
        (list(s.attr("activation_alpha", [])), list(s.attr("activation_beta", []))),
        s.attr("clip", 0.0),
        False,
        False,
        bool(s.attr("input_forget", 0)),
    )
    return s.several(made)


def unpacked(q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """(directions, inputs, gates), with a scale for each direction or each row of it."""
    steps, shift = (w.reshape(w.shape[0], 1, -1) for w in (scale, zero))
    return ((q.to(scale.dtype) - shift.to(scale.dtype)) * steps).transpose(1, 2)


def _decoded(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def run(
    kind: str,
    inputs: Sequence[Tensor | None],
    direction: str,
    hidden: int,
    named: Sequence[str],
    params: tuple[Sequence[float], Sequence[float]],
    clip: float,
    before_reset: bool,
    batch_first: bool,
    coupled: bool = False,
) -> tuple[Tensor, ...]:
    x, w, r, b, lengths, h0, c0, peepholes = inputs
    assert x is not None and w is not None and r is not None  # noqa: PT018  the standard demands them
    if batch_first:
        x = x.transpose(0, 1)
        h0, c0 = (None if state is None else state.transpose(0, 1) for state in (h0, c0))
    count, batch = w.shape[0], x.shape[1]
    zeros = x.new_zeros(count, batch, hidden)
    h0, c0 = (zeros if state is None else state for state in (h0, c0))
    b = w.new_zeros(count, 2 * _GATES[kind] * hidden) if b is None else b
    plain = (
        not coupled and lengths is None and peepholes is None and not clip and tuple(named) == _DEFAULTS[kind] * count
    )
    # torch.compile fails on these kernels where gradients are wanted (torch 2.13)
    if plain and (kind != "GRU" or before_reset) and not torch.compiler.is_compiling():
        y, h, c = _by_torch(kind, x, w, r, b, h0, c0, direction)
    else:
        functions = _functions(named, params)
        y, h, c = _stepwise(
            kind, (x, w, r, b, lengths, h0, c0, peepholes), direction, functions, clip, before_reset, coupled
        )
    if batch_first:
        y, h, c = y.permute(2, 0, 1, 3), h.transpose(0, 1), c.transpose(0, 1)
    return (y, h, c) if kind == "LSTM" else (y, h)


def _by_torch(
    kind: str, x: Tensor, w: Tensor, r: Tensor, b: Tensor, h0: Tensor, c0: Tensor, direction: str
) -> tuple[Tensor, Tensor, Tensor]:
    flat: list[Tensor] = []
    for d in range(w.shape[0]):
        inner, outer = b[d].chunk(2)
        flat += [_reordered(kind, weight) for weight in (w[d], r[d], inner, outer)]
    both = direction == "bidirectional"
    x = x.flip(0) if direction == "reverse" else x
    common = (flat, True, 1, 0.0, False, both, False)
    c = c0
    if kind == "LSTM":
        y, h, c = torch.lstm(x, [h0, c0], *common)
    elif kind == "GRU":
        y, h = torch.gru(x, h0, *common)
    else:
        y, h = torch.rnn_tanh(x, h0, *common)
    y = y.reshape(x.shape[0], x.shape[1], w.shape[0], -1).transpose(1, 2)
    return (y.flip(0) if direction == "reverse" else y), h, c


def _reordered(kind: str, weight: Tensor) -> Tensor:
    parts = weight.chunk(_GATES[kind])
    return torch.cat([parts[i] for i in _ORDER[kind]])


Function = Callable[[Tensor], Tensor]


def _stepwise(
    kind: str,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor | None],
    direction: str,
    functions: Sequence[Function],
    clip: float,
    before_reset: bool,
    coupled: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x, w, r, b, lengths, h0, c0, peepholes = inputs
    each = len(functions) // w.shape[0]
    outs, hs, cs = [], [], []
    for d in range(w.shape[0]):
        backwards = direction == "reverse" or d == 1
        order = range(x.shape[0] - 1, -1, -1) if backwards else range(x.shape[0])
        h, c = h0[d], c0[d]
        rows: list[Tensor] = [h] * x.shape[0]
        inner, outer = b[d].chunk(2)
        known = F.linear(x, w[d], inner)
        own = functions[d * each : (d + 1) * each]
        for t in order:
            new_h, new_c = _step(kind, known[t], r[d], outer, h, c, own, clip, before_reset, peepholes, d, coupled)
            if lengths is None:
                h, c, rows[t] = new_h, new_c, new_h
            else:
                alive = (t < lengths).unsqueeze(1)
                h, c = torch.where(alive, new_h, h), torch.where(alive, new_c, c)
                rows[t] = torch.where(alive, new_h, torch.zeros_like(h))
        outs.append(torch.stack(rows))
        hs.append(h)
        cs.append(c)
    return torch.stack(outs, 1), torch.stack(hs), torch.stack(cs)


def _step(
    kind: str,
    known: Tensor,
    r: Tensor,
    outer: Tensor,
    h: Tensor,
    c: Tensor,
    own: Sequence[Function],
    clip: float,
    before_reset: bool,
    peepholes: Tensor | None,
    direction: int,
    coupled: bool,
) -> tuple[Tensor, Tensor]:
    if kind == "RNN":
        return own[0](_held(known + F.linear(h, r, outer), clip)), c
    if kind == "LSTM":
        i, o, f, g = (known + F.linear(h, r, outer)).chunk(4, -1)
        if peepholes is not None:
            pi, po, pf = peepholes[direction].chunk(3)
            i, f = i + pi * c, f + pf * c
        taken = own[0](_held(i, clip))
        kept = 1 - taken if coupled else own[0](_held(f, clip))
        new = kept * c + taken * own[1](_held(g, clip))
        o = o if peepholes is None else o + po * new
        return own[0](_held(o, clip)) * own[2](new), new
    z0, r0, n0 = known.chunk(3, -1)
    rz, rr, rn = r.chunk(3)
    bz, br, bn = outer.chunk(3)
    z = own[0](_held(z0 + F.linear(h, rz, bz), clip))
    reset = own[0](_held(r0 + F.linear(h, rr, br), clip))
    inside = reset * F.linear(h, rn, bn) if before_reset else F.linear(reset * h, rn, bn)
    return (1 - z) * own[1](_held(n0 + inside, clip)) + z * h, c


def _held(x: Tensor, clip: float) -> Tensor:
    return x.clamp(-clip, clip) if clip else x


def _functions(named: Sequence[str], params: tuple[Sequence[float], Sequence[float]]) -> list[Function]:
    alphas, betas = list(params[0]), list(params[1])
    found: list[Function] = []
    for name in named:
        has_alpha, has_beta, default_a, default_b = _TAKES.get(name, (False, False, 0.0, 0.0))
        a = alphas.pop(0) if has_alpha and alphas else default_a
        b = betas.pop(0) if has_beta and betas else default_b
        found.append(_Activation(name, a, b))
    return found


class _Activation:
    def __init__(self, name: str, a: float, b: float) -> None:
        if name not in _ACTIVATIONS:
            raise ValueError(f"the activation {name!r} of a recurrent layer is not known")
        self.function, self.a, self.b = _ACTIVATIONS[name], a, b

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self.function(x, self.a, self.b)
        return out


_TAKES = {
    "affine": (True, True, 1.0, 0.0),
    "elu": (True, False, 1.0, 0.0),
    "hardsigmoid": (True, True, 0.2, 0.5),
    "leakyrelu": (True, False, 0.01, 0.0),
    "scaledtanh": (True, True, 1.0, 1.0),
    "thresholdedrelu": (True, False, 1.0, 0.0),
}
_ACTIVATIONS: dict[str, Any] = {
    "affine": lambda x, a, b: a * x + b,
    "elu": lambda x, a, b: F.elu(x, a),
    "hardsigmoid": lambda x, a, b: (a * x + b).clamp(0, 1),
    "leakyrelu": lambda x, a, b: F.leaky_relu(x, a),
    "relu": lambda x, a, b: torch.relu(x),
    "scaledtanh": lambda x, a, b: a * torch.tanh(b * x),
    "sigmoid": lambda x, a, b: torch.sigmoid(x),
    "softplus": lambda x, a, b: F.softplus(x),
    "softsign": lambda x, a, b: F.softsign(x),
    "tanh": lambda x, a, b: torch.tanh(x),
    "thresholdedrelu": lambda x, a, b: F.threshold(x, a, 0.0),
}
