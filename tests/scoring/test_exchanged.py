"""What other weights do to the outputs: the same as running the whole model with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from building import Net
from oracle import prepared

from onnxprune.data.sources import open_data
from onnxprune.execution import runtime
from onnxprune.execution.batches import Batch
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.scoring import exchanged
from onnxprune.scoring.exchanged import errors, few

Array = np.ndarray[Any, Any]


def branches() -> Model:
    """Two outputs, and three layers of which one feeds both."""
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 6, 3, name="first"), name="relu")
    n.output(n.conv(x, 5, 3, name="a"), n.op("Sigmoid", n.conv(x, 4, name="b")))
    return prepared(n.proto())


def other(model: Model, name: str, factor: float = 1.0) -> dict[str, Tensor]:
    array = model.weights[name].array()
    noise = np.random.default_rng(0).standard_normal(array.shape).astype(np.float32)
    return {name: Tensor.of(name, (array + 0.1 * factor * noise).astype(np.float32))}


def logits(model: Model, batches: list[Batch]) -> list[Array]:
    """What both last layers make, the one behind the sigmoid by its inverse."""
    session = runtime.session(model)
    runs = [list(runtime.run(session, batch.feeds).values()) for batch in batches]
    a, b = (np.concatenate(parts).astype(np.float64) for parts in zip(*runs, strict=True))
    return [a, np.log(b / (1 - b))]


@pytest.mark.parametrize("held", [1 << 20, 100])
def test_errors_are_those_of_whole_runs(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanged, "HELD", held)
    model = branches()
    batches = list(open_data("random:60", model, batch=20))
    wanted = logits(model, batches)
    exchanges = [other(model, "b.weight"), other(model, "first.weight"), other(model, "a.weight"), {}]
    found = errors(model, batches, exchanges)
    for error, exchange in zip(found, exchanges, strict=True):
        made = logits(model.replace(weights={**model.weights, **exchange}), batches)
        shares = [np.square(y - t).sum() / np.square(t).sum() for y, t in zip(made, wanted, strict=True)]
        assert error == pytest.approx(np.mean(shares), rel=1e-3 if held > 100 else 0.5)
    assert 0 == found[3] < min(found[:3])
    assert found == errors(model, batches, exchanges)


def test_outputs_that_explode_are_all_wrong() -> None:
    model = branches()
    data = open_data("random:20", model)
    assert errors(model, data, [other(model, "first.weight", 1e4), other(model, "a.weight", 1e38)]) == [1.0, 0.5]


def test_where_nothing_can_be_compared_nothing_is_wrong() -> None:
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 6, 3, name="first"), name="relu")
    n.output(n.op("Shape", n.conv(x, 5, name="second"), name="sizes"))
    model = prepared(n.proto())
    assert errors(model, open_data("random:4", model), [other(model, "second.weight")]) == [0.0]


def test_few_samples_at_even_distances() -> None:
    batches = [Batch({}, None, 16) for _ in range(40)]
    kept = [batches.index(each) for each in few(batches)]
    assert kept == list(range(0, 40, 8))
    assert few(batches[:3]) == batches[:3]
    assert few([Batch({}, None, 1000)])[0].count == 1000
