"""Score, select and verify several times, each time on what the last one left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from onnxprune.counting.meter import Meter
from onnxprune.cutting import plan_json
from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Plan
from onnxprune.data.sources import reopened
from onnxprune.errors import NothingToCut, Unreachable, UserError
from onnxprune.passes.score import Score
from onnxprune.passes.select import Select
from onnxprune.passes.verify import Verify
from onnxprune.pipeline.journal import Journal, digest
from onnxprune.pipeline.manager import State, changed
from onnxprune.scoring.scores import Scores
from onnxprune.selection.schedule import check_options, continued, left_after, remaining
from onnxprune.selection.select import enlarged
from onnxprune.targets.clock import StopWatch
from onnxprune.targets.grammar import parse


@dataclass(frozen=True)
class Steps:
    """A plan in several steps. What a stopped run has done is taken up again where there is a folder for it."""

    score: Score = field(default_factory=Score)
    select: Select = field(default_factory=Select)
    verify: Verify = field(default_factory=Verify)
    steps: int = 1
    schedule: str = "linear"
    folder: str | Path | None = None
    """Where every step's plan is kept; None: nowhere."""
    on_progress: Callable[[float], None] | None = field(default=None, repr=False, compare=False)
    """Called with the part of the steps that is over."""

    needs: ClassVar[tuple[str, ...]] = ("model", "normalized", "coupling")
    gives: ClassVar[tuple[str, ...]] = ("scores", "plan")
    drops: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        check_options(self.steps, self.schedule)
        self.score.check()
        self.select.check()
        self.verify.check()

    def run(self, state: State) -> State:
        assert state.coupling is not None
        way = _Way(self, state)
        notes = list(way.notes)
        plan, scores = way.taken, None
        wanted = self._targets(state)
        for step in range(way.done + 1, self.steps + 1):
            if self.on_progress is not None and step > 1:
                self.on_progress((step - 1) / self.steps)
            scores = self._scores(state, plan)
            try:
                made = self._step(wanted, step).run(changed(state, scores=scores))
            except Unreachable as error:
                error.args = (f"step {step} of {self.steps}: {error}",)
                raise
            except NothingToCut:
                if step == self.steps and plan is None:
                    raise
                continue  # a small step that no block is small enough for; the next one is bigger
            assert made.plan is not None
            notes += [note for note in made.notes if note not in notes]
            plan = made.plan if plan is None else enlarged(made.plan, plan, state.coupling, scores)
            pruned = apply(state.model, plan)
            self.verify.run(State(pruned, original=state.model, plan=plan))
            way.took(step, plan)
        assert plan is not None
        return changed(
            state, scores=scores, plan=replace(plan, meta=dict(plan.meta) | self._meta()), notes=tuple(notes)
        )

    def _meta(self) -> dict[str, Any]:
        asked: dict[str, Any] = {"targets": list(self.select.targets)} if self.select.targets else {}
        asked |= {} if self.select.targets else {"ratio": self.select.ratio}
        return {"steps": self.steps, "schedule": self.schedule, **asked}

    def _scores(self, state: State, plan: Plan | None) -> Scores:
        """Of what is left."""
        assert state.coupling is not None
        if plan is None:
            found = self.score.run(state).scores
            assert found is not None
            return found
        left = State(apply(state.model, plan), coupling=remaining(state.coupling, plan))
        found = self.score.run(left).scores
        assert found is not None
        return continued(state.coupling, plan, found)

    def _targets(self, state: State) -> Mapping[str, float]:
        """What should be left of each kind in the end, as parts of the original."""
        assert state.coupling is not None
        left: dict[str, float] = {}
        meter = Meter(state.model, state.coupling, self.select.dims)
        whole = meter.usage({})
        for target in parse(self.select.targets):
            if target.kind == "ratio":
                left[target.kind] = 1 - target.value
            elif not target.absolute:
                left[target.kind] = target.value
            elif target.kind == "latency":
                watch = StopWatch(state.model, threads=self.select.threads, dims=self.select.timed)
                left[target.kind] = target.value / watch.original_ms()
            else:
                left[target.kind] = target.value / float(getattr(whole, target.kind.replace("-", "_")))
        return left

    def _step(self, wanted: Mapping[str, float], step: int) -> Select:
        if step == self.steps:
            return self.select
        if not self.select.targets:
            return replace(self.select, ratio=1 - left_after(self.schedule, 1 - self.select.ratio, step, self.steps))
        now = {kind: left_after(self.schedule, left, step, self.steps) for kind, left in wanted.items() if left < 1}
        texts = [f"{kind}={(1 - left if kind == 'ratio' else left):.6f}" for kind, left in now.items()]
        return replace(self.select, targets=tuple(texts))


class _Way:
    """The plans of the steps taken so far."""

    def __init__(self, options: Steps, state: State) -> None:
        self.done = 0
        self.taken: Plan | None = None
        self.notes: list[str] = []
        self.journal: Journal | None = None
        if options.folder is None:
            return
        assert state.coupling is not None
        facts: dict[str, Any] = {name: asdict(getattr(options, name)) for name in ("score", "select")}
        del facts["score"]["on_progress"]  # who is told makes no other run
        if options.score.data is not None:
            facts["data"] = reopened(options.score.data, state.model).digest
        # what analysis was allowed to offer shows in its groups
        groups = [(group.name, group.size, len(group.slots)) for group in state.coupling.groups]
        facts |= {"steps": options.steps, "schedule": options.schedule, "model": digest(state.model), "groups": groups}
        self.journal = Journal(options.folder, facts)
        for step in range(options.steps, 0, -1):
            taken = self._read(step)
            if taken is not None:
                self.taken, self.done = taken, step
                self.notes.append(f"going on after step {step} of {options.steps}, from {str(self.journal.folder)!r}")
                break

    def _read(self, step: int) -> Plan | None:
        assert self.journal is not None
        file = self.journal / _name(step)
        if not file.exists():
            return None
        try:
            plan = plan_json.load(file)
        except UserError:
            plan = None
        if plan is None or plan.meta.get("step") != step:
            self.notes.append(f"{str(file)!r} was damaged or is of another step; taken anew")
            return None
        return plan

    def took(self, step: int, plan: Plan) -> None:
        """Remember it."""
        if self.journal is not None:
            plan_json.save(replace(plan, meta={**plan.meta, "step": step}), self.journal / _name(step))


def _name(step: int) -> str:
    return f"step-{step:04d}.json"
