"""`onnxprune ops`: which operators of a model are known, which keep channels from going, and which are unknown."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from onnxprune.analysis.coupling import Coupling
from onnxprune.analysis.rules import RULES
from onnxprune.analysis.rules.registry import key
from onnxprune.cli import source
from onnxprune.cli.arguments import Commands, add_analysis, add_model, command, finished
from onnxprune.cli.progress import Activity, Narrator
from onnxprune.cli.tables import Column, Grid, Part
from onnxprune.cli.talk import Talk
from onnxprune.files.model import Model
from onnxprune.passes import Analyze, Normalize
from onnxprune.pipeline.manager import Pass, PassManager
from onnxprune.text.figures import count, plural

_EXAMPLES = """\
examples:
  onnxprune ops model.onnx
  onnxprune ops model.onnx --json                 for a pipeline that must know
"""
_COLUMNS = (
    Column("Operator", name=True),
    Column("Nodes"),
    Column("Status", name=True),
    Column("Channels frozen"),
    Column("Why", name=True),
)


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "ops",
        "[MODEL]",
        "list the operators and whether cuts pass through them",
        "List every operator of the model: known (it has a rule), frozen (it has one, but in this model it keeps "
        "channels from going) or unknown (no rule: what it touches is frozen).",
        _EXAMPLES,
    )
    add_model(parser)
    add_analysis(parser)
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    talk = Talk.of(args)
    path = Path(args.model) if args.model else source.default_path()
    with Activity(talk) as activity:
        activity.step("reading")
        passes: list[Pass] = [Normalize(), Analyze(args.allow_inexact, args.attention)]
        state = PassManager(passes, [Narrator(activity, talk)]).run(source.opened(path, []).model)
        assert state.coupling is not None
        found = _operators(state.model, state.coupling)
    rows = [[op["op"], str(op["nodes"]), op["status"], count(op["frozen"]), ", ".join(op["reasons"])] for op in found]
    statuses = Counter(op["status"] for op in found)
    said = ", ".join(f"{number} {status}" for status, number in statuses.items())
    parts: list[Part] = [Grid(_COLUMNS, rows), "", f"{plural(len(found), 'operator')}: {said}."]
    talk.result({"command": "ops", "operators": found}, parts)
    return 0


def _operators(model: Model, coupling: Coupling) -> list[dict[str, Any]]:
    """One entry per operator, the unknown first, then those that freeze most."""
    kinds = {node.name: key(node) for node in model.graph.node}
    frozen: Counter[str] = Counter()
    reasons: dict[str, dict[str, None]] = {}
    for part in coupling.frozen:
        op = kinds.get(part.reason.node)
        if op is not None:
            frozen[op] += part.size
            reasons.setdefault(op, {})[part.reason.code] = None
    found = []
    for op, nodes in Counter(kinds.values()).items():
        status = "unknown" if op not in RULES else "frozen" if frozen[op] else "known"
        found.append(
            {"op": op, "nodes": nodes, "status": status, "frozen": frozen[op], "reasons": [*reasons.get(op, {})]}
        )
    order = {"unknown": 0, "frozen": 1, "known": 2}
    return sorted(found, key=lambda op: (order[op["status"]], -op["frozen"], op["op"]))
