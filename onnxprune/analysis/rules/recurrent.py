"""Recurrent layers: hidden unit h owns row h of every gate, its column of R, and its state.

    W (directions, gates*hidden, input)    R (directions, gates*hidden, hidden)    B (directions, 2*gates*hidden)

One tensor holds both directions, so a unit is the same h in each of them. With zero rows and a zero state a unit stays
zero for ever if what makes its state does (tanh(0) = 0; what the gates do with it does not matter).
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.analysis.facts import Axis, fixed
from onnxprune.analysis.rules.registry import Axes, Flow, Value, rule

GATES = {"LSTM": 4, "DynamicQuantizeLSTM": 4, "GRU": 3, "RNN": 1}
GATE_ACTIVATIONS = {"LSTM": 1, "DynamicQuantizeLSTM": 1, "GRU": 1, "RNN": 0}
"""So many of the activations of each direction belong to gates, the others make the state."""
ZERO_STAYS = {"tanh", "relu", "leakyrelu", "thresholdedrelu", "scaledtanh", "elu", "softsign"}


@rule("LSTM", "GRU", "RNN")
def recurrent(
    f: Flow,
    node: object,
    x: Value,
    w: Value,
    r: Value,
    b: Value | None = None,
    lengths: Value | None = None,
    *states: Value | None,
) -> Sequence[Axes]:
    gates = GATES[f.current.op_type]
    hidden = r.axes[2]
    f.contract(x.axes[2], w.axes[2])
    f.tie(w.axes[1], f.merge([fixed(gates), hidden]))
    f.tie(r.axes[1], f.merge([fixed(gates), hidden]))
    for value, axis, role in ((w, 1, "out"), (w, 2, "in"), (r, 1, "out"), (r, 2, "in"), (b, 1, "shift")):
        f.mark(value, axis, role)
    if b is not None:
        f.tie(b.axes[1], f.merge([fixed(2 * gates), hidden]))
    peepholes = states[2] if len(states) > 2 else None
    if peepholes is not None:
        f.mark(peepholes, 1, "scale")
        f.tie(peepholes.axes[1], f.merge([fixed(3), hidden]))
    starts = [state for state in states[:2] if state is not None]
    for state in starts:
        f.mark(state, 2, "shift")
        f.tie(state.axes[2], hidden)
    zero = all(state.axes[2].zero for state in starts) and _keeps_zero(f, w.axes[0])
    return _outputs(f, x, w, hidden.with_zero(zero))


def _keeps_zero(f: Flow, directions: Axis) -> bool:
    names = [name.decode() if isinstance(name, bytes) else name for name in f.attr("activations", [])]
    of_each = max(1, len(names) // int(directions.size))
    makers = [name for i, name in enumerate(names) if i % of_each >= GATE_ACTIVATIONS[f.current.op_type]]
    return {name.lower() for name in makers} <= ZERO_STAYS


def _outputs(f: Flow, x: Value, w: Value, hidden: Axis) -> Sequence[Axes]:
    directions = fixed(w.axes[0].size)
    first, second = fixed(x.axes[0].size), fixed(x.axes[1].size)
    shapes: list[Axes]
    if f.attr("layout", 0):
        shapes = [(first, second, directions, hidden), (first, directions, hidden)]
    else:
        shapes = [(first, directions, second, hidden), (directions, second, hidden)]
    return [shapes[0], *(shapes[1] for _ in f.current.output[1:])]
