"""Whether two models compute the same: the proof of a rewriting that must change nothing but rounding."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx

from onnxprune.checking.verify import TOLERANCE, relative
from onnxprune.errors import VerificationError
from onnxprune.execution.inputs import Feeds
from onnxprune.execution.runtime import run, session
from onnxprune.files.model import Model
from onnxprune.graph.probes import probes
from onnxprune.graph.shapes import infer


def difference(before: Model, after: Model, feeds: Iterable[Feeds], *, threads: int = 1) -> float:
    """The largest relative difference at what can be compared; `VerificationError` where it is more than rounding."""
    names = probes(before.graph, infer(before))
    sessions = [session(_exposed(model, names), threads=threads) for model in (before, after)]
    worst, where = 0.0, ""
    for each in feeds:
        ours, theirs = (run(one, each) for one in sessions)
        for name in names:
            gap = relative(np.asarray(ours[name], np.float64), np.asarray(theirs[name], np.float64))
            if not gap <= worst:
                worst, where = gap, name
    if not worst <= TOLERANCE:
        raise VerificationError(
            f"verification failed: {where!r} differs by {worst:.3g} from what it was (at most {TOLERANCE:g} is float "
            "noise)"
        )
    return worst


def _exposed(model: Model, names: list[str]) -> Model:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    present = {item.name for item in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return model.replace(proto=proto)
