"""results.jsonl as a Markdown table: one row for each file, and one sentence for each that does not exist.

The reasons are those that hold the most MACs; where pruning did not come to an end, the row says what it said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Result = Mapping[str, Any]
Key = tuple[str, str, str]

COLUMNS = "architecture,exporter,nodes,free dimensions,MACs reached,MACs kept,oracle error,seconds,frozen by MACs"


def table(results: Mapping[Key, Result], known: Mapping[str, Any]) -> str:
    """All rows, family after family."""
    rows: dict[str, list[str]] = {}
    for name, architecture in known.items():
        for exporter in architecture.exporters:
            exported, pruned = results.get(("export", name, exporter)), results.get(("prune", name, exporter))
            if exported or pruned:
                rows.setdefault(architecture.family, []).append(_row(name, exporter, exported or {}, pruned or {}))
    parts = [_counts(results, known)]
    head = f"{_cells(*COLUMNS.split(','))}\n|---|---|--:|---|--:|--:|--:|--:|---|\n"
    parts += [f"## {family}\n\n{head}" + "\n".join(lines) for family, lines in rows.items()]
    return "\n\n".join(parts) + "\n"


def _counts(results: Mapping[Key, Result], known: Mapping[str, Any]) -> str:
    there = [key for key, r in results.items() if key[1] in known and (key[0] == "prune" or r["ok"])]
    files = {(name, exporter) for _, name, exporter in there}
    pruned = [r for (stage, name, _), r in results.items() if stage == "prune" and name in known]
    good = [r for r in pruned if r["ok"]]
    wrong = sum("notes" in r and not r["ok"] for r in pruned)
    said = sum("said" in r for r in pruned)
    broken = sum("crash" in r or "failed" in r for r in pruned)
    return (
        f"{len({name for name, _ in files})} architectures, {len(files)} files; {len(pruned)} were pruned: "
        f"{len(good)} verified, {wrong} not verified, {said} refused with a sentence, {broken} failed."
    )


def _row(name: str, exporter: str, exported: Result, pruned: Result) -> str:
    if not exported.get("ok", True):
        return _cells(name, exporter, "", "", "", "", "", "", f"not exported: {_text(exported['failed'])}")
    nodes = exported.get("nodes", pruned.get("nodes", ""))
    free = exported.get("dynamic") or "none"
    if not pruned:
        return _cells(name, exporter, nodes, free, "", "", "", "", "not run")
    if "failed" in pruned:
        return _cells(name, exporter, nodes, free, "", "", "", _seconds(pruned), f"FAILED: {_text(pruned['failed'])}")
    reached = _percent(pruned.get("reach")) if pruned.get("macs", 1) else "?"  # nothing counted, nothing known
    kept = _percent(pruned.get("macs_kept"))
    return _cells(name, exporter, nodes, free, reached, kept, _error(pruned), _seconds(pruned), _why(pruned))


def _why(pruned: Result) -> str:
    if "crash" in pruned:
        return f"CRASH in {pruned['stopped']}: {_text(pruned['crash'])}"
    said = f"{_text(pruned['said'])}; " if "said" in pruned else ""
    if "notes" in pruned and not pruned["ok"]:
        said = f"NOT VERIFIED: {_text(pruned['notes'][0])}; "
    reasons = [f"{code} ({share:.0%})" for code, share, _ in pruned.get("frozen", [])[:2] if share >= 0.005]
    if pruned.get("uncounted"):
        reasons.append(f"MACs of {pruned['uncounted']} nodes not counted")
    return said + ", ".join(reasons)


def _error(pruned: Result) -> str:
    if pruned.get("inexact"):
        return f"inexact, {pruned['deviation']:.1e}"
    error = pruned.get("error")
    return "" if error is None else f"{error:.1e}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _seconds(pruned: Result) -> str:
    return f"{pruned['seconds']:.0f}"


def _text(said: str) -> str:
    return said.replace("|", "\\|")[:160]


def _cells(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
