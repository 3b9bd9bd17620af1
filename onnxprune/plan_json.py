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
import reprlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from onnxprune.errors import UserError
from onnxprune.kinds import is_whole
from onnxprune.names import suggest
from onnxprune.plan import VERSION, Cut, GroupSummary, Plan, SlotRef
from onnxprune.replacing import replacing, unwritable

T = TypeVar("T")


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
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors put a mark in front
    except UnicodeDecodeError:
        raise UserError(f"{str(path)!r} is not a plan: it is not UTF-8 text") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise UserError(f"cannot read the plan {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
    return from_json(text, source=str(path))


def load_cuts(path: str | Path, *, allow_inexact: bool = False) -> Plan:
    """Read a plan file that is to be used: one without cuts is a mistake.

    So is one that calls cuts inexact where nobody asked for such: its result could not be verified.
    """
    plan = load(path)
    if not plan.cuts:
        raise UserError(f"{str(path)!r}: the plan removes nothing")
    if plan.inexact and not allow_inexact:
        codes = ", ".join(plan.inexact)
        raise UserError(f"{str(path)!r}: the plan holds inexact cuts ({codes}); if that is meant, add --allow-inexact")
    return plan


def from_json(text: str, *, source: str = "plan") -> Plan:
    """Read the text of a plan file; `source` is how errors call it."""
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise UserError(f"{source}: not a plan: it is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{source}: not valid JSON: {error}") from None
    try:
        return _plan(data)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")


def _plan(data: object) -> Plan:
    # The version first: a newer file may well break every other expectation.
    if isinstance(data, dict) and "version" in data and _integer(data["version"], "version") != VERSION:
        raise UserError(f"plan format {data['version']} is unknown; this onnxprune reads format {VERSION}")
    fields = _fields(data, "the file", ("version", "cuts"), optional=("meta", "groups"))
    meta = fields.get("meta", {})
    if not isinstance(meta, dict):
        raise _wrong("meta", "an object", meta)
    groups = tuple(_list(fields.get("groups", []), "groups", _group))
    return Plan(tuple(_list(fields["cuts"], "cuts", _cut)), groups, meta)


def _group(data: object, where: str) -> GroupSummary:
    fields = _fields(data, where, ("name", "units", "removed"), optional=("inexact",))
    units = _integer(fields["units"], f"{where}.units")
    removed = _integer(fields["removed"], f"{where}.removed")
    if not 0 <= removed <= units:
        raise UserError(f"{where}: {removed} of {units} units cannot be removed")
    inexact = tuple(_list(fields.get("inexact", []), f"{where}.inexact", _string))
    return GroupSummary(_string(fields["name"], f"{where}.name"), units, removed, inexact)


def _cut(data: object, where: str) -> Cut:
    fields = _fields(data, where, ("group", "index", "slots"))
    group = _string(fields["group"], f"{where}.group")
    index = tuple(_list(fields["index"], f"{where}.index", _integer))
    slots = tuple(_list(fields["slots"], f"{where}.slots", _slot))
    try:
        return Cut(group, index, slots)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _slot(data: object, where: str) -> SlotRef:
    fields = _fields(data, where, ("tensor", "axis", "size"), optional=("role",))
    tensor = _string(fields["tensor"], f"{where}.tensor")
    axis, size = (_integer(fields[key], f"{where}.{key}") for key in ("axis", "size"))
    return SlotRef(tensor, axis, size, _string(fields.get("role", ""), f"{where}.role"))


def _fields(data: object, where: str, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise _wrong(where, "an object", data)
    for key in data:
        if key not in needed + optional:
            raise UserError(f"{where}: unknown key {key!r}{suggest(key, needed + optional)}")
    for key in needed:
        if key not in data:
            raise UserError(f"{where}: {key!r} is missing")
    return data


def _list(data: object, where: str, read: Callable[[object, str], T]) -> list[T]:
    if not isinstance(data, list):
        raise _wrong(where, "a list", data)
    return [read(item, f"{where}[{number}]") for number, item in enumerate(data)]


def _integer(data: object, where: str) -> int:
    # an axis longer than int64 could not be indexed
    if not isinstance(data, int) or not is_whole(data) or not -(2**63) <= data < 2**63:
        raise _wrong(where, "a whole number", data)
    return data


def _string(data: object, where: str) -> str:
    if not isinstance(data, str):
        raise _wrong(where, "a string", data)
    return data


def _wrong(where: str, wanted: str, data: object) -> UserError:
    return UserError(f"{where} must be {wanted}, not {reprlib.repr(data)}")
