"""Break every rule and every fix-up in turn, and see that the rule tables notice.

    python benchmarks/mutations.py                     everything, a table, and the survivors
    python benchmarks/mutations.py --only Conv Concat  some operators
    python benchmarks/mutations.py --json mutants.json

For each operator with a rule the rule is called as always, but what it states is tampered with:

    ties       its ties are dropped                    products   its products of axes are dropped
    freezes    its freezes are dropped                 inexact    its inexact cuts pass for exact ones
    roles      its weights have no roles               ids        the ids that leave it are new ones
    zeros      all that leaves it claims to hold zeros, where something cut is not zero
    nonzeros   nothing that leaves it claims to hold zeros
    refuses    it refuses everything

A mutant that no row of the tables exercises is `-`, one that a row notices is killed. The safety net for axes that a
rule forgets is off meanwhile, for it would notice half of all this by itself. The exit status is 1 if a mutant
survives that is not listed in EQUIVALENT, or if an operator with a rule occurs in no row.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from oracle import prepared  # noqa: E402  from the tests' folder, which is on the path only now
from rows import Row  # noqa: E402  from the tests' folder, which is on the path only now

from onnxprune.analysis.analyze import analyze  # noqa: E402
from onnxprune.analysis.facts import Axis, fixed  # noqa: E402  as above
from onnxprune.analysis.rules import RULES, Flow, Refuse  # noqa: E402
from onnxprune.analysis.trace import Trace  # noqa: E402
from onnxprune.cutting.fixups import FIXUPS  # noqa: E402

Outs = Sequence[Sequence[Axis]]
Call = Callable[[], Outs]


@dataclass
class Mutant:
    """One way to break one operator; counts how often that made a difference."""

    op: str
    kind: str
    hits: int = 0
    killed_by: str = ""
    survived: int = 0
    """Rows that did not notice."""

    @property
    def verdict(self) -> str:
        if self.killed_by:
            return "killed"
        if not self.hits:
            return "-"
        return "equivalent" if (self.op, self.kind) in EQUIVALENT else "SURVIVED"


_FIRST = "what is normalised over is cut inexactly or not at all, and of several reasons only the first is told"
_FIXED = "nothing that enters it can go, and what leaves it is fixed anyway"
EQUIVALENT: Mapping[tuple[str, str], str] = {
    **{
        (op, "nonzeros"): _FIRST
        for op in (
            *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "LRN"),
            *("com.microsoft::SimplifiedLayerNormalization", "com.microsoft::SkipLayerNormalization"),
            *("com.microsoft::SkipSimplifiedLayerNormalization", "com.microsoft::EmbedLayerNormalization"),
        )
    },
    ("MeanVarianceNormalization", "zeros"): _FIRST,
    ("DynamicQuantizeLinear", "zeros"): "without zeros its cut is inexact already, and only the first reason is told",
    **{(op, "refuses"): _FIXED for op in ("Range", "Constant", "RandomNormal", "RandomUniform")},
    ("ConstantOfShape", "ids"): "its ids are new ones",
    ("com.microsoft::ConstantOfShape", "ids"): "its ids are new ones",
}
"""Mutants that compute the same as the original, with the reason."""


# What is tampered with


@contextmanager
def _dropping(f: Flow, mutant: Mutant, *lists: str) -> Iterator[None]:
    """Whatever is appended to these lists of facts disappears again."""
    before = {name: len(getattr(f, name)) for name in lists}
    yield
    for name, length in before.items():
        facts = getattr(f, name)
        mutant.hits += len(facts) - length
        del facts[length:]


def _ties(f: Flow, mutant: Mutant, call: Call) -> Outs:
    """Dropped ties include the freezes that a tie states where it meets what cannot go."""
    original = f.tie

    def tie(*axes: Axis, zero: bool | None = None) -> Axis:
        with _dropping(f, mutant, "ties", "frozen"):
            original(*axes, zero=zero)
        keeps = all(axis.zero for axis in axes) if zero is None else zero
        return axes[0].with_zero(keeps)

    return _with(f, call, tie=tie)


def _freezes(f: Flow, mutant: Mutant, call: Call) -> Outs:
    def freeze(axis: Axis, code: str, sentence: str) -> Axis:
        mutant.hits += not axis.fixed
        return fixed(axis.size)

    return _with(f, call, freeze=freeze)


def _inexact(f: Flow, mutant: Mutant, call: Call) -> Outs:
    with _dropping(f, mutant, "inexacts"):
        return call()


def _products(f: Flow, mutant: Mutant, call: Call) -> Outs:
    with _dropping(f, mutant, "products"):
        return call()


def _roles(f: Flow, mutant: Mutant, call: Call) -> Outs:
    with _dropping(f, mutant, "roles"):
        return call()


def _ids(f: Flow, mutant: Mutant, call: Call) -> Outs:
    def new(axis: Axis) -> Axis:
        if axis.fixed or axis.factors or not isinstance(axis.size, int):
            return axis
        mutant.hits += 1
        return f.fresh(axis.size, axis.zero)

    return [tuple(map(new, axes)) for axes in call()]


def _claim(zero: bool) -> Callable[[Flow, Mutant, Call], Outs]:
    def tamper(f: Flow, mutant: Mutant, call: Call) -> Outs:
        outs = call()
        mutant.hits += sum(axis.zero != zero and not axis.fixed for axes in outs for axis in axes)
        return [tuple(axis.with_zero(zero) for axis in axes) for axes in outs]

    return tamper


def _refuses(f: Flow, mutant: Mutant, call: Call) -> Outs:
    mutant.hits += 1
    raise Refuse("mutant", "refuses everything")


def _with(f: Flow, call: Call, **methods: Any) -> Outs:
    """Call with some methods of the flow replaced."""
    for name, method in methods.items():
        setattr(f, name, method)
    try:
        return call()
    finally:
        for name in methods:
            delattr(f, name)


KINDS: Mapping[str, Callable[[Flow, Mutant, Call], Outs]] = {
    "ties": _ties,
    "freezes": _freezes,
    "inexact": _inexact,
    "products": _products,
    "roles": _roles,
    "ids": _ids,
    "zeros": _claim(True),
    "nonzeros": _claim(False),
    "refuses": _refuses,
}


@contextmanager
def broken(mutant: Mutant) -> Iterator[None]:
    """The registry with one rule, or one fix-up, replaced by its mutant."""
    if mutant.kind == "fix-up":
        fix = FIXUPS[mutant.op]

        def skipped(*_: object) -> None:
            mutant.hits += 1

        FIXUPS[mutant.op] = skipped
        try:
            yield
        finally:
            FIXUPS[mutant.op] = fix
        return
    rule, tamper = RULES[mutant.op], KINDS[mutant.kind]
    RULES[mutant.op] = lambda f, node, *xs: tamper(f, mutant, lambda: rule(f, node, *xs))
    try:
        yield
    finally:
        RULES[mutant.op] = rule


@contextmanager
def no_safety_net() -> Iterator[None]:
    net = Trace._account
    Trace._account = lambda *_: None  # type: ignore[method-assign]  # for the time being
    try:
        yield
    finally:
        Trace._account = net  # type: ignore[method-assign]


# The tables


def tables() -> list[tuple[str, Row, set[str]]]:
    """Every row of every table: its family, the row, its operators."""
    found = []
    for path in [*sorted((ROOT / "tests" / "rules").glob("test_*.py")), ROOT / "tests" / "test_model_forms.py"]:
        spec = importlib.util.spec_from_file_location(f"table_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        lists = [value for value in vars(module).values() if isinstance(value, list)]
        rows = {id(row): row for value in lists for row in value if isinstance(row, Row)}
        found += [(path.stem.removeprefix("test_"), row, row.operators) for row in rows.values()]
    return found


def relevant(op: str, table: Sequence[tuple[str, Row, set[str]]]) -> list[Row]:
    """Rows with the operator, the most telling first: those of the family that has it most, then the smallest."""
    rows = [(family, row, len(ops)) for family, row, ops in table if op in ops]
    family = RULES[op].__module__.rpartition(".")[2] if op in RULES else ""
    return [row for _, row, _ in sorted(rows, key=lambda item: (item[0] != family, item[2]))]


def signature(row: Row) -> str:
    """All that analysis says about the row's graph."""
    coupling = analyze(prepared(row.proto()), strict=True, allow_inexact=row.inexact is not None)
    slots = [
        (group.name, str(slot), slot.role, slot.positions.tolist(), slot.units.tolist())
        for group in coupling.groups
        for slot in group.slots
    ]
    inexact = [(group.name, sorted({reason.code for reason in group.inexact})) for group in coupling.groups]
    return repr((slots, inexact, coupling.frozen))


def try_on(mutant: Mutant, rows: Sequence[Row], known: Mapping[int, str]) -> None:
    """Run rows until one notices. Where a broken rule leads to the same analysis there is nothing to run."""
    for row in rows:
        before = mutant.hits
        try:
            with broken(mutant):
                if mutant.kind != "fix-up" and signature(row) == known[id(row)]:
                    mutant.survived += mutant.hits > before
                    continue
                row.check()
        except Exception as error:  # noqa: BLE001  whatever a broken rule leads to: it was noticed
            mutant.killed_by = f"{row.name}: {' '.join(str(error).split())[:100]}"
            return
        mutant.survived += mutant.hits > before


def mutants(only: Sequence[str]) -> list[Mutant]:
    every = [Mutant(op, kind) for op in RULES for kind in KINDS] + [Mutant(op, "fix-up") for op in FIXUPS]
    return [mutant for mutant in every if not only or mutant.op in only]


@cache
def known() -> tuple[list[tuple[str, Row, set[str]]], dict[int, str]]:
    """The tables, and what analysis says of every row as things are; once per process."""
    table = tables()
    with no_safety_net():
        return table, {id(row): signature(row) for _, row, _ in table}


def all_of(op: str) -> list[Mutant]:
    """Try all mutants of one operator."""
    table, signatures = known()
    tried = mutants([op])
    with no_safety_net():
        for mutant in tried:
            try_on(mutant, relevant(op, table), signatures)
    return tried


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="OP")
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    start = time.perf_counter()
    table = tables()
    ops = list(dict.fromkeys(mutant.op for mutant in mutants(options.only)))
    missing = sorted(set(ops) - set().union(*(used for _, _, used in table)))
    with ProcessPoolExecutor(options.jobs) as pool:
        tried = [mutant for done in pool.map(all_of, ops) for mutant in done]
    _report(tried, missing, time.perf_counter() - start, len(table))
    if options.json:
        options.json.write_text(json.dumps([_plain(mutant) for mutant in tried], indent=1))
    return 1 if missing or any(mutant.verdict == "SURVIVED" for mutant in tried) else 0


def _plain(mutant: Mutant) -> dict[str, object]:
    return {"op": mutant.op, "kind": mutant.kind, "verdict": mutant.verdict, "by": mutant.killed_by}


def _report(tried: Sequence[Mutant], missing: Sequence[str], seconds: float, rows: int) -> None:
    kinds = [*KINDS, "fix-up"]
    verdicts = {(mutant.op, mutant.kind): mutant.verdict for mutant in tried}
    wide = max(len(mutant.op) for mutant in tried)
    print(f"{'':{wide}s} " + " ".join(f"{kind:>8s}" for kind in kinds))
    for op in dict.fromkeys(mutant.op for mutant in tried):
        cells = [verdicts.get((op, kind), "-") for kind in kinds]
        print(f"{op:{wide}s} " + " ".join(f"{cell[:8]:>8s}" for cell in cells))
    count = {v: sum(m.verdict == v for m in tried) for v in ("killed", "equivalent", "SURVIVED", "-")}
    print(
        f"\n{count['killed']} killed, {count['equivalent']} equivalent, {count['SURVIVED']} survived, "
        f"{count['-']} without effect; {rows} rows, {seconds:.0f} s"
    )
    for op in missing:
        print(f"no row for {op}")
    for mutant in tried:
        if mutant.verdict == "SURVIVED":
            print(f"SURVIVED {mutant.op} {mutant.kind}: {mutant.hits} hits in {mutant.survived} rows")


if __name__ == "__main__":
    sys.exit(main())
