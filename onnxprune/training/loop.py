"""The loop: any torch module, any samples, one recipe.

    for each epoch:   for each step:  forward, loss, backward, clip, step, press, average
                      measure, write the log and the checkpoint, remember the best, perhaps stop

Everything random is drawn from (seed, epoch, step): a run that goes on after a stop ends as one that was never stopped,
bit by bit on a CPU. A loss that is no number ends the run before it reaches the weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn, optim

from onnxprune.bridge import synchronise_batchnorm
from onnxprune.errors import NotFinite, OtherRun, UserError
from onnxprune.training.augment import Augment
from onnxprune.training.average import Average
from onnxprune.training.checkpoint import Keeper
from onnxprune.training.feed import Batch, Feed, laid_out
from onnxprune.training.log import Board, Epoch, write_csv
from onnxprune.training.losses import Classification, Loss, Task, named, right
from onnxprune.training.measure import Measured, measure
from onnxprune.training.optimizer import optimizer_of
from onnxprune.training.ranks import Ranks, copied
from onnxprune.training.rates import rate_at
from onnxprune.training.recipe import Recipe
from onnxprune.training.samples import Samples
from onnxprune.training.sparsity import Pressure, amount_at, scale_lasso, scales_of

State = dict[str, Tensor]


@dataclass(frozen=True)
class Moment:
    """Where training is."""

    epoch: int
    """From 1."""
    epochs: int
    part: float
    """Of the whole run, 0 to 1."""
    loss: float
    """Mean over this epoch so far."""
    accuracy: float | None
    left: float
    """Seconds that the rest will take."""


@dataclass(frozen=True, eq=False)
class Watch:
    """Who is told what, and where things are kept; whatever is None is not done."""

    on_step: Callable[[Moment], None] | None = None
    on_epoch: Callable[[Epoch], None] | None = None
    on_note: Callable[[str], None] | None = None
    bench: Callable[[nn.Module], float | None] | None = None
    """After each epoch: how many times as fast the exported model is."""
    keeper: Keeper | None = None
    tensorboard: bool = False


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of it."""

    state: State
    """The state dict of the epoch that was chosen, on the CPU."""
    chosen: int
    """The best by validation, from 1; without validation the last."""
    history: tuple[Epoch, ...]
    seconds: float
    stopped: bool = False
    """Early, for it got no better."""
    notes: tuple[str, ...] = field(default=())


def train(
    module: nn.Module,
    data: Samples,
    val: Samples | None = None,
    recipe: Recipe | None = None,
    *,
    feed: Feed | None = None,
    outputs: tuple[str, ...] = (),
    loss: Loss | None = None,
    val_loss: Loss | None = None,
    pressure: Pressure | None = None,
    ranks: Ranks | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Train a module in place; afterwards it has the weights of the epoch that was chosen, in evaluation mode.

    Without `loss` it is the recipe's task, else cross entropy; `val_loss` is what validation uses instead.
    """
    recipe, ranks, watch = recipe or Recipe(), ranks or Ranks(), watch or Watch()
    feed = feed or Feed(("input",), ranks.device, Augment.of(recipe))
    loss = loss or (Task(recipe.task) if recipe.task else Classification(recipe.smoothing))
    if recipe.sparsity is not None and pressure is None:
        if recipe.sparsity != "bn-l1":
            raise UserError("group-lasso needs the groups of an ONNX model: finetune one")
        pressure = scale_lasso(dict(module.named_parameters()), scales_of(module))
    laid_out(module.to(ranks.device))
    if recipe.sync_bn and ranks.count > 1 and not synchronise_batchnorm(module) and scales_of(module):
        raise UserError("sync_bn is for translated models; use nn.SyncBatchNorm.convert_sync_batchnorm on others")
    with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
        run = _Run(module, data, val, recipe, feed, outputs, loss, val_loss or loss, pressure, ranks, watch)
        return run.through()


class _Run:
    """One run of training, from its first or its next epoch on."""

    def __init__(
        self,
        module: nn.Module,
        data: Samples,
        val: Samples | None,
        recipe: Recipe,
        feed: Feed,
        outputs: tuple[str, ...],
        loss: Loss,
        val_loss: Loss,
        pressure: Pressure | None,
        ranks: Ranks,
        watch: Watch,
    ) -> None:
        self.module, self.data, self.val, self.recipe = module, data, val, recipe
        self.feed, self.outputs, self.loss, self.val_loss = feed, outputs, loss, val_loss
        self.pressure, self.ranks, self.watch = pressure, ranks, watch
        self.optimizer: optim.Optimizer = optimizer_of(module, recipe)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.average = Average(module, recipe.ema) if recipe.ema else None
        self.steps = feed.steps(data, recipe, ranks.count)
        self.history: list[Epoch] = []
        self.best: State | None = None
        self.chosen = 0
        self.notes: list[str] = []
        self._restore()
        self.board = self._board()

    def through(self) -> Trained:
        """All epochs that are left."""
        begun = time.monotonic()
        wrapped = self.ranks.wrapped(self.module)
        clock = _Clock(self.recipe.epochs * self.steps, len(self.history) * self.steps)
        while len(self.history) < self.recipe.epochs and not self._over():
            epoch = self._epoch(wrapped, len(self.history), clock)
            self._keep(epoch)
            if self.watch.on_epoch is not None:
                self.watch.on_epoch(epoch)
        assert self.best is not None
        self.module.load_state_dict(self.best)
        self.module.eval()
        seconds, stopped = time.monotonic() - begun, len(self.history) < self.recipe.epochs
        return Trained(self.best, self.chosen, tuple(self.history), seconds, stopped, tuple(self.notes))

    def _epoch(self, wrapped: nn.Module, number: int, clock: _Clock) -> Epoch:
        begun = time.monotonic()
        wrapped.train()
        total, hits, seen, rate = 0.0, torch.zeros((), dtype=torch.int64, device=self.ranks.device), 0, 0.0
        done = 0
        classes = False
        batches = self.feed.training(self.data, self.recipe, number, self.ranks.rank, self.ranks.count)
        for step, batch in enumerate(batches):
            rate = rate_at(self.recipe, number * self.steps + step, self.recipe.epochs * self.steps)
            torch.manual_seed(self._draw(number, step))
            loss, counted = self._step(wrapped, batch, rate, number, step)
            done, total, seen = done + 1, total + loss, seen + batch.count
            if counted is not None:
                classes = True
                hits += counted
            left = clock.after_step()
            if self.watch.on_step is not None and clock.due():
                accuracy = int(hits) / seen if classes else None
                moment = Moment(number + 1, self.recipe.epochs, clock.part, total / done, accuracy, left)
                self.watch.on_step(moment)
        if not done:
            raise UserError(
                f"there are fewer samples than the {self.feed.size(self.recipe)} of one step: lower the batch"
            )
        total, right_ones, all_ones, steps = self.ranks.summed([total, float(hits), float(seen), float(done)])
        accuracy = right_ones / all_ones if classes else None
        if not all(bool(x.isfinite().all()) for x in self.module.state_dict().values() if x.is_floating_point()):
            raise NotFinite(self._diverged(number, done - 1, "a weight or a running statistic"))
        measured, speedup = self._looked_at(number)
        return Epoch(number + 1, total / steps, accuracy, rate, measured, time.monotonic() - begun, speedup)

    def _looked_at(self, number: int) -> tuple[Measured | None, float | None]:
        """Measure what the epoch has made, and remember it if it is the best so far."""
        with nullcontext() if self.average is None else self.average.standing_in(self.module):
            self.ranks.share(self.module)
            measured = self._measured(number)
            before = self.history[self.chosen - 1].measured if self.chosen else None
            if measured is None or before is None or measured.value > before.value:
                self.chosen = number + 1
                self.best = {name: copied(tensor) for name, tensor in self.module.state_dict().items()}
            return measured, self._benched()

    def _step(
        self, wrapped: nn.Module, batch: Batch, rate: float, epoch: int, step: int
    ) -> tuple[float, Tensor | None]:
        """Forward, backward, update; the loss, and how many samples were classified right."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            result = wrapped(*batch.inputs.values())
        outputs = named(result, self.outputs)
        loss = self.loss(outputs, batch)
        if not loss.requires_grad:
            raise UserError("the loss does not depend on any weight that trains: the task must use the outputs")
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip or math.inf)
        value, length = torch.stack([loss.detach().float(), norm.float()]).tolist()
        if not (math.isfinite(value) and math.isfinite(length)):
            raise NotFinite(self._diverged(epoch, step, "the loss" if not math.isfinite(value) else "the gradient"))
        self.optimizer.step()
        if self.pressure is not None:
            self.pressure.press(amount_at(self.recipe, rate))
        if self.average is not None:
            self.average.update(self.module)
        return value, right(outputs, batch)

    def _draw(self, epoch: int, step: int) -> int:
        """Dropout draws from torch's own generator, each process something else."""
        return int(np.random.SeedSequence([self.recipe.seed, epoch, step, self.ranks.rank]).generate_state(1)[0])

    def _diverged(self, epoch: int, step: int, what: str) -> str:
        advice = [f"a lower rate than {self.recipe.peak:g}", "a longer warm-up"]
        advice += ["float32"] if self.recipe.precision != "float32" else []
        advice += ["clipping"] if not self.recipe.clip else [f"clipping below {self.recipe.clip:g}"]
        kept = ""
        if self.watch.keeper is not None and self.history:
            kept = f"; the checkpoint of epoch {epoch} is kept in {str(self.watch.keeper.folder)!r}"
        return f"{what} is no number any more (epoch {epoch + 1}, step {step + 1}): try {', '.join(advice)}{kept}"

    def _measured(self, number: int) -> Measured | None:
        if self.val is None:
            return None
        found = measure(
            self.module,
            self.outputs,
            self.val,
            self.feed,
            self.val_loss,
            batch=max(256, self.recipe.batch),
            metric=self.recipe.metric,
            ranks=self.ranks,
        )
        if not math.isfinite(found.loss):
            raise NotFinite(self._diverged(number, self.steps - 1, "the validation loss"))
        return found

    def _benched(self) -> float | None:
        if self.watch.bench is None:
            return None
        return float(self.ranks.told(self.watch.bench(self.module) if self.ranks.first else None) or 0) or None

    def _over(self) -> bool:
        """Whether it got no better for too long."""
        patience = self.recipe.patience
        return bool(patience and self.val is not None and len(self.history) - self.chosen >= patience)

    def _keep(self, epoch: Epoch) -> None:
        """Write the checkpoint and the log."""
        self.history.append(epoch)
        if self.ranks.first and self.watch.keeper is not None:
            self.watch.keeper.save(self._state())
            write_csv(self.history, self.watch.keeper.folder / "log.csv")
        if self.board is not None:
            self.board.add(epoch)
        self.ranks.wait()

    def _state(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else {"steps": self.average.steps, "state": self.average.state},
            "best": self.best,
            "chosen": self.chosen,
            "history": [asdict(epoch) for epoch in self.history],
            "recipe": asdict(self.recipe),
        }

    def _restore(self) -> None:
        """Go on where a checkpoint ends."""
        keeper = self.watch.keeper
        found = keeper.load() if keeper is not None else None
        if keeper is None or found is None:
            return
        try:
            self.history = [_epoch_of(each) for each in found["history"]]
            self.module.load_state_dict(found["module"])
            self.optimizer.load_state_dict(found["optimizer"])
            if self.average is not None:
                self.average.steps = int(found["average"]["steps"])
                for name, tensor in found["average"]["state"].items():
                    self.average.state[name].copy_(tensor)
            self.best, self.chosen = found["best"], int(found["chosen"])
            other = [
                f"{name} {value!r} instead of {found['recipe'].get(name)!r}"
                for name, value in asdict(self.recipe).items()
                if value != found["recipe"].get(name)
            ]
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            said = " ".join(str(error).split())[:80]
            raise OtherRun(
                f"{str(keeper.path)!r} is of another run: delete it, or name a new folder ({said})"
            ) from None
        self._note(f"going on after epoch {len(self.history)}, from {str(keeper.folder)!r}")
        if other:
            self._note(f"going on with {', '.join(other)}")

    def _note(self, text: str) -> None:
        self.notes.append(text)
        if self.watch.on_note is not None:
            self.watch.on_note(text)

    def _board(self) -> Board | None:
        if not self.watch.tensorboard or self.watch.keeper is None or not self.ranks.first:
            return None
        return Board(self.watch.keeper.folder, len(self.history))


def _epoch_of(kept: Mapping[str, Any]) -> Epoch:
    measured = kept["measured"]
    return Epoch(**{**kept, "measured": None if measured is None else Measured(**measured)})


class _Clock:
    """How much is over, and how long the rest takes at the pace so far."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.first, self.done = total, done, done
        self.begun = self.told = time.monotonic()

    @property
    def part(self) -> float:
        return self.done / max(1, self.total)

    def after_step(self) -> float:
        """Seconds left."""
        self.done += 1
        spent = time.monotonic() - self.begun
        return spent / (self.done - self.first) * max(0, self.total - self.done)

    def due(self) -> bool:
        """Twice a second is often enough."""
        now = time.monotonic()
        if now - self.told < 0.5:
            return False
        self.told = now
        return True
