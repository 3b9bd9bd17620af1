"""Every reason that the source can give has an entry of the right kind in docs/reasons.md, and every entry a reason."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("onnxprune", "passes", "cli")
KINDS = {"freeze": "Freeze", "freeze_all": "Freeze", "_opaque": "Freeze", "_fix": "Freeze", "Refuse": "Freeze"}
KINDS |= {"frozen.append": "Freeze", "inexact": "Inexact", "inexacts.append": "Inexact", "Reason": "Skip"}
PLACES = {"freeze": 1, "freeze_all": 1, "inexact": 1, "_opaque": 2, "_fix": 2, "Refuse": 0, "Reason": 0}
HANDED_ON = {"code", "refusal.code"}
"""What stands where a code is expected and is one that somebody else has stated."""


def stated(tree: ast.AST) -> Iterator[tuple[str, str, int]]:
    """(kind, code, line) of every place that states a reason; a code that is not written out is a finding, too."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        if name == "append":
            name = ".".join(ast.unparse(node.func).split(".")[-2:])
            found = node.args[0].elts[1] if name in KINDS and isinstance(node.args[0], ast.Tuple) else None
        else:
            found = node.args[PLACES[name]] if name in PLACES and len(node.args) > PLACES[name] else None
        if found is None or ast.unparse(found) in HANDED_ON:
            continue
        for code in (found.body, found.orelse) if isinstance(found, ast.IfExp) else (found,):
            yield KINDS[name], ast.literal_eval(code), node.lineno


def in_source() -> dict[str, set[str]]:
    codes: dict[str, set[str]] = defaultdict(set)
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for kind, code, _ in stated(ast.parse(path.read_text("utf-8"))):
                # a Reason made by analysis itself is a freeze; only scoring skips
                codes[code].add("Freeze" if kind == "Skip" and path.name == "analyze.py" else kind)
    return codes


def entries() -> dict[str, str]:
    text = (ROOT / "docs/reasons.md").read_text("utf-8")
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert len(heads) == len(set(heads)), "an entry occurs twice"
    return dict(zip(heads, re.split(r"^## .*$", text, flags=re.MULTILINE)[1:], strict=True))


def test_every_reason_has_an_entry() -> None:
    assert sorted(in_source().keys() - entries().keys()) == []


def test_every_entry_has_a_reason() -> None:
    assert sorted(entries().keys() - in_source().keys()) == []


def test_entries_are_complete_and_in_order() -> None:
    codes = in_source()
    assert list(entries()) == sorted(entries())
    for code, text in entries().items():
        assert re.match(r"\s*\*\*(\w+)\.\*\* ", text), f"{code}: say what kind it is"
        assert {re.match(r"\s*\*\*(\w+)", text)[1]} == codes[code], code  # type: ignore[index]
        for part in ("- Example: ", "- Unlock: "):
            assert text.count(part) == 1, f"{code}: {part}"


def test_links_to_entries_lead_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for code in re.findall(r"reasons\.md#([\w-]+)", path.read_text("utf-8")):
            assert code in entries(), f"{path.name}: {code}"


def test_the_guard_sees() -> None:
    source = """
f.freeze(axis, "a", "sentence")
f.freeze_all(axes, "b" if x else "c", "sentence")
f.inexact(axis, "d", "sentence")
raise Refuse("e", "sentence")
self._opaque(node, xs, "f", "sentence")
self._fix(ids, "sentence", "g")
facts.frozen.append((ids, "h", sentence, node))
Reason("i", sentence, node)
self._opaque(node, xs, refusal.code, refusal.sentence)
groups.append((group, name))
"""
    assert {(kind, code) for kind, code, _ in stated(ast.parse(source))} == {
        *(("Freeze", code) for code in "abcefgh"),
        ("Inexact", "d"),
        ("Skip", "i"),
    }
    assert {"graph-output", "no-rule", "normalised", "no-scores", "other-factor"} <= in_source().keys()
