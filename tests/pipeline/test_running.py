"""A pipeline that is stopped and goes on ends as one that was not; what no longer holds is done again, no more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import nets
import numpy as np
import onnx
import pytest

from onnxprune import State, UserError, load
from onnxprune.data.sources import Request
from onnxprune.errors import VerificationError
from onnxprune.passes import (
    Analyze,
    Apply,
    Bench,
    Compensate,
    LoadPlan,
    Normalize,
    Prune,
    Save,
    Score,
    Select,
    Verify,
    read_pipeline,
)
from onnxprune.pipeline.artefacts import Kept, Record
from onnxprune.pipeline.held import held
from onnxprune.pipeline.manager import Pass
from onnxprune.pipeline.running import Report, preview, run_pipeline
from onnxprune.pipeline.stages import Measure, Pipeline, Stage

QUIET = Measure(seconds=0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    onnx.save(nets.resnet(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def long(*, ratio: float = 0.5, seed: int = 0) -> list[Stage]:
    """Every kind of thing that a state holds, and a branch."""
    return [
        Stage("normalize", Normalize()),
        Stage("analyze", Analyze()),
        Stage("score", Score("random", seed=seed, normalize="none")),
        Stage("select", Select(ratio=ratio, round_to=1)),
        Stage("apply", Apply()),
        Stage("verify", Verify()),
        Stage("compensate", Compensate(Request("random:16"))),
        Stage("raw", Bench(runs=6), start="input"),
        Stage("again", Prune(score=Score("l2")), start="verify"),
        Stage("late", Select(ratio=0.25, round_to=1), start="score"),
    ]


def pipeline(file: Path, folder: str, stages: Sequence[Stage], measure: Measure = QUIET) -> Pipeline:
    return Pipeline(stages, file, file.parent / folder, measure=measure)


def contents(folder: Path) -> dict[str, bytes]:
    """Models, plans and scores; times are different each time."""
    kept = [path for path in folder.rglob("*") if path.suffix == ".onnx" or path.name in ("plan.json", "scores.json")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(kept)}


def ran(report: Report) -> list[str]:
    return [row.name for row in report.stages[1:] if not row.kept]


def test_in_parts_as_at_once(file: Path) -> None:
    whole = run_pipeline(pipeline(file, "whole", long()))
    for length in range(1, len(long()) + 1):
        part = run_pipeline(pipeline(file, "parts", long()[:length]))
        assert ran(part) == [long()[length - 1].name]
    first, second = contents(file.parent / "whole"), contents(file.parent / "parts")
    assert set(first) == {
        "again/model.onnx",
        "again/original.onnx",
        "again/plan.json",
        "apply/model.onnx",
        "compensate/model.onnx",
        "compensate/plan.json",
        "late/plan.json",
        "normalize/model.onnx",
        "score/scores.json",
        "select/plan.json",
    }
    assert first == second
    assert whole.stages[1].figures is not None
    widths = [row.figures.params if row.figures else None for row in whole.stages]
    assert widths[0] == widths[1] != widths[5] == widths[7]
    assert widths[2:5] == [None] * 3
    assert all(row.options == other.options for row, other in zip(whole.stages, part.stages, strict=True))


def test_what_is_there_is_kept(file: Path) -> None:
    first = run_pipeline(pipeline(file, "run", long()))
    assert ran(first) == [stage.name for stage in long()]
    second = run_pipeline(pipeline(file, "run", long()))
    assert ran(second) == []
    for row, other in zip(first.stages[1:], second.stages[1:], strict=True):
        assert row == replace(other, kept=False)


def test_other_options_run_what_follows(file: Path) -> None:
    run_pipeline(pipeline(file, "run", long()))
    todo = preview(pipeline(file, "run", long(ratio=0.25)))
    why = {each.stage.name: each.why for each in todo if each.why}
    assert why == {
        "select": "its options or inputs have changed",
        "apply": "select runs",
        "verify": "apply runs",
        "compensate": "verify runs",
        "again": "verify runs",
    }
    before = contents(file.parent / "run")
    assert ran(run_pipeline(pipeline(file, "run", long(ratio=0.25)))) == list(why)
    after = contents(file.parent / "run")
    assert {name for name in before if before[name] != after[name]} == {
        "select/plan.json",
        "apply/model.onnx",
        "compensate/model.onnx",
        "compensate/plan.json",
        "again/model.onnx",
        "again/original.onnx",
        "again/plan.json",
    }
    run_pipeline(pipeline(file, "fresh", long(ratio=0.25)))
    assert after == contents(file.parent / "fresh")


def test_from_a_stage(file: Path) -> None:
    run_pipeline(pipeline(file, "run", long()))
    assert ran(run_pipeline(pipeline(file, "run", long()), start="verify")) == ["verify", "compensate", "again"]
    with pytest.raises(UserError, match="there is no stage 'verfy'; did you mean 'verify'"):
        run_pipeline(pipeline(file, "run", long()), start="verfy")


def test_another_input_is_another_run(file: Path) -> None:
    run_pipeline(pipeline(file, "run", long()[:2]))
    proto = onnx.load(file)
    onnx.save(proto, file)  # the same bytes at another time
    assert ran(run_pipeline(pipeline(file, "run", long()[:2]))) == []
    proto.graph.initializer[0].raw_data = np.ones(proto.graph.initializer[0].dims, np.float32).tobytes()
    onnx.save(proto, file)
    assert ran(run_pipeline(pipeline(file, "run", long()[:2]))) == ["normalize", "analyze"]


def test_files_that_passes_read_count(file: Path) -> None:
    np.save(file.parent / "x.npy", np.zeros((4, 3, 8, 8), np.float32))
    run_pipeline(pipeline(file, "run", long()[:5]))
    plan = file.parent / "plan.json"
    plan.write_bytes((file.parent / "run/select/plan.json").read_bytes())
    data = Request(str(file.parent / "x.npy"))
    stages = [Stage("n", Normalize()), Stage("plan", LoadPlan(plan)), Stage("apply", Apply())]
    stages += [Stage("v", Verify()), Stage("c", Compensate(data))]
    assert len(ran(run_pipeline(pipeline(file, "other", stages)))) == 5
    np.save(file.parent / "x.npy", np.ones((4, 3, 8, 8), np.float32))
    assert ran(run_pipeline(pipeline(file, "other", stages))) == ["c"]
    plan.write_text(plan.read_text().replace('"random"', '"chance"'))
    assert ran(run_pipeline(pipeline(file, "other", stages))) == ["plan", "apply", "v", "c"]


@pytest.mark.parametrize(
    ("name", "harm", "why"),
    [
        ("stage.json", lambda path: path.unlink(), "not done yet"),
        ("stage.json", lambda path: path.write_text("{"), "stage.json is damaged"),
        ("stage.json", lambda path: path.write_text('{"format": 1}'), "stage.json is damaged"),
        ("stage.json", lambda path: path.write_bytes(b"\xff"), "stage.json is damaged"),
        ("model.onnx", lambda path: path.unlink(), "normalize/model.onnx is gone"),
        ("model.onnx", lambda path: path.write_bytes(path.read_bytes()[:-1]), "normalize/model.onnx has been changed"),
    ],
)
def test_what_is_not_whole_does_not_count(name: str, harm: Callable[[Path], object], why: str, file: Path) -> None:
    run_pipeline(pipeline(file, "run", long()[:2]))
    before = contents(file.parent / "run")
    harm(file.parent / "run/normalize" / name)
    (file.parent / "run/normalize/.model.onnx.0badc0de.tmp").write_text("left by a kill")
    todo = preview(pipeline(file, "run", long()[:2]))
    assert [each.why for each in todo] == [why, "normalize runs"]
    run_pipeline(pipeline(file, "run", long()[:2]))
    assert contents(file.parent / "run") == before
    assert sorted(path.name for path in (file.parent / "run/normalize").iterdir()) == [
        "figures.json",
        "model.onnx",
        "stage.json",
    ]


def test_a_run_that_is_killed_goes_on(file: Path) -> None:
    script = f"""
import os, signal, sys
sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}
from test_running import long, pipeline
from onnxprune import Observer
from onnxprune.passes import Compensate
from onnxprune.pipeline.running import run_pipeline
from pathlib import Path

class Kill(Observer):
    def before(self, step, state):
        if isinstance(step, Compensate):
            os.kill(os.getpid(), signal.SIGKILL)

run_pipeline(pipeline(Path({str(file)!r}), "run", long()), observers=[Kill()])
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    summary = json.loads((file.parent / "run/summary.json").read_text())
    assert (summary["done"], len(summary["stages"])) == (False, 7)
    assert ran(run_pipeline(pipeline(file, "run", long()))) == ["compensate", "raw", "again", "late"]
    assert json.loads((file.parent / "run/summary.json").read_text())["done"] is True
    run_pipeline(pipeline(file, "whole", long()))
    assert contents(file.parent / "run") == contents(file.parent / "whole")


@dataclass(frozen=True)
class Slow:
    """Counts in its folder how far it came; stops at two the first time."""

    folder: str | Path | None = None
    goal: int = 3
    needs: ClassVar[tuple[str, ...]] = ("model",)
    gives: ClassVar[tuple[str, ...]] = ()
    drops: ClassVar[tuple[str, ...]] = ()

    def run(self, state: State) -> State:
        assert self.folder is not None
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        steps = sorted(folder.iterdir())
        for number in range(len(steps), self.goal):
            (folder / str(number)).write_text("")
            if not steps and number == 1:
                raise UserError("stopped")
        return replace(state, notes=(f"{len(steps)} were there",))


def test_a_pass_that_can_go_on_is_given_a_folder(file: Path) -> None:
    with pytest.raises(UserError, match="stage 'slow': stopped"):
        run_pipeline(pipeline(file, "run", [Stage("slow", Slow())]))
    report = run_pipeline(pipeline(file, "run", [Stage("slow", Slow())]))
    assert report.stages[1].notes == ("2 were there",)
    with pytest.raises(UserError, match="stopped"):  # other options have another folder
        run_pipeline(pipeline(file, "run", [Stage("slow", Slow(goal=4))]))


def test_a_failed_check_stays_one(file: Path) -> None:
    @dataclass(frozen=True)
    class Fail:
        needs: ClassVar[tuple[str, ...]] = ("model",)
        gives: ClassVar[tuple[str, ...]] = ("model",)
        drops: ClassVar[tuple[str, ...]] = ()

        def run(self, state: State) -> State:
            raise VerificationError("no")

    step: Pass = Fail()  # type: ignore[assignment]  # a test's own
    with pytest.raises(VerificationError, match="stage 'fail': no"):
        run_pipeline(pipeline(file, "run", [Stage("n", Normalize()), Stage("fail", step)]))
    assert [each.why for each in preview(pipeline(file, "run", [Stage("n", Normalize())]))] == [""]


def test_what_a_pass_writes_elsewhere_has_to_stay(file: Path) -> None:
    target = file.parent / "small.onnx"
    stages = [Stage("prune", Prune()), Stage("save", Save(target))]
    run_pipeline(pipeline(file, "run", stages))
    made = target.read_bytes()
    assert made == (file.parent / "run/prune/model.onnx").read_bytes()
    assert ran(run_pipeline(pipeline(file, "run", stages))) == []
    target.unlink()
    assert ran(run_pipeline(pipeline(file, "run", stages))) == ["save"]
    assert target.read_bytes() == made
    for twice in (file, target):
        again = [*stages, Stage("second", Save(twice))]
        with pytest.raises(UserError, match="stage 'second': .* is what the pipeline begins with, or what another"):
            preview(pipeline(file, "run", again))
    nowhere = [Stage("prune", Prune()), Stage("save", Save(file.parent / "gone/small.onnx"))]
    with pytest.raises(UserError, match=r"stage 'save': cannot write .* does not exist"):
        preview(pipeline(file, "run", nowhere))


def test_figures(file: Path) -> None:
    measure = Measure(Request("random:8"), seconds=0.01)
    report = run_pipeline(pipeline(file, "run", [Stage("prune", Prune(select=Select(ratio=0.5)))], measure))
    first, second = (row.figures for row in report.stages)
    assert first is not None
    assert second is not None
    assert first.evaluation is not None
    assert second.evaluation is not None
    assert (first.verdict, first.evaluation.deviation, first.evaluation.agreement) == ("reference", 0.0, 1.0)
    assert 0 < second.evaluation.deviation < 2  # type: ignore[operator]  # compared
    assert second.evaluation.samples == 8
    assert second.macs < first.macs
    assert second.params < first.params
    assert (first.latency_ms or 0) > 0
    assert (second.speedup or 0) > 0
    again = run_pipeline(pipeline(file, "run", [Stage("prune", Prune(select=Select(ratio=0.5)))], measure))
    assert [row.figures for row in again.stages] == [first, second]
    more = replace(measure, data=Request("random:9"))
    other = run_pipeline(pipeline(file, "run", [Stage("prune", Prune(select=Select(ratio=0.5)))], more))
    assert ran(other) == []
    assert other.stages[1].figures is not None
    assert other.stages[1].figures.evaluation is not None
    assert other.stages[1].figures.evaluation.samples == 9


def test_nobody_s_files_are_in_the_way(file: Path) -> None:
    with pytest.raises(UserError, match="is not empty, and no pipeline ran there: name a new folder"):
        run_pipeline(pipeline(file, ".", long()))
    assert [path.name for path in file.parent.iterdir()] == ["m.onnx"]
    preview(pipeline(file, "new", long()))
    assert not (file.parent / "new").exists()


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "at least one stage"),
        ([Stage("a", Normalize()), Stage("A", Normalize())], "'A' is given to two stages"),
        ([Stage("input", Normalize())], "'input' is the name of what comes in"),
        ([Stage("../x", Normalize())], "a stage's name is made of letters, digits, _ and -, 64 at most, unlike '../x'"),
        ([Stage("a", Normalize(), start="b")], "stage 'a' starts from 'b', which is no earlier stage"),
        (
            [Stage("a", Normalize()), Stage("b", Analyze(), start="input")],
            "stage 'b': Analyze needs a normalised",
        ),
        ([Stage("a", Normalize()), Stage("b", Apply())], "stage 'b': Apply needs a plan; add Select (or LoadPlan)"),
        ([Stage("a", Prune(score=Score("zz")))], "stage 'a': unknown criterion 'zz'"),
    ],
)
def test_what_cannot_run_is_not_built(stages: list[Stage], message: str, file: Path) -> None:
    with pytest.raises(UserError) as error:
        pipeline(file, "run", stages)
    assert message in str(error.value)


def test_dims_are_those_of_the_model(file: Path) -> None:
    wrong = replace(pipeline(file, "run", long()), dims={"btach": 2})
    with pytest.raises(UserError, match="btach"):
        preview(wrong)


def test_a_state_has_no_field_that_is_forgotten() -> None:
    """A new one has to be kept and taken up again, or analysed again, or be of no use to later passes."""
    known = {item.name for item in fields(Record)} | {"bench"}
    assert {item.name for item in fields(State)} <= known
    assert {item.name for item in fields(Kept)} <= known | {"state"}


def test_the_result_is_a_model_like_any_other(file: Path) -> None:
    run_pipeline(pipeline(file, "run", long()))
    onnx.checker.check_model(onnx.load(file.parent / "run/again/model.onnx"), full_check=True)
    assert load(file.parent / "run/again/model.onnx").weights


FACTORY = """
import torch

def small():
    torch.manual_seed({seed})
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3)
    )
"""


def test_it_may_begin_with_a_torch_module(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "factory_of_running.py").write_text(FACTORY.format(seed=0))
    text = """
[measure]
seconds = 0
[[stage]]
pass = "export"
factory = "factory_of_running:small"
inputs = ["1,3,8,8"]
[[stage]]
pass = "prune"
[[stage]]
pass = "fold"
from = "export"
"""
    (tmp_path / "p.toml").write_text(text)
    asked = read_pipeline(tmp_path / "p.toml", folder=tmp_path / "run")
    assert {each.why for each in preview(asked)} == {"the model is exported first"}
    assert not (tmp_path / "run").exists()
    assert ran(run_pipeline(asked)) == ["prune", "fold"]
    assert load(tmp_path / "run" / "export.onnx").weights["0.weight"].shape == (8, 3, 3, 3)
    assert load(tmp_path / "run" / "prune" / "model.onnx").weights["0.weight"].shape[0] < 8
    assert ran(run_pipeline(asked)) == []
    (tmp_path / "factory_of_running.py").write_text(FACTORY.format(seed=1) + "# another\n")
    assert {each.why for each in preview(asked)} == {"the model is exported first"}
    for change, said in (
        ("export.factory=small", "factory must be the name of a function, module:function, not 'small'"),
        ("export.inputs=[]", "give an example of each input"),
        ("model=x.onnx", "the first stage exports one"),
        ("fold.pass=export", "it is the first stage, or none"),
    ):
        with pytest.raises(UserError, match=said):
            read_pipeline(tmp_path / "p.toml", changes=[change])


def test_one_run_at_a_time(file: Path) -> None:
    asked = pipeline(file, "run", [Stage("normalize", Normalize())])
    with held(Path(asked.folder)), pytest.raises(UserError, match="another run is at work"):
        run_pipeline(asked)
    assert run_pipeline(asked).done
