"""How `prune` and `apply` show their outcome: one table, before and after, and what follows from it."""

from __future__ import annotations

from onnxprune.checking.verify import TOLERANCE
from onnxprune.cli.outcome import Outcome
from onnxprune.cli.tables import Column, Grid, Part
from onnxprune.repair.layer_errors import LayerError
from onnxprune.text.figures import change, count, milliseconds, noise, percent, plural, size

_COLUMNS = (Column("", name=True), Column("original"), Column("pruned"), Column("change"))
_GROUPS = (Column("Group", name=True), Column("Units"), Column("Removed"), Column("Kept"))
_LAYERS = (Column("Layer", name=True), Column("Operator"), Column("Error"), Column("SQNR"))


def parts(found: Outcome, *, verbose: bool) -> list[Part]:
    """The table and a line or two; with `verbose` every group, first."""
    shown: list[Part] = []
    if verbose and found.plan.groups:
        rows = [[g.name, f"{g.units:,}", f"{g.removed:,}", f"{g.units - g.removed:,}"] for g in found.plan.groups]
        shown += [Grid(_GROUPS, rows), ""]
    if found.layers:
        shown += [Grid(_LAYERS, [_layer(each) for each in found.layers]), ""]
    shown += [Grid(_COLUMNS, [*_sizes(found), *_speed(found), *_quality(found)]), "", _extent(found)]
    return [*shown, *(f"Warning: {warning}." for warning in found.warnings)]


def _layer(found: LayerError) -> list[str]:
    return [found.layer, found.op, noise(found.error), f"{found.sqnr_db:.1f} dB"]


def _sizes(found: Outcome) -> list[list[str]]:
    a, b = found.before, found.after
    return [
        ["params", count(a.params), count(b.params), change(a.params, b.params)],
        ["MACs", count(a.macs), count(b.macs), change(a.macs, b.macs)],
        ["weights", size(a.bytes), size(b.bytes), change(a.bytes, b.bytes)],
    ]


def _speed(found: Outcome) -> list[list[str]]:
    if found.bench is None or found.pruned is None:
        return []
    a, b = found.bench.rows[0], found.pruned
    sizes = ", ".join(f"{name}={n}" for name, n in found.bench.dims.items() if n > 1)
    label = f"latency ({sizes})" if 0 < len(sizes) < 20 else "latency"
    return [
        [label, milliseconds(a.median_ms), milliseconds(b.against(a)), change(a.median_ms, b.against(a))],
        ["speed-up", "", f"{b.speedup:.2f}x", f"{b.speedup_low:.2f}x to {b.speedup_high:.2f}x"],
    ]


def _quality(found: Outcome) -> list[list[str]]:
    rows = _kept(found)
    verdict = found.verification
    if verdict.deviation is not None:
        what = "compensation" if "compensated" in found.plan.meta else "finetuning"
        rows.append(["output deviation", "", noise(verdict.deviation), f"before {what}"])
    if verdict.error is not None:
        rows.append(["verification error", "", noise(verdict.error), f"limit {noise(TOLERANCE)}"])
    elif verdict.mode != "off":
        kind = "not comparable" if verdict.inexact else f"{verdict.mode} only"
        rows.append(["verification", "", "passed", kind])
    return rows


def _kept(found: Outcome) -> list[list[str]]:
    """On the user's data, as far as it tells."""
    if found.kept is None:
        return []
    a, b = found.kept
    rows = []
    for label, x, y in (("accuracy", a.top1, b.top1), ("top-5 accuracy", a.top5, b.top5)):
        if x is not None and y is not None:
            rows.append([label, percent(x), percent(y), f"{100 * (y - x):+.1f} points"])
    if a.metric is not None and b.metric is not None:
        rows.append(["metric", f"{a.metric:.4g}", f"{b.metric:.4g}", f"{b.metric - a.metric:+.4g}"])
    if b.agreement is not None:
        rows.append(["agreement", "", percent(b.agreement), f"of {plural(b.samples, 'sample')}"])
    if b.top1 is None and b.cosine is not None and b.sqnr_db is not None:
        rows.append(["cosine of outputs", "", f"{b.cosine:.4f}", f"{b.sqnr_db:.1f} dB"])
    return rows


def _extent(found: Outcome) -> str:
    text = f"Cut {found.cut_groups} of {plural(len(found.groups), 'group')}"
    units, removed = sum(g.units for g in found.groups), sum(g.removed for g in found.groups)
    if units:
        text += f": {removed:,} of {plural(units, 'unit')} ({percent(removed / units)})"
    bound = found.plan.meta.get("bound_by")
    return f"{text}. What bound was {bound}." if bound else f"{text}."
