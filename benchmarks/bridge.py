"""The conversion table of the bridge to torch: does every model of some folders go there and back?

    python benchmarks/bridge.py FOLDER_OR_FILE ... --table table.md

For every file: the forward pass against onnxruntime, whether a gradient reaches every weight that trains, and whether
the model with perturbed weights written back says the same as the module. Files are taken one by one in a process of
their own, with a limit of time and memory; where it dies, the next one goes on behind the culprit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import child

TOLERANCE = 1e-4


def examine(path: Path) -> dict[str, Any]:
    """One row of the table."""
    import torch

    import onnxprune
    from onnxprune.bridge import roles, verify_torch
    from onnxprune.execution.inputs import runnable_feeds
    from onnxprune.execution.runtime import session

    row: dict[str, Any] = {"file": f"{path.parent.name}/{path.stem}"}
    try:
        model = onnxprune.load(path)
        feeds = runnable_feeds(model, lambda: session(model, optimize=False)).feeds
    except onnxprune.UserError as error:
        return row | {"skipped": f"{error}"}
    decided = roles(model)
    row["trainable"] = sum(role.trains for role in decided)
    module = onnxprune.to_torch(model)
    agreement = verify_torch(module, model, feeds=feeds)
    row["forward"], row["tolerance"] = agreement.error, agreement.tolerance
    row["unreached"] = _unreached(module, [feeds[value.name] for value in model.graph.input])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad:
                noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
                weight.add_(1e-2 * weight.abs().mean() * noise)
    row["back"] = verify_torch(module, onnxprune.from_torch(module, onto=model), feeds=feeds).error
    return row


def _unreached(module: Any, arrays: list[Any]) -> list[str]:
    """Weights that a random weighting of all outputs does not reach."""
    import torch

    from onnxprune.bridge.weights import from_array

    torch.manual_seed(0)
    made = module(*(from_array(array) for array in arrays))
    outputs = [made] if isinstance(made, torch.Tensor) else list(made)
    loss = sum((x * torch.randn_like(x)).sum() for x in outputs if x.is_floating_point() and x.requires_grad)
    if not isinstance(loss, torch.Tensor):
        return [name for name, weight in module.named_parameters() if weight.requires_grad]
    loss.backward()
    return [name for name, weight in module.named_parameters() if weight.requires_grad and weight.grad is None]


def passed(row: dict[str, Any]) -> bool:
    limit = row.get("tolerance", TOLERANCE)
    return "failure" not in row and row["forward"] <= limit and row["back"] <= limit and not row["unreached"]


def work(files: list[Path]) -> None:
    """In the child: a line of JSON for every file, at once."""
    for path in files:
        try:
            row = examine(path)
        except Exception as error:  # noqa: BLE001  a row says so
            row = {"file": f"{path.parent.name}/{path.stem}", "failure": f"{type(error).__name__}: {error}"[:300]}
        print("ROW", json.dumps(row), flush=True)


def collect(files: list[Path], memory: float, seconds: float, batch: int) -> Iterator[list[dict[str, Any]]]:
    left = list(files)
    while left:
        part = left[:batch]
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
            listed.write("\n".join(map(str, part)))
            listed.flush()
            command = [sys.executable, __file__, "--child", listed.name]
            done = child.run(command, memory_gib=memory, timeout=seconds * len(part), threads=1)
        lines = [line[4:] for line in done.stdout.splitlines() if line.startswith("ROW ")]
        found = [json.loads(line) for line in lines]
        if len(found) < len(part):
            culprit = part[len(found)]
            found.append({"file": f"{culprit.parent.name}/{culprit.stem}", "failure": done.failure})
        for row in found:
            print(_line(row), file=sys.stderr, flush=True)
        yield found
        left = left[len(found) :]


def _line(row: dict[str, Any]) -> str:
    if "skipped" in row:
        return f"skip  {row['file']}: {row['skipped'][:150]}"
    if "failure" in row:
        return f"FAIL  {row['file']}: {row['failure']}"
    unreached = f", not reached: {row['unreached'][:3]}" if row["unreached"] else ""
    word = "ok   " if passed(row) else "FAIL "
    return f"{word} {row['file']}: {row['forward']:.1e} {row['back']:.1e} {row['trainable']}{unreached}"


def table(rows: list[dict[str, Any]]) -> str:
    tried = [row for row in rows if "skipped" not in row]
    good = sum(map(passed, tried))
    share = 100 * good / max(1, len(tried))
    lines = [
        f"{good} of {len(tried)} pass ({share:.1f} %); {len(rows) - len(tried)} more do not run in onnxruntime.",
        "",
        "| model | forward | written back | weights that train | without gradient |",
        "|---|---:|---:|---:|---|",
    ]
    for row in tried:
        if "failure" in row:
            lines.append(f"| {row['file']} | {row['failure'].replace('|', '/')} | | | |")
        else:
            missing = ", ".join(row["unreached"][:3])
            lines.append(
                f"| {row['file']} | {row['forward']:.1e} | {row['back']:.1e} | {row['trainable']} | {missing} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--table", type=Path, help="where the table goes (Markdown)")
    parser.add_argument("--json", type=Path, help="where the rows go; what is in it already is not run again")
    parser.add_argument("--memory", type=float, default=6.0, help="GiB that one process may take")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for one file")
    parser.add_argument("--batch", type=int, default=20, help="files per process")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work([Path(line) for line in options.child.read_text().splitlines()])
        return
    files = [file for path in options.paths for file in (sorted(path.rglob("*.onnx")) if path.is_dir() else [path])]
    known = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    seen = {row["file"] for row in known}
    todo = [file for file in files if f"{file.parent.name}/{file.stem}" not in seen]
    rows = list(known)
    for found in collect(todo, options.memory, options.seconds, options.batch):
        rows += found
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    if options.table:
        options.table.write_text(table(rows))
    print(table(rows).splitlines()[0])


if __name__ == "__main__":
    main()
