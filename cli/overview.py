"""How `analyze` shows its inventory: the groups, what is frozen, and the sum below, where a terminal ends up."""

from __future__ import annotations

from onnxprune.analysis.coupling import Slot
from onnxprune.cli.inventory import Inventory, width
from onnxprune.cli.tables import Column, Grid, Part
from onnxprune.text.figures import bindings, count, percent, plural, size, tally

_GROUPS = (
    Column("Group", name=True),
    Column("Units"),
    Column("Width"),
    Column("Members"),
    Column("Params"),
    Column("MACs"),
    Column("Share"),
)
_FROZEN = (
    Column("Frozen because", name=True),
    Column("Weights"),
    Column("Channels"),
    Column("MACs"),
    Column("Share"),
    Column("For instance", name=True),
)
_MEMBERS = (Column("Slot", name=True), Column("Axis"), Column("Role", name=True), Column("Operator", name=True))


def parts(found: Inventory, *, verbose: bool) -> list[Part]:
    """Everything; with `verbose` every slot of every group and every frozen weight, too."""
    return [
        *_heading(found),
        "",
        *_groups(found),
        *(_members(found) if verbose else []),
        *_frozen(found, verbose=verbose),
        *_sum(found),
    ]


def _heading(found: Inventory) -> list[Part]:
    total = found.cost
    name = found.model.path.name if found.model.path else "model"
    at = f" at {bindings(total.dims)}" if total.dims else ""
    return [
        f"{name}: {plural(len(found.model.graph.node), 'node')}, opset {found.model.opset}",
        f"{count(total.params)} parameters in {size(total.bytes)}, {count(total.macs)} MACs{at}",
    ]


def _groups(found: Inventory) -> list[Part]:
    groups = found.coupling.groups
    if not groups:
        return ["No channels of this model can be pruned.", ""]
    rows = []
    for group in groups:
        held = found.reach.by_group[group.name]
        rows.append(
            [
                group.name + (" (inexact)" if group.inexact else ""),
                f"{group.size:,}",
                width(group),
                f"{len(group.weights)}",
                count(held.params),
                count(held.macs),
                _share(held.macs, found.cost.macs),
            ]
        )
    return [Grid(_GROUPS, rows), ""]


def _members(found: Inventory) -> list[Part]:
    shown: list[Part] = []
    for group in found.coupling.groups:
        shown.append(f"{group.name}: {plural(group.size, 'unit')}, made by {', '.join(group.nodes)}")
        shown += [f"  inexact: it {reason}" for reason in group.inexact]
        rows = [
            [slot.tensor, _axis(slot), slot.role or ("" if slot.weight else "activation"), slot.op]
            for slot in group.slots
        ]
        shown += [Grid(_MEMBERS, rows), ""]
    return shown


def _axis(slot: Slot) -> str:
    part = "" if len(slot.positions) == slot.size else f"{len(slot.positions)} of "
    return f"{slot.axis} ({part}{slot.size})"


def _frozen(found: Inventory, *, verbose: bool) -> list[Part]:
    if not found.freezes:
        return []
    rows = [
        [
            freeze.code,
            f"{len(freeze.parts)}",
            f"{freeze.channels:,}",
            count(freeze.macs),
            _share(freeze.macs, found.cost.macs),
            f"{freeze.parts[0].tensor}:{freeze.parts[0].axis}",
        ]
        for freeze in found.freezes
    ]
    shown: list[Part] = [Grid(_FROZEN, rows), ""]
    for freeze in found.freezes:
        shown.append(f"{freeze.code}: {freeze.sentence}")
        if verbose:
            shown += [
                f"  {p.tensor}:{p.axis} ({plural(p.size, 'channel')} of {p.node}): {p.reason}" for p in freeze.parts
            ]
    return [*shown, ""]


def _sum(found: Inventory) -> list[Part]:
    groups, total = found.coupling.groups, found.cost
    lines: list[Part] = []
    if found.coupling.unknown_ops:
        listed = tally(found.coupling.unknown_ops)
        lines.append(f"Operators without a rule, which freeze what they touch: {listed}.")
    lines += total.reservations
    if groups:
        single = len(groups) - len(found.open)
        if single:
            lines.append(f"{plural(single, 'group')} of a single unit can lose nothing.")
        lines.append(
            f"{plural(len(found.open), 'group')}, {plural(sum(group.size for group in found.open), 'prunable unit')}; "
            f"pruning reaches {percent(found.reach.share)} of the MACs."
        )
    return lines


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else ""
