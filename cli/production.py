"""What `prune` and `apply` have in common: from a plan to a file that appears only after it has passed its checks.

    ... -> plan -> Apply -> Verify -> Bench -> Save

Everything that can be refused is refused before the first of these; whatever fails on the way leaves no file.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from onnxprune.accuracy.evaluate import Evaluation, Reference, evaluate
from onnxprune.analysis.coupling import Reason
from onnxprune.cli import data_arguments
from onnxprune.cli.files import distinct
from onnxprune.cli.outcome import Outcome
from onnxprune.cli.progress import Activity, Narrator
from onnxprune.cli.source import Source, default_path, opened
from onnxprune.cli.talk import Talk
from onnxprune.counting.cost import cost
from onnxprune.cutting import plan_json
from onnxprune.cutting.plan import Plan
from onnxprune.data.sources import Request
from onnxprune.errors import UserError
from onnxprune.files.replacing import check_writable
from onnxprune.files.store import check_apart, check_target, data_file
from onnxprune.passes import Apply, Bench, Choose, Normalize, Save, Score, Select, Spare, Steps, Verify
from onnxprune.passes.compensate import MakeUp, make_up
from onnxprune.pipeline.manager import Observer, Pass, PassManager, State, Timings
from onnxprune.repair.layer_errors import LayerError, layer_errors

BENCH_SECONDS = 2.0
"""How long the original and the result run against each other."""


class Kept(Observer):
    """Measures what was kept when the model is about to be written, so that the plan can say it."""

    def __init__(self, measured: Measured | None, source: Source, threads: int, activity: Activity) -> None:
        self.measured, self.source, self.threads, self.activity = measured, source, threads, activity
        self.found: tuple[Evaluation, Evaluation] | None = None
        self.layers: tuple[LayerError, ...] = ()

    def before(self, step: Pass, state: State) -> None:
        if not isinstance(step, Save) or self.measured is None or state.original is None or state.plan is None:
            return
        self.activity.step("measuring what was kept")
        self.found = _evaluated(self.measured, self.source, state, self.threads)
        request = self.measured.data or self.measured.calib
        if self.measured.layers and request is not None:
            data = data_arguments.opened(request, state.original, self.source.dims)
            self.layers = layer_errors(state.original, state.model, state.plan, data, threads=self.threads)

    def noted(self, plan: Plan) -> Plan:
        """The plan with what was measured in its record."""
        if self.found is None:
            return plan
        before, after = (each.figures() for each in self.found)
        return replace(plan, meta={**plan.meta, "measured": {"original": before, "pruned": after}})


class PlanFile(Observer):
    """Writes the plan when the model is about to be written; it appears when `pending` ends well, else never."""

    def __init__(self, path: Path, pending: ExitStack, kept: Kept) -> None:
        self.path, self.pending, self.kept = path, pending, kept

    def before(self, step: Pass, state: State) -> None:
        if isinstance(step, Save) and state.plan is not None:
            self.pending.enter_context(plan_json.saving(self.kept.noted(state.plan), self.path))


class Notes(Observer):
    """Collects what passes have to say, since later ones forget it."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def after(self, step: Pass, state: State, seconds: float) -> None:
        if not {"scores", "plan"}.isdisjoint(step.gives) or isinstance(step, MakeUp):
            self.add(state.notes)

    def add(self, notes: Iterable[str]) -> None:
        """Each once."""
        self.found += [note for note in dict.fromkeys(notes) if note not in self.found]


class Skipped(Observer):
    """Remembers the groups that the criterion had nothing to say about; later passes forget the scores."""

    def __init__(self) -> None:
        self.reasons: Mapping[str, Reason] = {}

    def after(self, step: Pass, state: State, seconds: float) -> None:
        if "scores" in step.gives and state.scores is not None:
            self.reasons = state.scores.skipped


class Measured(Protocol):
    """What to measure on, and by what."""

    @property
    def data(self) -> Request | None:
        """None: nothing is measured."""

    @property
    def calib(self) -> Request | None:
        """What to compensate on; None: nothing is."""

    @property
    def compensate(self) -> str:
        """By what."""

    @property
    def metric(self) -> str | None:
        """None: accuracy, agreement and distance."""

    @property
    def layers(self) -> bool:
        """Whether every layer is compared."""


@dataclass(frozen=True)
class Job:
    """Where it comes from and where it goes."""

    model: Path
    output: Path
    plan: Path | None
    """A file to write the plan to."""
    embedded: bool
    """The model is the one that is shipped, whose accuracy can be measured."""
    also: tuple[Path, ...] = ()
    """What else will be written, by others."""


def job(args: Namespace, *, plan: str | None = None, given: Sequence[Path] = (), also: Sequence[Path] = ()) -> Job:
    """The files, checked: none may be written over another, but the model may be replaced by its pruned self."""
    path = Path(args.model) if args.model else default_path()
    output = Path(args.output) if args.output else Path(f"{path.stem}-pruned.onnx")
    written = Path(plan) if plan else None
    check_writable(output)
    beside = [*([written] if written is not None else []), *also]
    for file in beside:
        check_writable(file)
    distinct([path, *beside])
    others = [*given, *beside]
    distinct([output, *others])
    for file in others:
        if file.resolve() == data_file(output).resolve():
            raise UserError(f"{str(file)!r} is where the weights of {str(output)!r} would go; choose another name")
    return Job(path, output, written, embedded=not args.model, also=tuple(also))


def produce(
    job: Job,
    makers: Sequence[Pass],
    args: Namespace,
    talk: Talk,
    measured: Measured | None = None,
    watching: Sequence[Observer] = (),
) -> Outcome:
    """Run the whole pipeline, `makers` being the passes that lead to the plan."""
    timings, skipped, notes = Timings(), Skipped(), Notes()
    with Activity(talk) as activity:
        activity.step("reading")
        source = opened(job.model, args.dim)
        check_target(source.model, job.output)
        kept = Kept(measured, source, args.threads, activity)
        observers: list[Observer] = [Narrator(activity, talk), timings, skipped, notes, *watching, kept]
        check_apart(source.model, job.also)
        with ExitStack() as pending:
            if job.plan is not None:
                check_apart(source.model, [job.plan])
                observers.append(PlanFile(job.plan, pending, kept))
            state = PassManager(_passes(job, makers, measured, args, source, activity), observers).run(source.model)
        activity.step("counting")
        notes.add(note for each in kept.found or () for note in each.notes)
        found = replace(_outcome(job, source, state, kept), notes=notes.found)
    for reason in dict.fromkeys(reason.sentence for reason in skipped.reasons.values()):
        talk.note(f"left whole: {reason}")
    for note in (*notes.found, *found.verification.notes):
        talk.note(f"note: {note}")
    talk.detail(f"{'in all':<10} {sum(seconds for _, seconds in timings.seconds):7.3f} s")
    for file in found.files:
        talk.note(f"wrote {file}")
    return found.timed(timings.seconds, skipped.reasons)


def _passes(
    job: Job, makers: Sequence[Pass], measured: Measured | None, args: Namespace, source: Source, activity: Activity
) -> list[Pass]:
    # one digit takes microseconds, which is all noise
    timed = source.dims or ({"batch": 64} if job.embedded else {})
    told = [replace(step, on_progress=activity.part) if isinstance(step, Score | Steps) else step for step in makers]
    passes: list[Pass] = [Normalize(), *(_sized(step, source, timed) for step in told), Apply()]
    passes.append(Verify(mode=args.verify, dims=source.dims, threads=args.threads))
    if measured is not None and measured.calib is not None:
        made_up = make_up(measured.compensate, measured.calib, args.threads, activity.part)
        judged = [replace(step, judge=measured.data, metric=measured.metric) for step in made_up]
        passes += [_sized(step, source, timed) for step in judged]
    if args.verify == "numeric" and not args.no_bench:
        passes.append(Bench(threads=args.threads, dims=timed, seconds=BENCH_SECONDS))
    return [*passes, Save(job.output)]


def _sized(step: Pass, source: Source, timed: Mapping[str, int]) -> Pass:
    """The pass, told the sizes of free dimensions."""
    dims = tuple(source.dims.items())
    if isinstance(step, MakeUp):
        judge = replace(step.judge, dims=dims) if step.judge is not None else None
        return replace(step, data=replace(step.data, dims=dims), judge=judge)
    if isinstance(step, Score) and step.data is not None:
        return replace(step, data=replace(step.data, dims=dims))
    if isinstance(step, Select):
        return replace(step, dims=source.dims, timed_dims=timed)
    if isinstance(step, Spare):
        calib = replace(step.calib, dims=dims) if step.calib is not None else None
        select = replace(step.select, dims=source.dims, timed_dims=timed)
        return replace(step, select=select, data=replace(step.data, dims=dims), calib=calib)
    if isinstance(step, Choose):
        select = replace(step.select, dims=source.dims, timed_dims=timed)
        return replace(step, select=select, data=replace(step.data, dims=dims))
    if isinstance(step, Steps):
        score = replace(step.score, data=replace(step.score.data, dims=dims)) if step.score.data else step.score
        select = replace(step.select, dims=source.dims, timed_dims=timed)
        return replace(step, score=score, select=select, verify=replace(step.verify, dims=source.dims))
    return step


def _evaluated(measured: Measured, source: Source, state: State, threads: int) -> tuple[Evaluation, Evaluation] | None:
    """What the two models do on the user's data."""
    if measured.data is None:
        return None
    assert state.original is not None
    dataset = data_arguments.opened(measured.data, state.original, source.dims)
    original = Reference(state.original, dataset, threads=threads)
    options: dict[str, Any] = {"original": original, "metric": measured.metric, "threads": threads}
    return evaluate(state.original, dataset, **options), evaluate(state.model, dataset, **options)


def _outcome(job: Job, source: Source, state: State, kept: Kept) -> Outcome:
    assert state.original is not None
    assert state.plan is not None
    assert state.verification is not None
    return Outcome(
        model=job.model,
        output=job.output,
        plan_file=job.plan,
        plan=kept.noted(state.plan),
        before=cost(state.original, source.dims),
        after=cost(state.model, source.dims),
        verification=state.verification,
        bench=state.bench,
        kept=kept.found,
        layers=kept.layers,
    )
