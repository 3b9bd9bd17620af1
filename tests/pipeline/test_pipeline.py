"""A manager that cannot run is not built, and mistakes in calls are told from bugs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import PassManager, State
from onnxprune.errors import UserError
from onnxprune.passes import Analyze, Apply, Bench, Normalize, Save, Score, Select, Verify


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w1", (8, 3, 1, 1)), ("w2", (5, 8, 1, 1)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="c1"),
        helper.make_node("Conv", ["a", "w2"], ["y"], name="c2"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5, 4, 4])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


STEPS = [Normalize(), Analyze(), Score(), Select(), Apply()]


def test_a_whole_pipeline_twice_over(file: Path) -> None:
    state = PassManager([*STEPS, *STEPS, Verify()]).run(file)
    assert state.verification is not None
    assert state.verification.ok
    assert state.model.weights["w1"].shape == (4, 3, 1, 1)  # 8, 6, 4


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ([], "takes a list of passes, as in [Normalize(), Analyze()], not []"),
        (None, "takes a list of passes, as in [Normalize(), Analyze()], not None"),
        ("Normalize", "takes a list of passes, as in [Normalize(), Analyze()], not 'Normalize'"),
        (["Normalize"], "takes a list of passes, as in [Normalize(), Analyze()], not 'Normalize'"),
        (Normalize(), "takes a list of passes, as in [Normalize(), Analyze()], not Normalize()"),
        ([Normalize, Analyze], "not the class Normalize: write Normalize()"),
        ([Analyze()], "Analyze needs a normalised model; add Normalize before it"),
        ([Normalize(), Apply()], "Apply needs a plan; add Select (or LoadPlan) before it"),
        ([*STEPS, Apply()], "Apply needs a normalised model; add Normalize earlier: it comes too late, or the model"),
        ([*STEPS, Save("x.onnx")], "Save needs a verification; add Verify before it"),
        ([Normalize(), Analyze("heads"), Score("zz")], "unknown criterion 'zz'"),
        ([Normalize(), Analyze(attention="head")], "attention must be one of heads, dims, off, not 'head'"),
        ([Normalize(), Analyze(), Score(reduce="avg")], "unknown reduce 'avg'"),
        ([*STEPS[:3], Select(ratio=3)], "ratio must lie between 0 and 1, both excluded, not 3"),
        ([*STEPS[:3], Select(targets=("mac=0.5",))], "unknown target 'mac'"),
        ([*STEPS, Verify(mode="numbers")], "verification must be one of numeric, structural, off, not 'numbers'"),
        ([*STEPS, Verify(threads=-1)], "threads must be a whole number from 0 to 1024, not -1"),
        ([Bench(runs=0)], "at least one run"),
    ],
)
def test_what_cannot_run_is_not_built(passes: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        PassManager(passes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pass_of_ones_own_needs_no_check(file: Path) -> None:
    @dataclass(frozen=True)
    class Look:
        needs: ClassVar[tuple[str, ...]] = ("model",)
        gives: ClassVar[Sequence[str]] = ()
        drops: ClassVar[Sequence[str]] = ()

        def run(self, state: State) -> State:
            return state

    assert list(PassManager([Look()]).run(file).model.weights) == ["w1", "w2"]  # type: ignore[list-item]  # a test's own


def test_the_commonest_mistakes_in_calls(file: Path) -> None:
    proto: Any = onnx.load(file)
    model = onnxprune.load(file)
    coupling = onnxprune.analyze(model)
    wrong: list[tuple[Any, str]] = [
        (lambda: onnxprune.load(proto), "a model is loaded from the path of a file, not from ModelProto"),
        (lambda: PassManager([Normalize()]).run(proto), "from the path of a file, not from ModelProto"),
        (lambda: onnxprune.analyze(proto), "analyze takes the Model that onnxprune.load(path) returns, not ModelProto"),
        (lambda: onnxprune.analyze(str(file)), "analyze takes the Model"),  # type: ignore[arg-type]  # the mistake
        (lambda: onnxprune.normalize(proto), "normalize takes the Model"),
        (lambda: onnxprune.score(proto, coupling), "score takes the Model"),
        (lambda: onnxprune.score(model.replace(weights={}), coupling), "the groups are not those of this model"),
        (lambda: onnxprune.bench(file), "give a list of at least one model"),  # type: ignore[arg-type]  # the mistake
        (lambda: onnxprune.bench([file], names=[]), "there are 1 models, but 0 names"),
    ]
    for call, message in wrong:
        with pytest.raises(UserError) as error:
            call()
        assert message in str(error.value)
