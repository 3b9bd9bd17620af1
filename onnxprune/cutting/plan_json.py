"""A plan's file: what is read back equals what was written; anything else a file may hold is an error that says where.

    {
      "version": 1,
      "meta": {"criterion": "l1", "ratio": 0.3, ...},
      "groups": [{"name": "conv1", "units": 4, "removed": 2}],
      "cuts": [{"group": "conv1", "index": [1, 3], "slots": [{"tensor": "conv1.weight", "axis": 0, "size": 4}, ...]}]
    }

One line per group, slot and index, in stable order, so that two plans can be compared by `diff`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from onnxprune.cutting.plan import VERSION, Cut, GroupSummary, Plan, SlotRef
from onnxprune.errors import UserError, WrongPlan
from onnxprune.files.replacing import replacing, unwritable
from onnxprune.text.json_reader import check_version, fields, items, parsed, read_text, string, whole, wrong


def to_json(plan: Plan) -> str:
    """The text of a plan file."""
    groups = []
    for group in plan.groups:
        inexact = {"inexact": group.inexact} if group.inexact else {}
        groups.append({"name": group.name, "units": group.units, "removed": group.removed, **inexact})
    cuts = [
        f'    {{\n      "group": {_line(cut.group)},\n      "index": {_line(cut.index)},\n      "slots": '
        + _block([_slot_fields(slot) for slot in cut.slots], "      ")
        + "\n    }"
        for cut in plan.cuts
    ]
    meta = ",\n".join(f"    {_line(key)}: {_line(plan.meta[key])}" for key in plan.meta)
    return (
        f'{{\n  "version": {plan.version},\n'
        f'  "meta": ' + (f"{{\n{meta}\n  }}" if meta else "{}") + ",\n"
        f'  "groups": {_block(groups, "  ")},\n'
        f'  "cuts": ' + ("[\n" + ",\n".join(cuts) + "\n  ]" if cuts else "[]") + "\n}\n"
    )


def _slot_fields(slot: SlotRef) -> dict[str, object]:
    role = {"role": slot.role} if slot.role else {}
    return {"tensor": slot.tensor, "axis": slot.axis, "size": slot.size, **role}


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _block(items: Iterable[object], indent: str) -> str:
    lines = ",\n".join(f"{indent}  {_line(item)}" for item in items)
    return f"[\n{lines}\n{indent}]" if lines else "[]"


@contextmanager
def saving(plan: Plan, path: str | Path) -> Iterator[None]:
    """A plan file that appears when the block ends well: the plan of a model that was not written is of no use."""
    path = Path(path)
    with ExitStack() as pending:
        try:
            (file,) = pending.enter_context(replacing([path]))
            file.write(to_json(plan).encode())
            file.flush()  # a full disk must say so now
        except OSError as error:
            raise unwritable(path, error) from None
        yield


def save(plan: Plan, path: str | Path) -> None:
    """Write a plan file; it appears complete or not at all."""
    with saving(plan, path):
        pass


def load(path: str | Path) -> Plan:
    """Read a plan file."""
    return from_json(read_text(path, "plan"), source=str(path))


def load_cuts(path: str | Path, *, allow_inexact: bool = False) -> Plan:
    """Read a plan file that is to be used: one without cuts is a mistake.

    So is one that calls cuts inexact where nobody asked for such: its result could not be verified.
    """
    plan = load(path)
    if not plan.cuts:
        raise WrongPlan(f"{str(path)!r}: the plan removes nothing")
    if plan.inexact and not allow_inexact:
        codes = ", ".join(plan.inexact)
        raise WrongPlan(f"{str(path)!r}: the plan holds inexact cuts ({codes}); if that is meant, add --allow-inexact")
    return plan


def from_json(text: str, *, source: str = "plan") -> Plan:
    """Read the text of a plan file; `source` is how errors call it."""
    try:
        return parsed(text, source, "plan", _plan)
    except UserError as error:
        raise WrongPlan(str(error)) from None


def _plan(data: object) -> Plan:
    check_version(data, VERSION, "plan")
    found = fields(data, "the file", ("version", "cuts"), optional=("meta", "groups"))
    meta = found.get("meta", {})
    if not isinstance(meta, dict):
        raise wrong("meta", "an object", meta)
    groups = tuple(items(found.get("groups", []), "groups", _group))
    return Plan(tuple(items(found["cuts"], "cuts", _cut)), groups, meta)


def _group(data: object, where: str) -> GroupSummary:
    found = fields(data, where, ("name", "units", "removed"), optional=("inexact",))
    units = whole(found["units"], f"{where}.units")
    removed = whole(found["removed"], f"{where}.removed")
    if not 0 <= removed <= units:
        raise WrongPlan(f"{where}: {removed} of {units} units cannot be removed")
    inexact = tuple(items(found.get("inexact", []), f"{where}.inexact", string))
    return GroupSummary(string(found["name"], f"{where}.name"), units, removed, inexact)


def _cut(data: object, where: str) -> Cut:
    found = fields(data, where, ("group", "index", "slots"))
    group = string(found["group"], f"{where}.group")
    index = tuple(items(found["index"], f"{where}.index", whole))
    slots = tuple(items(found["slots"], f"{where}.slots", _slot))
    try:
        return Cut(group, index, slots)
    except UserError as error:
        raise WrongPlan(f"{where}: {error}") from None


def _slot(data: object, where: str) -> SlotRef:
    found = fields(data, where, ("tensor", "axis", "size"), optional=("role",))
    tensor = string(found["tensor"], f"{where}.tensor")
    axis, size = (whole(found[key], f"{where}.{key}") for key in ("axis", "size"))
    return SlotRef(tensor, axis, size, string(found.get("role", ""), f"{where}.role"))
