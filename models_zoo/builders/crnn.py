"""CRNN (Shi et al. 2015): convolutions read a line of text, and two bidirectional LSTMs go along it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onnxprune.models_zoo.builders.built import Built

HEIGHT = 32
LAYERS = ((64, "pool"), (128, "pool"), (256, ""), (256, "flat"), (512, "norm"), (512, "norm flat"))
"""Width of each 3x3 convolution, and what follows: halving both ways, halving the height only, normalisation."""


class Recurrent(nn.Module):
    """Both ways along the line, and one linear layer."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(inputs, hidden, bidirectional=True)
        self.embedding = nn.Linear(2 * hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(length, batch, outputs)."""
        y: Tensor = self.embedding(self.rnn(x)[0])
        return y


class CRNN(nn.Module):
    """One channel of grey, 32 px high."""

    def __init__(self, hidden: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for outputs, then in LAYERS:
            layers.append(nn.Conv2d(width, outputs, 3, 1, 1))
            layers += [nn.BatchNorm2d(outputs)] if "norm" in then else []
            layers.append(nn.ReLU(inplace=True))
            layers += [nn.MaxPool2d(2)] if then == "pool" else []
            layers += [nn.MaxPool2d((2, 2), (2, 1), (0, 1))] if "flat" in then else []
            width = outputs
        layers += [nn.Conv2d(width, 512, 2), nn.BatchNorm2d(512), nn.ReLU(inplace=True)]
        self.cnn = nn.Sequential(*layers)
        self.rnn = nn.Sequential(Recurrent(512, hidden, hidden), Recurrent(hidden, hidden, classes))

    def forward(self, line: Tensor) -> Tensor:
        """Logits (length, batch, classes)."""
        logits: Tensor = self.rnn(self.cnn(line).squeeze(2).permute(2, 0, 1))
        return logits


def crnn(hidden: int, width: int, classes: int) -> Built:
    """`width` is how long a line is, in pixels."""
    return Built(CRNN(hidden, classes), {"input": torch.randn(2, 1, HEIGHT, width)})
