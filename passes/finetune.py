"""Train the model on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from onnxprune.accuracy.evaluate import Evaluation
from onnxprune.bridge import need_torch
from onnxprune.data.sources import Request, reopened
from onnxprune.errors import UserError
from onnxprune.files import store
from onnxprune.files.model import Model
from onnxprune.graph.normalize import normalize
from onnxprune.pipeline.manager import State, changed
from onnxprune.text.functions import function_of
from onnxprune.training import finetune
from onnxprune.training.recipe import OPTIONS, Recipe

if TYPE_CHECKING:
    from onnxprune.training.tune import Tuned


@dataclass(frozen=True, kw_only=True)
class Finetune(Recipe):
    """Train all weights that train; every option of `Recipe` is one here."""

    data: Request
    """What to train on."""
    val: Request | None = None
    """What to choose the best epoch on; None: the last one is taken."""
    teacher: Literal["original"] | str | Path | None = None
    """A model to learn from; `original`: the one that was pruned in this run."""
    from_scratch: bool = False
    """Forget the weights first."""
    train: tuple[str, ...] = ()
    """Patterns of weights that train though nothing shows that they should."""
    freeze: tuple[str, ...] = ()
    """Patterns of weights that do not train."""
    device: str = "auto"
    folder: str | Path | None = None
    """Where a checkpoint of every epoch is kept, so that a stopped run goes on; None: nowhere."""
    tensorboard: bool = False
    bench: bool = False
    """Measure the exported model after every epoch."""
    watch: Callable[..., dict[str, Any]] | None = None
    """Gives the functions `on_doing`, `on_step`, `on_epoch` and `on_note` of `onnxprune.finetune`."""

    needs: ClassVar[tuple[str, ...]] = ("model",)
    gives: ClassVar[tuple[str, ...]] = ("model",)
    drops: ClassVar[tuple[str, ...]] = ("normalized", "coupling", "scores", "bench")

    def check(self) -> None:
        need_torch("training")
        for name in filter(None, (self.task, self.metric)):
            function_of(name)  # a wrong name is refused now, not after all that comes before

    def run(self, state: State) -> State:
        found = self.tuned(state)
        kept = State(found.model, original=state.original, plan=state.plan, verification=state.verification)
        return changed(kept, notes=(told(found), *found.notes))

    def tuned(self, state: State) -> Tuned:
        """Everything that came of it."""
        model = normalize(state.model)
        return finetune(
            model,
            reopened(self.data, model),
            val=None if self.val is None else reopened(self.val, model),
            teacher=self._teacher(state),
            recipe=Recipe(**{name: getattr(self, name) for name in OPTIONS}),
            **{name: getattr(self, name) for name in _HANDED_ON},
            **({} if self.watch is None else self.watch()),
        )

    def _teacher(self, state: State) -> Model | None:
        if self.teacher is None:
            return None
        if self.teacher != "original":
            return normalize(store.load(self.teacher))
        if state.original is None:
            raise UserError("teacher 'original' is the model before it was pruned, and none was; name a file")
        return state.original


_HANDED_ON = ("from_scratch", "train", "freeze", "device", "folder", "tensorboard", "bench")


def told(found: Tuned) -> str:
    """What training has changed, in a sentence."""
    trained = found.trained
    epochs = f"{len(trained.history)} epoch" + ("" if len(trained.history) == 1 else "s")
    changes = [(_figure(each)) for each in (found.before, found.after)]
    if None in changes:
        return f"trained for {epochs}; without validation data the last one was taken"
    return f"trained for {epochs}, took epoch {trained.chosen}: {changes[0]} before, {changes[1]} after"


def _figure(found: Evaluation | None) -> str | None:
    """The first figure that the data allows."""
    if found is None:
        return None
    if found.metric is not None:
        return f"metric {found.metric:.4g}"
    if found.top1 is not None:
        return f"accuracy {100 * found.top1:.1f}%"
    if found.agreement is not None:
        return f"agreement {100 * found.agreement:.1f}%"
    return None if found.deviation is None else f"deviation {found.deviation:.3g}"
