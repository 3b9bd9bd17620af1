"""The loop on plain torch modules: it learns, it stops where it should, and it goes on as if it had never stopped."""

from __future__ import annotations

import csv
import errno
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onnxprune.errors import UserError
from onnxprune.models_zoo import digits
from onnxprune.training import checkpoint
from onnxprune.training.average import Average
from onnxprune.training.checkpoint import Keeper
from onnxprune.training.feed import Batch
from onnxprune.training.log import Epoch
from onnxprune.training.loop import Trained, Watch, train
from onnxprune.training.losses import Classification, Outputs, Task, named
from onnxprune.training.optimizer import optimizer_of
from onnxprune.training.recipe import Recipe
from onnxprune.training.samples import Held, Raw
from onnxprune.training.sparsity import scale_lasso, scales_of


def net(seed: int = 0, dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(128, 10),
    )


def data(count: int = 1297) -> Held:
    images, labels = digits.data("train")
    return Held(Raw((images[:count],), labels[:count]))


def val(count: int = 500) -> Held:
    images, labels = digits.data("held_out")
    return Held(Raw((images[:count],), labels[:count]))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_takes_the_best_epoch() -> None:
    module, before = net(), torch.get_rng_state()
    found = train(module, data(), val(), Recipe(epochs=4, rate=0.1, crop=1))
    assert torch.equal(torch.get_rng_state(), before)  # the caller's dice are the caller's
    values = [epoch.measured.accuracy for epoch in found.history if epoch.measured is not None]
    assert max(values) > 0.85
    assert found.chosen == 1 + int(np.argmax(values))
    assert not module.training
    assert same(found.state, module.state_dict())
    assert found.history[-1].loss < found.history[0].loss / 2
    assert found.history[-1].measured is not None
    assert found.history[-1].measured.samples == 500


def test_an_early_stop_keeps_the_best() -> None:
    found = train(net(), data(200), val(), Recipe(epochs=30, rate=0.5, patience=2, schedule="constant", clip=0))
    assert found.stopped
    assert len(found.history) == found.chosen + 2 < 30


def test_without_validation_the_last_epoch_is_taken() -> None:
    found = train(net(), data(200), None, Recipe(epochs=3))
    assert (found.chosen, found.history[-1].measured, len(found.history)) == (3, None, 3)


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"optimizer": "adamw", "sparsity": "bn-l1"}])
def test_a_stopped_run_ends_as_one_that_was_not(options: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, rate=0.05, batch=32, crop=1, flip=True, cutout=2, **options)
    whole = train(net(), data(320), val(100), recipe)

    class Stop(Exception):
        pass

    def on_epoch(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise Stop

    with pytest.raises(Stop):
        train(net(), data(320), val(100), recipe, watch=Watch(on_epoch=on_epoch, keeper=Keeper(tmp_path, {})))
    said: list[str] = []
    module = net(seed=5)  # nothing of it is left
    again = train(module, data(320), val(100), recipe, watch=Watch(on_note=said.append, keeper=Keeper(tmp_path, {})))
    assert same(whole.state, again.state)
    assert [epoch.loss for epoch in whole.history] == [epoch.loss for epoch in again.history]
    assert whole.chosen == again.chosen
    assert said == [f"going on after epoch 2, from {str(tmp_path)!r}"]
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_loss"]) for row in rows] == [e.measured.loss for e in whole.history if e.measured]


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_loop import *

steps = 0
class Killing(Held):
    def shuffled(self, *args):
        global steps
        for raw in super().shuffled(*args):
            steps += 1
            if steps == 17:  # 10 steps make an epoch
                os.kill(os.getpid(), signal.SIGKILL)
            yield raw

train(net(), Killing(data(320).raw), val(100), RECIPE, watch=Watch(keeper=Keeper({folder!r}, {{}})))
"""
RECIPE = Recipe(epochs=3, rate=0.05, batch=32, crop=1, ema=0.9)


def test_killed_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    keeper = Keeper(tmp_path, {})
    kept = keeper.load()
    assert kept is not None
    assert len(kept["history"]) == 1
    whole = train(net(), data(320), val(100), RECIPE)
    again = train(net(), data(320), val(100), RECIPE, watch=Watch(keeper=keeper))
    assert same(whole.state, again.state)


def test_options_may_change_on_the_way_and_that_is_said(tmp_path: Path) -> None:
    train(net(), data(64), None, Recipe(epochs=1), watch=Watch(keeper=Keeper(tmp_path, {"a": 1})))
    found = train(net(), data(64), None, Recipe(epochs=1, rate=0.5), watch=Watch(keeper=Keeper(tmp_path, {"a": 1})))
    assert found.notes[1] == "going on with rate 0.5 instead of None"
    with pytest.raises(UserError, match="holds another run"):
        Keeper(tmp_path, {"a": 2})
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(UserError, match="is of another run"):
        train(other, data(64), None, Recipe(epochs=1), watch=Watch(keeper=Keeper(tmp_path, {"a": 1})))


class Points:
    """What TensorBoard would be told."""

    def __init__(self, folder: str, purge_step: int) -> None:
        self.found: list[tuple[str, float, int]] = []
        Points.last = self
        self.begun = (folder, purge_step)

    last: Points

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.found.append((name, value, step))

    def flush(self) -> None:
        pass


def test_tensorboard_gets_a_point_for_each_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(keeper=Keeper(tmp_path, {}), tensorboard=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        train(net(), data(64), None, Recipe(epochs=2), watch=watch)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Points))
    found = train(net(), data(64), None, Recipe(epochs=2), watch=watch)
    assert Points.last.begun == (str(tmp_path), 1)
    assert [point[1:] for point in Points.last.found if point[0] == "loss"] == [
        (epoch.loss, epoch.number) for epoch in found.history
    ]


def test_a_damaged_checkpoint_is_no_traceback(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, {})
    train(net(), data(64), None, Recipe(epochs=1), watch=Watch(keeper=keeper))
    whole = keeper.path.read_bytes()
    keeper.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is damaged: delete it"):
        keeper.load()
    torch.save({"format": 99}, keeper.path)
    with pytest.raises(UserError, match="no checkpoint of this version"):
        keeper.load()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(tmp_path, {})
    keeper.save({"history": [1]})
    before = keeper.path.read_bytes()
    replacing = checkpoint.replacing

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: Any) -> None:
            self.file.write(data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    from contextlib import contextmanager

    @contextmanager
    def full(targets: Any) -> Any:
        with replacing(targets) as (file,):
            yield [Full(file)]

    monkeypatch.setattr(checkpoint, "replacing", full)
    with pytest.raises(UserError, match="No space left on device; the last checkpoint is still there"):
        keeper.save({"history": [1, 2]})
    assert keeper.path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "run.json"]


class Exploding(nn.Module):
    """Its outputs are no numbers from its 13th training step on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.steps = net(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        found: Tensor = self.inner(x)
        return found * (math.nan if self.steps >= 13 else 1.0)


def test_a_loss_that_is_no_number_ends_the_run_before_it_reaches_the_weights(tmp_path: Path) -> None:
    module, keeper = Exploding(), Keeper(tmp_path, {})
    with pytest.raises(
        UserError, match=r"no number any more \(epoch 2, step 3\): try a lower rate than 0\.01"
    ) as caught:
        train(module, data(320), None, Recipe(epochs=3, batch=32), watch=Watch(keeper=keeper))
    assert f"the checkpoint of epoch 1 is kept in {str(tmp_path)!r}" in str(caught.value)
    assert all(bool(tensor.isfinite().all()) for tensor in module.state_dict().values())
    kept = keeper.load()
    assert kept is not None
    assert len(kept["history"]) == 1


def test_only_what_mixes_channels_decays() -> None:
    module = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)])
    module.register_parameter("shift", nn.Parameter(torch.zeros(1, 4, 1, 1)))
    groups = optimizer_of(module, Recipe(weight_decay=0.1)).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.1), (4, 0.0)]
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(UserError, match="nothing to train"):
        optimizer_of(module, Recipe())


def test_the_average_follows() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average, expected = Average(module, 0.5), 0.0
    for step in range(6):
        nn.init.constant_(module.weight, float(step))
        average.update(module)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.state["weight"]) == pytest.approx(expected)
    with average.standing_in(module):
        assert module.weight.item() == pytest.approx(expected)
    assert module.weight.item() == 5.0


def test_scales_are_pressed_as_far_as_the_loss_would_pull_them() -> None:
    """A proximal step with nothing else going on takes off weight * rate / (1 - momentum), and stops at zero."""
    module = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4))
    assert scales_of(module) == ["1.weight"]
    module[1].weight.data = torch.tensor([1.0, -0.5, 0.05, 0.0])
    scale_lasso(dict(module.named_parameters()), scales_of(module)).press(0.1)
    assert module[1].weight.tolist() == pytest.approx([0.9, -0.4, 0.0, 0.0])
    with pytest.raises(UserError, match="has none that train"):
        scale_lasso({}, ["1.weight"])


def test_smoothing_and_label_mistakes() -> None:
    logits = {"y": torch.tensor([[2.0, 0.0, 0.0]])}
    batch = Batch({}, torch.tensor([0]), 1)
    log = torch.log_softmax(logits["y"], 1)[0]
    assert float(Classification(0.3)(logits, batch)) == pytest.approx(float(-(0.7 * log[0] + 0.1 * log.sum())))
    for labels, said in (
        (torch.tensor([3]), "labels run from 3 to 3, for a model of 3 classes"),
        (torch.tensor([0.5]), "are no class numbers"),
        (None, "the data has no labels"),
    ):
        with pytest.raises(UserError, match=said):
            Classification()(logits, Batch({}, labels, 1))
    with pytest.raises(UserError, match=r"no output is \(samples, classes\): 'y' \[1, 3, 3\]"):
        Classification()({"y": torch.zeros(1, 3, 3)}, batch)
    with pytest.raises(UserError, match="holds no tensor"):
        named("text", ())


def task(outputs: Outputs, batch: Batch) -> Tensor:
    assert batch.labels is not None
    return (outputs["y"].mean(1) - batch.labels.float()).square().mean()


def metric(outputs: dict[str, Any], labels: Any) -> float:
    return -float(np.abs(outputs["y"].mean(1) - labels).mean())


def test_a_task_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from test_loop import task, metric\ndef wrong(outputs, batch): return outputs['y']\n"
    (tmp_path / "mine_of_loop.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "test_loop", sys.modules[__name__])
    recipe = Recipe(epochs=3, rate=0.02, task="mine_of_loop:task", metric="mine_of_loop:metric")
    found = train(net(), data(), val(), recipe, outputs=("y",))
    values = [epoch.measured.metric for epoch in found.history if epoch.measured is not None]
    assert values[-1] > -2 > values[0] - 1
    assert found.chosen == 1 + int(np.argmax(values))
    with pytest.raises(UserError, match=r"must return a tensor of one number, the loss, not \[2, 3\] torch.float32"):
        Task("mine_of_loop:wrong")({"y": torch.zeros(2, 3)}, Batch({}, None, 2))


def test_half_the_bits_come_near() -> None:
    runs: list[Trained] = [train(net(), data(), val(), Recipe(epochs=2, rate=0.1, precision=p)) for p in
                           ("float32", "bfloat16")]  # fmt: skip
    values = [run.history[-1].measured.accuracy for run in runs if run.history[-1].measured is not None]
    assert values[0] is not None
    assert values[1] == pytest.approx(values[0], abs=0.05)
    assert runs[0].history[0].loss != runs[1].history[0].loss


def test_statistics_that_overflow_end_the_run_before_the_checkpoint(tmp_path: Path) -> None:
    """BatchNormalization hides them from the loss."""
    images, labels = digits.data("train")
    huge = Held(Raw((images[:128] * np.float32(1e25),), labels[:128]))
    with pytest.raises(UserError, match="a weight or a running statistic is no number any more"):
        train(net(), huge, recipe=Recipe(epochs=1), watch=Watch(keeper=Keeper(tmp_path, {})))
    assert not (tmp_path / "checkpoint.pt").exists()
