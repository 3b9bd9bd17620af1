"""From ONNX to a trained torch module and back: what `onnxprune.finetune` does, step by step.

model ─ [new weights] ─ to_torch ─► module ─ train ─► the best epoch's weights ─ from_torch ─► tuned ─ verify
teacher ─ to_torch ─► frozen module ──────┘
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from onnxprune.accuracy.evaluate import Evaluation, evaluate
from onnxprune.analysis.analyze import analyze
from onnxprune.bridge import from_torch, roles, to_torch, verify_torch
from onnxprune.bridge.which_train import Role
from onnxprune.data.images import ImageFiles
from onnxprune.data.sources import Dataset
from onnxprune.errors import NoData, UnfitData, UserError
from onnxprune.files.model import Model
from onnxprune.graph.normalize import normalize
from onnxprune.graph.probes import FLOATS
from onnxprune.pipeline.held import held
from onnxprune.pipeline.journal import digest
from onnxprune.timing.bench import bench
from onnxprune.training import distil, taps
from onnxprune.training.augment import Augment
from onnxprune.training.checkpoint import Keeper, freed
from onnxprune.training.feed import Feed, laid_out
from onnxprune.training.log import Epoch
from onnxprune.training.loop import Moment, Trained, Watch, train
from onnxprune.training.losses import Classification, Loss, Task
from onnxprune.training.ranks import Ranks, joined
from onnxprune.training.recipe import Recipe
from onnxprune.training.samples import Samples, samples_of
from onnxprune.training.scratch import reinitialised
from onnxprune.training.sparsity import Pressure, group_lasso, scale_lasso

BENCH_SECONDS = 2.0
_NAMED = re.compile(r"\w+ '[^']*'")
MOST_REASONS = 5
"""Told of weights that do not train."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """What came of it."""

    model: Model
    trained: Trained
    before: Evaluation | None
    """Of the model that came in, on the validation data; None: there is none."""
    after: Evaluation | None
    error: float
    """How far onnxruntime and torch are apart, relative."""
    first: bool = True
    """This process is the one that writes."""
    folder: Path | None = None
    """Where the checkpoint lies."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that `finetune` was asked for."""

    model: Model
    data: Dataset
    val: Dataset | None
    teacher: Model | None
    recipe: Recipe
    from_scratch: bool
    train: tuple[str, ...]
    freeze: tuple[str, ...]
    device: str
    folder: Path | None
    tensorboard: bool
    bench: bool
    on_doing: Callable[[str, float | None], None] | None
    on_step: Callable[[Moment], None] | None
    on_epoch: Callable[[Epoch], None] | None
    on_note: Callable[[str], None] | None

    def doing(self, what: str, part: float | None = None) -> None:
        """Tell what is going on."""
        if self.on_doing is not None:
            self.on_doing(what, part)


def tune(job: Job) -> Tuned:
    """Do it, alone or as one of the processes that torchrun has started."""
    job = replace(job, model=normalize(job.model), teacher=normalize(job.teacher) if job.teacher else None)
    if job.tensorboard and job.folder is None:
        raise UserError("TensorBoard's files go into the folder of the run: name one")
    with joined(job.device) as ranks, held(job.folder if ranks.first else None):
        return _tuned(job, ranks)


def _tuned(job: Job, ranks: Ranks) -> Tuned:
    recipe = job.recipe
    notes: list[str] = []
    _check_classes(job)
    job.doing("reading the data", 0.0)
    data, said = samples_of(job.data, on_progress=lambda part: job.doing("reading the data", part))
    notes += said
    val: Samples | None = None
    if job.val is not None:
        val, said = samples_of(job.val)
        notes += [note for note in said if note not in notes]
    decided = roles(job.model, train=job.train, freeze=job.freeze)
    training = [role.name for role in decided if role.trains]
    if ranks.first and job.on_note is not None:
        for line in _resting(decided):
            job.on_note(line)
    start = job.model
    if job.from_scratch:
        start, left = reinitialised(job.model, training, recipe.seed)
        if left:
            notes.append(f"left as they were, for nobody knows how they begin: {', '.join(left[:8])}")
    features = _features(job)
    job.doing("translating the model to torch")
    module = to_torch(taps.tapped(start, features), train=job.train, freeze=job.freeze).to(ranks.device)
    outputs = (*(value.name for value in job.model.graph.output), *features)
    watch = Watch(
        job.on_step if ranks.first else None,
        job.on_epoch if ranks.first else None,
        job.on_note if ranks.first else None,
        (lambda trained: _speedup(job, trained)) if job.bench else None,
        _keeper(job, ranks, data, val),
        job.tensorboard,
    )
    job.doing("training")
    trained = train(
        module,
        data,
        val,
        recipe,
        feed=_feed(job, ranks),
        outputs=outputs,
        loss=_loss(job, data, outputs, features, ranks),
        val_loss=None if val is None else _loss(job, val, outputs, features, ranks, measuring=True),
        pressure=_pressure(job, start, module),
        ranks=ranks,
        watch=watch,
    )
    job.doing("verifying against torch")
    plain = to_torch(start, train=job.train, freeze=job.freeze)
    plain.load_state_dict(trained.state)
    tuned = from_torch(plain, onto=start)
    agreement = verify_torch(plain, tuned, dims=dict(job.data.request.dims))
    agreement.require()
    job.doing("measuring")
    before, after = (_evaluated(job, each) if ranks.first else None for each in (job.model, tuned))
    return Tuned(tuned, trained, before, after, agreement.error, ranks.first, job.folder, tuple(notes))


def _check_classes(job: Job) -> None:
    """Class folders are numbered in their order: another set of them would mean other classes by the same labels."""
    sources = [each.source for each in (job.data, job.val) if each is not None and isinstance(each.source, ImageFiles)]
    names = [source.names for source in sources if source.labels is not None]
    if len(names) == 2 and names[0] != names[1]:
        odd = sorted(set(names[0]) ^ set(names[1]))
        raise UnfitData(
            f"the class folders of {str(sources[1].root)!r} are not those of {str(sources[0].root)!r}: {odd[0]!r} is "
            "in one of them only, so the same label would mean different classes; add an empty folder where one is "
            "missing"
        )


def _resting(decided: Sequence[Role]) -> list[str]:
    """How many weights train, and of the others why not, the running statistics left aside."""
    still: dict[str, list[Role]] = {}
    for role in decided:
        if not role.trains and not role.statistic:
            still.setdefault(_NAMED.sub("", role.why), []).append(role)
    said = [f"{sum(role.trains for role in decided)} of {len(decided)} weights train"] if still else []
    for alike in list(still.values())[:MOST_REASONS]:
        more = f" (and {len(alike) - 1} more like it)" if len(alike) > 1 else ""
        said.append(f"{alike[0].name!r}{more} does not train: {alike[0].why}")
    if len(still) > MOST_REASONS:
        said.append(f"{len(still) - MOST_REASONS} more reasons: onnxprune.bridge.roles lists all weights")
    return said


def _features(job: Job) -> tuple[str, ...]:
    """Tensors at which student and teacher are compared."""
    if not job.recipe.features:
        return ()
    if job.teacher is None:
        raise UserError("features are compared with those of a teacher: name one")
    return distil.chosen(taps.in_common(job.model, job.teacher), job.recipe.features_at)


def _feed(job: Job, ranks: Ranks) -> Feed:
    form = job.data.form
    whole = form.inputs[0].dtype not in FLOATS
    dtype = torch.uint8 if whole else torch.float32
    names = tuple(value.name for value in job.model.graph.input)
    return Feed(names, ranks.device, Augment.of(job.recipe), form.fixed, dtype)


def _loss(
    job: Job,
    samples: Samples,
    outputs: tuple[str, ...],
    features: tuple[str, ...],
    ranks: Ranks,
    *,
    measuring: bool = False,
) -> Loss:
    """What is made smaller; of validation with classes the plain cross entropy, which needs no teacher."""
    recipe = job.recipe
    own: Loss | None = None
    if recipe.task is not None:
        own = Task(recipe.task)
    elif samples.labelled:
        own = Classification(0.0 if measuring else recipe.smoothing)
    if own is None and job.teacher is None:
        what = "validation data" if measuring else "data"
        raise NoData(f"the {what} has no labels: name a teacher to learn from, --teacher original.onnx, or a --task")
    if own is not None and (measuring or job.teacher is None):
        return own
    assert job.teacher is not None
    teacher = laid_out(to_torch(taps.tapped(job.teacher, features)).to(ranks.device)).requires_grad_(False).eval()
    _check_teacher(job.model, job.teacher)
    return distil.Distilled(teacher, outputs, features, own, recipe.temperature, recipe.alpha, recipe.features)


def _check_teacher(model: Model, teacher: Model) -> None:
    for what in ("input", "output"):
        own, other = ([value.name for value in getattr(each.graph, what)] for each in (model, teacher))
        if own != other:
            raise UserError(f"the teacher's {what}s are {', '.join(other)}, the model's {', '.join(own)}: not the same")


def _pressure(job: Job, model: Model, module: nn.Module) -> Pressure | None:
    kind = job.recipe.sparsity
    if kind is None:
        return None
    parameters = {name: each for name, each in module.named_parameters() if each.requires_grad}
    if kind == "group-lasso":
        return group_lasso(parameters, analyze(model))
    scales = [node.input[1] for node in model.graph.node if node.op_type == "BatchNormalization"]
    return scale_lasso(parameters, scales)


def _keeper(job: Job, ranks: Ranks, data: Samples, val: Samples | None) -> Keeper | None:
    """A run goes on only with the same model, data and optimizer; rates and the like may change on the way."""
    if job.folder is None:
        return None
    recipe = job.recipe
    facts = {
        "model": digest(job.model),
        "teacher": None if job.teacher is None else digest(job.teacher),
        "data": data.digest,
        "val": None if val is None else val.digest,
        "weights": {"train": job.train, "freeze": job.freeze, "from_scratch": job.from_scratch},
        "samples per step": job.data.form.fixed or recipe.batch * ranks.count,
        **{name: getattr(recipe, name) for name in ("epochs", "optimizer", "task", "metric", "seed", "sparsity")},
        "average": recipe.ema > 0,
    }
    if ranks.first:
        freed(job.folder)
        Keeper(job.folder, facts)
    ranks.wait()
    return Keeper(job.folder, facts)


def _speedup(job: Job, module: nn.Module) -> float:
    tuned = from_torch(module, onto=job.model)
    report = bench([job.model, tuned], dims=dict(job.data.request.dims), seconds=BENCH_SECONDS)
    return report.rows[1].speedup


def _evaluated(job: Job, model: Model) -> Evaluation | None:
    if job.val is None:
        return None
    return evaluate(model, job.val, original=job.teacher, metric=job.recipe.metric)
