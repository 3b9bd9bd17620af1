"""What the command line says, as data: how the recipes here do everything that they measure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def onnxprune(*arguments: object) -> dict[str, Any]:
    """The result of a command; ends the script with the command's own line where it fails."""
    command = [sys.executable, "-m", "onnxprune", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[2:])}\n{done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def built(folder: Path, name: str, *arguments: object) -> Path:
    """A network of the zoo; a file that exists is kept."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        onnxprune("zoo", "build", name, "-o", path, *arguments)
    return path


def table(head: list[str], rows: list[list[str]]) -> str:
    """As the documentation has it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
