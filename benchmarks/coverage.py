"""The coverage table: every architecture through both exporters, pruned at one ratio, checked by the masked oracle.

    python benchmarks/coverage.py OUT [--only PATTERN] [--exporter legacy|dynamo] [--export-only | --prune-only]

Nothing is downloaded: weights are random (architectures/weights.py says how). Each step runs in a process of its own
with a cap on memory and time. OUT/models keeps the files, OUT/results.jsonl one line for each step that was done, and
an interrupted run goes on where it stopped; --again repeats what failed, --fresh repeats all that was asked for. In the
end OUT/coverage.md is written from all lines there are.

The exit status is 1 if any step ended in anything but a result or a sentence.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import re
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import child
from architectures import architectures
from architectures.case import EXPORTERS
from coverage_table import table

STAGES = ("export", "prune")
LINE = "result: "
_RAISED = re.compile(r"([a-z_]\w*\.)*[A-Z]\w+: ")
RATIO = 0.5
CRITERION = "l2"

Result = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One thing to do in a process of its own."""

    stage: str
    name: str
    exporter: str

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.stage, self.name, self.exporter)

    def path(self, out: Path) -> Path:
        """Where its file is."""
        return out / "models" / f"{self.exporter}__{self.name}.onnx"


def export_one(step: Step, out: Path) -> Result:
    """Build and write the file."""
    import torch
    from architectures.exporting import export as write

    torch.set_num_threads(1)
    path = step.path(out)
    partial = path.with_name(f".{path.name}")
    try:
        found = write(architectures()[step.name], step.exporter, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return asdict(found)


def prune_one(step: Step, out: Path, inexact: bool) -> Result:
    """Analyse, cut and verify the file. A refusal is a result, and so is whatever else is raised."""
    import onnxprune

    found: Result = {"stopped": "load"}
    start = time.perf_counter()
    try:
        model = onnxprune.load(step.path(out))
        found |= {"nodes": len(model.graph.node), "stopped": "analyze"}
        coupling = onnxprune.analyze(model, allow_inexact=inexact)
        found |= {"analysis_seconds": time.perf_counter() - start, "stopped": "cost"}
        before = onnxprune.cost(model)
        found |= {"unknown_ops": dict(coupling.unknown_ops), **_reached(model, coupling, before)}
        found["stopped"] = "score"
        scores = onnxprune.score(model, coupling, CRITERION)
        found["stopped"] = "select"
        plan = onnxprune.select(coupling, scores, ratio=RATIO)
        found["stopped"] = "apply"
        pruned = onnxprune.apply(model, plan)
        found["stopped"] = "cost of the pruned model"
        after = onnxprune.cost(pruned)
        found |= {"macs_kept": after.macs / before.macs if before.macs else None}
        found |= {"params_kept": after.params / before.params, "stopped": "verify"}
        check = onnxprune.verify(model, pruned, plan)
        found |= {"ok": check.ok, "error": check.error, "moved": check.moved, "deviation": check.deviation}
        found |= {"notes": list(check.notes), "inexact": list(check.inexact)}
        del found["stopped"]
    except onnxprune.UserError as error:
        found |= {"ok": False, "said": " ".join(str(error).split())}
    except Exception as error:  # noqa: BLE001  a bug: the table must say so
        frames = traceback.extract_tb(error.__traceback__)
        own = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "onnxprune" in frame.filename]
        said = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        found |= {"ok": False, "crash": said, "at": " < ".join(reversed(own[-3:]))}
    found["seconds"] = time.perf_counter() - start
    return found


def _reached(model: Any, coupling: Any, cost: Any) -> Result:
    """The share of MACs that pruning reaches, and what keeps it from the rest."""
    from onnxprune.counting.cost import reach

    ops = {node.name: node.op_type for node in model.graph.node}
    by_node: dict[tuple[str, str], float] = {}
    sentences: dict[str, str] = {}
    for item in coupling.frozen:
        size = model.weights[item.tensor].shape[item.axis]
        code = f"{item.reason.code} at {ops[item.reason.node]}" if item.reason.node in ops else item.reason.code
        share = cost.by_node.get(item.node, 0) * item.size / size  # a node may have several weights (LSTM)
        by_node[code, item.node] = max(share, by_node.get((code, item.node), 0))
        sentences.setdefault(code, f"{item.reason} [{item.tensor}:{item.axis}]")
    reasons: Counter[str] = Counter()
    for (code, _), share in by_node.items():
        reasons[code] += share  # type: ignore[assignment]  # Counter is typed for integers only
    total = max(cost.macs, 1)
    return {
        "macs": cost.macs,
        "uncounted": len(cost.unknown),
        "reach": reach(model, coupling, cost).share,
        "groups": len(coupling.groups),
        "units": sum(group.size for group in coupling.groups),
        "frozen": [[code, macs / total, sentences[code]] for code, macs in reasons.most_common(6)],
    }


def run(step: Step, options: argparse.Namespace) -> Result:
    """The step in a process of its own."""
    command = [sys.executable, __file__, options.out, "--one", step.stage, "--only", step.name]
    command += ["--exporter", step.exporter, *(["--inexact"] if options.inexact else [])]
    done = child.run(command, memory_gib=options.memory, timeout=options.timeout, threads=1)
    result: Result = dict(zip(("stage", "name", "exporter"), step.key, strict=True))
    result |= {"ok": False, "seconds": round(done.seconds, 2), "peak": done.peak_anonymous}
    said = [line for line in done.stdout.splitlines() if line.startswith(LINE)]
    if said:
        return result | {"ok": True} | json.loads(said[-1].removeprefix(LINE))
    where = [line.strip() for line in done.stderr.splitlines() if line.lstrip().startswith("File ")]
    return result | {"failed": _failure(done), "at": where[-1] if where else ""}


def _failure(done: child.Child) -> str:
    """The first line of the exception: exporters write pages."""
    if done.timed_out or done.status < 0:
        return done.failure
    lines = [line for line in done.stderr.splitlines() if _RAISED.match(line)]
    # torch's exporter wraps the error that stopped it into pages of advice
    causes = [line for line in lines if not line.startswith("torch.onnx._internal")]
    wrapped = lines and lines[-1] not in causes
    said = causes[0] if wrapped and causes else lines[-1] if lines else done.failure
    return said.replace("\x1b[96m", "").replace("\x1b[0m", "")[:400]


def read(path: Path) -> dict[tuple[str, str, str], Result]:
    """The last line for each step."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        result = json.loads(line)
        found[result["stage"], result["name"], result["exporter"]] = result
    return found


def steps(options: argparse.Namespace, done: dict[tuple[str, str, str], Result]) -> Iterator[Step]:
    """What is asked for and not done, one architecture after the other."""
    stages = [stage for stage in STAGES if getattr(options, f"{stage}_only") or not _narrowed(options)]
    known = architectures()
    patterns = options.only.split(",")
    for name, architecture in known.items():
        if not any(fnmatch.fnmatch(name, p) or fnmatch.fnmatch(architecture.family, p) for p in patterns):
            continue
        if architecture.extra and not options.all:
            continue
        for exporter in architecture.exporters:
            if options.exporter in (None, exporter):
                for stage in stages:
                    step = Step(stage, name, exporter)
                    if _wanted(step, options, done):
                        yield step


def _narrowed(options: argparse.Namespace) -> bool:
    return bool(options.export_only or options.prune_only)


def _wanted(step: Step, options: argparse.Namespace, done: dict[tuple[str, str, str], Result]) -> bool:
    if options.fresh:
        return True
    if step.stage == "export" and step.path(options.out).exists():
        return False
    result = done.get(step.key)
    return result is None or (options.again and not result["ok"])


def summary(result: Result) -> str:
    """One line of progress."""
    head = f"{result['stage']:6s} {result['exporter']:6s} {result['name']:28s} {result['seconds']:6.1f} s  "
    for key in ("failed", "crash", "said"):
        if key in result:
            return f"{head}{key.upper()} {result.get('stopped', '')} {result[key][:200]}"
    if result["stage"] == "export":
        size = result["size"] / 1e6
        return f"{head}{result['nodes']:5d} nodes {size:6.1f} MB  {result['dynamic'] or 'static'}  {result['note']}"
    kept = "-" if result["macs_kept"] is None else f"{result['macs_kept']:4.0%}"
    error = "inexact" if result["error"] is None else f"{result['error']:8.1e}"
    notes = "" if result["ok"] else f"  WRONG {'; '.join(result['notes'])}"
    return f"{head}reach {result['reach']:4.0%}  kept {kept}  error {error}  moved {result['moved']}{notes}"


def main() -> int:
    """Do what has not been done, then write the table."""
    parser = argparse.ArgumentParser(description="Prune every architecture there is, or see why not.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="*", help="patterns of names or families, comma-separated")
    parser.add_argument("--exporter", choices=EXPORTERS)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--export-only", action="store_true")
    only.add_argument("--prune-only", action="store_true")
    parser.add_argument("--inexact", action="store_true", help="allow cuts that change what the kept channels compute")
    parser.add_argument("--all", action="store_true", help="also those that add little")
    parser.add_argument("--again", action="store_true", help="repeat steps that failed")
    parser.add_argument("--fresh", action="store_true", help="repeat all steps")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--memory", type=float, default=14.0, metavar="GIB", help="address space for each step")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="S", help="time for each step")
    parser.add_argument("--one", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        step = Step(options.one, options.only, options.exporter)
        export = step.stage == "export"
        found = export_one(step, options.out) if export else prune_one(step, options.out, options.inexact)
        print(LINE + json.dumps(found), flush=True)
        return 0
    (options.out / "models").mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    done = read(results)
    lock = threading.Lock()

    def work(step: Step) -> None:
        if step.stage == "prune" and not step.path(options.out).exists():
            return
        result = run(step, options)
        with lock:
            done[step.key] = result
            with results.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(summary(result), flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(work, list(steps(options, done))))
    text = table(read(results), architectures())
    (options.out / "coverage.md").write_text(text)
    print(text.split("\n\n")[0])
    return int(any("crash" in r or (r["stage"] == "prune" and "failed" in r) for r in done.values()))


if __name__ == "__main__":
    sys.exit(main())
