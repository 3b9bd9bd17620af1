"""From what was found to what the page says: numbers are put into words here, and nothing is measured any more."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from onnxprune.accuracy.damage import ranked
from onnxprune.checking.verify import TOLERANCE
from onnxprune.counting.cost import Cost, cost, reach
from onnxprune.counting.freezes import freezes
from onnxprune.report import charts
from onnxprune.report.draw import Drawn, drawn
from onnxprune.report.findings import Findings
from onnxprune.report.importance import histograms, removed_units
from onnxprune.report.layers import Layer, layers_of
from onnxprune.report.network import Block, blocks_of, colours
from onnxprune.report.page import (
    ANALYSIS,
    PRUNING,
    Damage,
    DamageCurve,
    DrawnBlock,
    FreezeRow,
    GroupRow,
    LayerRow,
    Measure,
    Other,
    Page,
    Shown,
    Stat,
    Verdict,
)
from onnxprune.report.times import shared_out
from onnxprune.text.figures import bindings, change, count, milliseconds, noise, percent, plural, size

COLOURS = 8
"""That can be told apart; groups beyond them take turns, and have numbers."""
MOST_DRAWN = 1_000_000
"""Characters of all blocks' drawings: a larger page would open slowly, and be read by nobody."""
PACKAGES = ("onnxprune", "onnx", "onnxruntime", "numpy")


def gather(found: Findings) -> Page:
    """Put the page together."""
    before = cost(found.model, found.dims)
    after = cost(found.pruned, found.dims) if found.pruned is not None else None
    layers = layers_of(found.model, found.coupling, before, found.plan, after)
    blocks = blocks_of(found.model, layers)
    colour = colours(layers, COLOURS)
    tags = {group.name: f"G{index + 1}" for index, group in enumerate(found.coupling.groups)}
    shown = _blocks(blocks, tags, colour)
    rows, others = _layers(found, layers, tags, colour)
    scores = found.scores
    return Page(
        kind=ANALYSIS if found.pruned is None else PRUNING,
        name=found.model.path.name if found.model.path else "model",
        facts=_facts(found, before),
        stats=_stats(found, before, after),
        measures=_measures(found, before, after),
        verdict=_verdict(found),
        blocks=shown,
        further_blocks=len(blocks) - len(shown),
        groups=_groups(found, before, tags, colour),
        skyline=charts.skyline(layers),
        layers=rows,
        others=others,
        criterion=scores.criterion if scores else "",
        histograms=tuple(
            Shown(each, tags[each.group], charts.histogram(each))
            for each in (histograms(found.coupling, scores, found.plan) if scores else ())
        ),
        freezes=tuple(
            FreezeRow(each, _part(each.macs, before.macs)) for each in freezes(found.model, found.coupling, before)
        ),
        unknown_ops=found.coupling.unknown_ops,
        damage=_damage(found),
        notes=(*found.notes, *before.reservations),
        warnings=found.warnings,
        command=found.command,
        versions=versions(),
    )


def versions() -> tuple[tuple[str, str], ...]:
    """Of what had a part in the figures."""
    found = [("Python", platform.python_version())]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:  # run from a checkout that was never installed
            continue
    return (*found, ("machine", f"{platform.system()} {platform.machine()}, {plural(os.cpu_count() or 1, 'core')}"))


def _facts(found: Findings, before: Cost) -> tuple[tuple[str, str], ...]:
    proto = found.model.proto
    made = " ".join(filter(None, [proto.producer_name, proto.producer_version]))
    facts = [("nodes", f"{len(found.model.graph.node):,}"), ("opset", str(found.model.opset))]
    facts += [("made by", made)] if made else []
    facts += [("sizes", bindings(before.dims))] if before.dims else []
    return tuple(facts)


def _stats(found: Findings, before: Cost, after: Cost | None) -> tuple[Stat, ...]:
    if after is None:
        units = sum(group.size for group in found.coupling.groups if group.size > 1)
        share = reach(found.model, found.coupling, before).share
        return (
            Stat(count(before.params), "parameters"),
            Stat(count(before.macs), "MACs"),
            Stat(f"{units:,}", f"prunable units in {plural(len(found.coupling.groups), 'group')}"),
            Stat(percent(share), "of the MACs can be reached"),
        )
    stats = [
        Stat(_signed(change(before.params, after.params)), "parameters"),
        Stat(_signed(change(before.macs, after.macs)), "MACs"),
    ]
    if found.bench is not None:
        stats.append(Stat(f"{found.bench.rows[1].speedup:.2f}\N{MULTIPLICATION SIGN}", "as fast"))
    if found.kept is not None:
        a, b = found.kept
        if a.top1 is not None and b.top1 is not None:
            points = _signed(f"{100 * (b.top1 - a.top1):+.1f} points")
            stats.append(Stat(percent(b.top1), f"accuracy, {points}"))
        elif b.agreement is not None:
            stats.append(Stat(percent(b.agreement), "judged as before"))
    return tuple(stats)


def _measures(found: Findings, before: Cost, after: Cost | None) -> tuple[Measure, ...]:
    if after is None:
        return ()
    rows = [
        _measure("parameters", before.params, after.params, count),
        _measure("MACs", before.macs, after.macs, count),
        _measure("weights", before.bytes, after.bytes, size),
    ]
    if found.bench is not None:
        a, b = found.bench.rows[:2]
        # by the speed-up, which compares within each round, as the table of `prune` does
        rows.append(_measure("latency", a.median_ms, a.median_ms / b.speedup, milliseconds))
    if found.kept is not None:
        x, y = found.kept
        for label, one, two in (("accuracy", x.top1, y.top1), ("top-5 accuracy", x.top5, y.top5)):
            if one is not None and two is not None:
                points = f"{100 * (two - one):+.1f} points"
                rows.append(Measure(label, percent(one), one, percent(two), two, _signed(points)))
        if y.agreement is not None:
            rows.append(Measure("agreement", percent(1), 1.0, percent(y.agreement), y.agreement, "with the original"))
    return tuple(rows)


def _measure(label: str, before: float, after: float, shown: object) -> Measure:
    assert callable(shown)
    most = max(before, after) or 1
    return Measure(
        label, shown(before), before / most, shown(after), after / most, _signed(change(before, after)) or "unchanged"
    )


def _signed(text: str) -> str:
    """With a true minus sign."""
    return text.replace("-", "\N{MINUS SIGN}")


def _verdict(found: Findings) -> Verdict | None:
    verdict = found.verification
    if verdict is None:
        return None
    deviation = (
        "" if verdict.deviation is None else f" Its outputs deviate from the original's by {noise(verdict.deviation)}."
    )
    if verdict.error is not None:
        text = f"It equals the original with the cut channels set to zero, to {noise(verdict.error)} "
        return Verdict(verdict.ok, "Verified", f"{text}(limit {noise(TOLERANCE)}).{deviation}")
    if verdict.inexact:
        text = f"It holds cuts that are not exact ({', '.join(verdict.inexact)}), so nothing is proved."
        return Verdict(False, "Not comparable", text + deviation)
    if verdict.mode == "structural":
        return Verdict(False, "Checked in structure", "Types and shapes are right; outputs were not compared.")
    return Verdict(False, "Not verified", "Verification was switched off.")


def _blocks(blocks: Sequence[Block], tags: Mapping[str, str], colour: Mapping[str, int]) -> tuple[DrawnBlock, ...]:
    found: list[DrawnBlock] = []
    room = MOST_DRAWN
    for block in blocks:
        if room <= 0:
            break
        made = drawn(block, tags, colour) if block.drawable else Drawn("", 0.0)
        room -= len(made.svg)
        found.append(DrawnBlock(block.name, made.svg, made.width, len(block.layers), block.repeats, block.turn))
    return tuple(found)


def _groups(found: Findings, before: Cost, tags: Mapping[str, str], colour: Mapping[str, int]) -> tuple[GroupRow, ...]:
    held = reach(found.model, found.coupling, before).by_group
    gone = removed_units(found.coupling, found.plan) if found.plan is not None else {}
    return tuple(
        GroupRow(
            tag=tags[group.name],
            colour=colour.get(group.name),
            name=group.name,
            units=group.size,
            kept=group.size - len(gone.get(group.name, ())),
            members=len(group.weights),
            params=held[group.name].params,
            macs=held[group.name].macs,
            macs_share=_part(held[group.name].macs, before.macs),
            inexact=bool(group.inexact),
        )
        for group in found.coupling.groups
    )


def _layers(
    found: Findings, layers: Sequence[Layer], tags: Mapping[str, str], colour: Mapping[str, int]
) -> tuple[tuple[LayerRow, ...], tuple[Other, ...]]:
    models = [found.model, found.pruned]
    times = [
        shared_out(model, kernels, layers)
        for model, kernels in zip(models, found.kernels, strict=False)
        if model is not None
    ]
    most = max((layer.macs for layer in layers), default=0)
    by_node, others = times[0] if times else ({}, {})
    later, others_after = times[1] if len(times) > 1 else ({}, {})
    longest = max(by_node.values(), default=0.0)
    rows = tuple(
        LayerRow(
            layer=layer,
            tag=tags.get(layer.group, ""),
            colour=colour.get(layer.group),
            macs_share=_part(layer.macs, most),
            macs_share_after=_part(layer.macs_after, most),
            ms=by_node.get(layer.node),
            ms_after=later.get(layer.node),
            ms_share=_part(by_node.get(layer.node, 0.0), longest),
            ms_share_after=_part(later.get(layer.node, 0.0), longest),
        )
        for layer in layers
    )
    names = sorted(dict.fromkeys([*others, *others_after]), key=lambda op: -others.get(op, 0.0))
    twice = len(times) > 1
    rest = tuple(Other(op, others.get(op, 0.0), others_after.get(op, 0.0) if twice else None) for op in names)
    return rows, rest


_LOST = {
    "accuracy": ("accuracy lost, in points", 100.0),
    "agreement": ("samples judged otherwise than by the original, in %", 100.0),
    "deviation": ("relative distance of the outputs", 1.0),
}


def _damage(found: Findings) -> Damage | None:
    measured = found.sensitivity
    if measured is None:
        return None
    what, scale = _LOST[measured.measure]
    known = {group.name for group in found.coupling.groups}
    curves = [curve for curve in ranked(measured) if curve.group in known]
    lost = [measured.lost(point.figures) for curve in curves for point in curve.points]
    top = max((value for value in lost if value < float("inf")), default=0.0) or 1.0
    return Damage(
        what=what,
        top=f"{scale * top:.3g}",
        source=measured.spec,
        curves=tuple(
            DamageCurve(
                curve.group,
                curve.units,
                charts.damage(measured, curve, top),
                tuple(
                    (percent(point.removed / curve.units), f"{scale * measured.lost(point.figures):.3g}")
                    for point in curve.points
                ),
            )
            for curve in curves
        ),
    )


def _part(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
