"""How many samples one run of a model takes: the size of the free dimension that is a batch."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.errors import OpenSizes, UserError
from onnxprune.execution.inputs import Feeds
from onnxprune.files.model import Model
from onnxprune.graph.dims import LONGEST, Dims, candidates, inputs_of, kind_of
from onnxprune.text.kinds import is_whole


def bind_batch(models: Sequence[Model], dims: Dims, batch: int) -> dict[str, int]:
    """The sizes with every free batch dimension of the models bound to `batch`."""
    if not (is_whole(batch) and 1 <= batch <= LONGEST):
        raise UserError(f"a batch must be a whole number from 1 to {LONGEST}, not {batch!r}")
    inputs = [x for model in models for x in inputs_of(model, dims)]
    free, unbound = (candidates(inputs, given, batch=batch)[0] for given in (dims, {}))
    keys = [key for key in free if kind_of(inputs, key) == "batch"]
    for key in keys:
        if free[key] != batch == unbound[key]:
            raise OpenSizes(f"--batch {batch} contradicts --dim, which makes {key!r} {free[key]}")
    if not keys and batch != 1:
        listed = f"the free dimensions are {', '.join(free)}, use --dim" if free else "all inputs are of fixed size"
        raise OpenSizes(f"--batch {batch}: no input has a free batch dimension; {listed}")
    return {**dims, **{key: batch for key in keys if key not in dims}}


def samples(model: Model, feeds: Feeds) -> int:
    """In one run on these inputs; a model without a free batch dimension takes one."""
    try:
        inputs = inputs_of(model)
    except UserError:  # an input that is no tensor
        return 1
    for x in inputs:
        for axis, key in enumerate(x.shape):
            if isinstance(key, str) and kind_of(inputs, key) == "batch" and x.name in feeds:
                return int(feeds[x.name].shape[axis])
    return 1
