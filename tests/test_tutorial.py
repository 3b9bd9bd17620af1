"""docs/tutorial.md can be followed: every block runs, in its order, in one folder, and prints what it shows.

What is measured differs from run to run; of those lines only the beginning is compared. The rest has to be the same.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[1] / "docs/tutorial.md"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MEASURED = re.compile(
    r"latency|speed-up|accuracy|top-5|agreement|output dev|verification|Verified|30 nodes|model\.onnx  |half\.onnx  |"
    r"This machine|conv1  .* µs|Model  |Kernel  |Group  |params .* 20|weights .* 2[0-9]\.|epoch|learn"
)
"""Lines whose figures depend on how training and timing went; columns are as wide as what is in them."""


def words(line: str) -> str:
    return " ".join(line.replace("─", "").split())


def run(arguments: list[str], folder: Path) -> str:
    environment = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("likes_sixteen")
def test_it_can_be_followed(tmp_path: Path) -> None:
    blocks = BLOCK.findall(TUTORIAL.read_text("utf-8"))
    assert len(blocks) >= 12
    printed: dict[str, str] = {}
    for kind, body in blocks:
        first, _, shown = body.partition("\n")
        if kind == "python":
            name = first.removeprefix("# ")
            (tmp_path / name).write_text(body, "utf-8")
            run([name], tmp_path)
            continue
        assert first.startswith("$ onnxprune "), first
        text = run(["-m", "onnxprune", *first.split()[2:]], tmp_path)
        printed[first] = text
        lines = [words(line) for line in text.splitlines()]
        for line in filter(None, map(words, shown.splitlines())):
            if MEASURED.match(re.sub(r"\s", "  ", line, count=1)) or MEASURED.match(line):
                begin = line.split()[0]
                assert any(other.startswith(begin) for other in lines), f"{first}: {line}\n{text}"
            else:
                assert line in lines, f"{first}: {line}\n{text}"
    plain, compensated, bound = (
        next(text for command, text in printed.items() if all(word in command for word in found))
        for found in (("--ratio 0.5", "--plan"), ("--ratio 0.5", "--calib"), ("--max-drop",))
    )
    original, cut = accuracies(plain)
    assert original > 96
    assert cut < 70, "cutting alone costs most of it"
    assert accuracies(compensated)[1] > original - 4
    assert accuracies(bound)[1] >= original - 2
    tuned = next(text for command, text in printed.items() if " finetune " in command)
    assert accuracies(tuned)[1] >= original - 2


def accuracies(text: str) -> tuple[float, float]:
    """The original's and the pruned model's, in percent."""
    found = re.search(r"^accuracy +([\d.]+)% +([\d.]+)%", text, re.MULTILINE)
    assert found
    return float(found[1]), float(found[2])
