"""What stands where in the drawing, and that the file is the same every time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.errors import UserError
from onnxprune.timing import plot
from onnxprune.timing.bench import BenchReport, BenchRow
from onnxprune.timing.sweep import Measured, Setting, Sweep


def row(name: str, median: float) -> BenchRow:
    return BenchRow(
        name, median, 0.5 * median, 2 * median, 1, 1, 1, 1, 1, None, {}, 3 * median, 1, 1e3 / median, 1, 1, "faster"
    )


def found(*settings: tuple[Setting, list[BenchRow]]) -> Sweep:
    reports = [(each, BenchReport(tuple(rows), 9, each.threads, each.provider, {}, "1")) for each, rows in settings]
    return Sweep(tuple(Measured(each, report, (), ()) for each, report in reports))


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TWO = found(
    (Setting(CPU, 1, 1), [row("_a$b$.onnx", 4.0), row("b.onnx", 2.0)]), (Setting(CUDA, 8, 0), [row("b.onnx", 1.0)])
)


def test_dots_and_whiskers() -> None:
    axes = plot.figure(TWO).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "CPU\nbatch 1\n1 thread",
        "CUDA\nbatch 8\ndefault threads",
    ]
    first, second = axes.containers
    assert first.lines[0].get_xydata().tolist() == [[-0.175, 4.0]]
    assert np.allclose(second.lines[0].get_xydata(), [[0.175, 2.0], [1.175, 1.0]])
    whiskers = [segment[:, 1].tolist() for segment in second.lines[2][0].get_segments()]
    assert whiskers == [[1.0, 4.0], [0.5, 2.0]], "10 % and 90 %"
    dashes = [line.get_ydata().tolist() for line in axes.lines if line.get_marker() == "_" and len(line.get_xdata())]
    assert [12.0] in dashes
    assert [6.0, 3.0] in dashes
    assert axes.get_yscale() == "log", "0.5 to 12 ms"
    (legend,) = plot.figure(TWO).legends
    assert [text.get_text().strip() for text in legend.get_texts()] == ["_a$b$.onnx", "b.onnx"]


def test_near_times_stand_on_a_plain_axis() -> None:
    axes = plot.figure(found((Setting(CPU, None, 2), [row("a", 4.0), row("b", 2.0)]))).axes[0]
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] == 0
    assert [text.get_text() for text in axes.get_xticklabels()] == ["CPU\n2 threads"]


@pytest.mark.parametrize(("name", "magic"), [("p.svg", b"<?xml"), ("p.PNG", b"\x89PNG"), ("p.pdf", b"%PDF")])
def test_files(tmp_path: Path, name: str, magic: bytes) -> None:
    plot.write(TWO, tmp_path / name)
    first = (tmp_path / name).read_bytes()
    assert first.startswith(magic)
    plot.write(TWO, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Any) -> str:
        with pytest.raises(UserError) as caught:
            plot.check(path)
        return str(caught.value)

    assert "must end in .svg, .png, .pdf" in refused(Path("p.gif"))
    assert "must end in" in refused(Path("svg"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert refused(Path("p.svg")) == "drawing needs matplotlib: pip install 'onnxprune[report]'"
