"""What validation says of a module: one pass over samples that it does not train on, shared by all processes.

The value by which epochs are compared, the larger the better: the user's metric, else accuracy, else minus the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from onnxprune.accuracy.evaluate import metric_of
from onnxprune.errors import UserError
from onnxprune.training.feed import Feed
from onnxprune.training.losses import Loss, named, right
from onnxprune.training.ranks import Ranks
from onnxprune.training.samples import Samples


@dataclass(frozen=True)
class Measured:
    """What was found."""

    samples: int
    loss: float
    accuracy: float | None = None
    """None: the labels are no classes, or there are none."""
    metric: float | None = None

    @property
    def value(self) -> float:
        """The larger, the better."""
        if self.metric is not None:
            return self.metric
        return self.accuracy if self.accuracy is not None else -self.loss


@torch.no_grad()
def measure(
    module: nn.Module,
    outputs: tuple[str, ...],
    samples: Samples,
    feed: Feed,
    loss: Loss,
    *,
    batch: int = 256,
    metric: str | None = None,
    ranks: Ranks | None = None,
) -> Measured:
    """Run a module in evaluation mode over all samples; it is left in the mode in which it was."""
    ranks = ranks or Ranks()
    judged = metric_of(metric)
    training = module.training
    module.eval()
    try:
        sums = [0.0, 0.0, 0.0, 0.0, 0.0]
        for each in feed.measuring(samples, batch, ranks.rank, ranks.count):
            found = named(module(*each.inputs.values()), outputs)
            counted = right(found, each)
            sums[0] += each.count
            sums[1] += each.count * float(loss(found, each))
            if counted is not None:
                sums[2] += each.count
                sums[3] += int(counted)
            if judged is not None:
                arrays = {name: tensor[: each.count].cpu().numpy() for name, tensor in found.items()}
                labels = None if each.labels is None else each.labels.cpu().numpy()
                sums[4] += each.count * judged(arrays, labels)
    finally:
        module.train(training)
    count, total, labelled, hits, measured = ranks.summed(sums)
    if not count:
        raise UserError("the validation data holds no samples")
    return Measured(
        int(count),
        total / count,
        hits / labelled if labelled else None,
        measured / count if metric is not None else None,
    )
