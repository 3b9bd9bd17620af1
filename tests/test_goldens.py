"""The structure found in five small networks, compared exactly: names, sizes, slots, what is frozen and why.

After a change that is meant, write them anew, read the diff, and commit it with the change:

    python tests/test_goldens.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nets import DIMS, NETS
from oracle import check, prepared

from onnxprune.analysis.analyze import analyze
from onnxprune.analysis.coupling import Coupling, Slot

FOLDER = Path(__file__).parent / "goldens"


def described(coupling: Coupling) -> dict[str, Any]:
    groups = {
        group.name: {
            "units": group.size,
            "nodes": list(group.nodes),
            "ops": list(group.ops),
            "weights": {str(slot): _slot(slot) for slot in group.slots if slot.weight},
            "activations": {str(slot): _slot(slot) for slot in group.slots if not slot.weight},
        }
        for group in coupling.groups
    }
    frozen = {
        f"{x.tensor}:{x.axis}": f"{x.size} {x.reason.code} at {x.reason.node or 'the end'}" for x in coupling.frozen
    }
    return {"groups": groups, "frozen": frozen}


def _slot(slot: Slot) -> str:
    """Role, and which positions belong to the units in turn: as a range where they are one."""
    positions = slot.positions.tolist()
    run = positions == list(range(positions[0], positions[-1] + 1))
    where = f"{positions[0]}-{positions[-1]}" if run else " ".join(map(str, positions))
    units = slot.units.tolist()
    plain = units == list(range(len(units)))
    return f"{slot.role} {where}{'' if plain else ' units ' + ' '.join(map(str, units))} of {slot.size}".strip()


@pytest.mark.parametrize("name", NETS)
def test_structure(name: str) -> None:
    coupling = check(NETS[name](), dims=DIMS.get(name))
    assert described(coupling) == json.loads((FOLDER / f"{name}.json").read_text())


def test_every_golden_is_compared() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(NETS)


if __name__ == "__main__":
    for net, build in NETS.items():
        text = json.dumps(described(analyze(prepared(build()), strict=True)), indent=2)
        (FOLDER / f"{net}.json").write_text(f"{text}\n")
