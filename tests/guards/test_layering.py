"""The folders are layers: an import may only point down, and what is slow to import is imported where it is needed.

    cli -> models_zoo -> core        cli -> passes -> core

and the core's packages stand in a row: each imports only from those before it. Read off the syntax trees, so that an
import inside a function counts too, and one that only a type checker sees does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = {
    "onnxprune": "onnxprune",
    "passes": "onnxprune.passes",
    "cli": "onnxprune.cli",
    "models_zoo": "onnxprune.models_zoo",
}
ABOVE = {
    "onnxprune": ("onnxprune.passes", "onnxprune.cli", "onnxprune.models_zoo"),
    "passes": ("onnxprune.cli", "onnxprune.models_zoo"),
    "cli": (),
    "models_zoo": ("onnxprune.passes", "onnxprune.cli"),
}
CORE = (
    *("text", "files", "graph", "analysis", "execution", "cutting", "counting", "machine", "data", "timing"),
    *("checking", "repair", "bridge", "scoring", "selection", "targets", "accuracy", "rewrites", "pipeline"),
    *("training", "report"),
)
"""The core's packages, from the ground up."""
DOORS = {"onnxprune/__main__.py": "onnxprune.cli", "onnxprune/text/shown.py": "onnxprune.report.notebook"}
"""Files that may look up, and where to: `python -m onnxprune` has to live in the core's folder, and every result shows
itself as a table in notebooks."""
LAZY = (
    "PIL",
    "dask",
    "distributed",
    "jinja2",
    "joblib",
    "markupsafe",
    "matplotlib",
    "networkx",
    "onnxruntime",
    "onnxscript",
    "sklearn",
    "torch",
    "torchvision",
)
EAGER = (
    "models_zoo/recipes/",
    "models_zoo/builders/",
    "models_zoo/exporting.py",
    "models_zoo/training.py",
    "onnxprune/bridge/",
    "onnxprune/training/",
)
"""Where a lazy one may be imported at the top: scripts that nothing imports, and what is imported when it is called."""

Import = tuple[str, int, bool]
"""Module, line, whether it happens as the file itself is imported."""


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(tree: ast.Module, module: str) -> Iterator[Import]:
    """Every import that can happen at run time; `module` is the package that relative ones start from."""
    yield from _imports(tree.body, module.split("."), top=True)


def _imports(nodes: list[ast.stmt], package: list[str], top: bool) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield base, node.lineno, top
            yield from ((f"{base}.{alias.name}", node.lineno, top) for alias in node.names)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for field in ("body", "orelse", "finalbody", "handlers", "cases"):
                if field == "body" and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                    continue
                yield from _imports(getattr(node, field, []), package, top and not inside)


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def package_of(path: Path) -> str:
    folder, *inner = path.relative_to(ROOT).parent.parts
    return ".".join([LAYERS[folder], *inner])


def above(path: Path) -> tuple[str, ...]:
    """What a file may not import."""
    folder, *inner = path.relative_to(ROOT).parent.parts
    later = CORE[CORE.index(inner[0]) + 1 :] if folder == "onnxprune" and inner else ()
    return (*ABOVE[folder], *(f"onnxprune.{package}" for package in later))


def violations(path: Path) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    found = []
    for module, line, top in imports(ast.parse(path.read_text("utf-8")), package_of(path)):
        place = f"{name}:{line} imports {module}"
        if within(module, above(path)) and not within(module, (DOORS.get(name, "none"),)):
            found.append(f"{place}: a layer above")
        if top and within(module, LAZY) and not name.startswith(EAGER):
            found.append(f"{place} at the top: do it in the function that needs it")
    return found


@pytest.mark.parametrize("folder", LAYERS)
def test_imports_point_down(folder: str) -> None:
    assert sources(folder), f"{folder}/ holds no source, so this checks nothing"
    assert [line for path in sources(folder) for line in violations(path)] == []


def test_every_package_of_the_core_has_its_place() -> None:
    assert {folder.parent.name for folder in (ROOT / "onnxprune").glob("*/__init__.py")} == set(CORE)


@pytest.mark.parametrize("folder", [*LAYERS, "tests", "benchmarks"])
def test_no_layer_is_imported_by_its_folder(folder: str) -> None:
    """`import passes` works in the root, and loads a second copy of everything under another name."""
    roots = tuple(name for name in LAYERS if name != "onnxprune")
    for path in sources(folder):
        wrong = [module for module, _, _ in imports(ast.parse(path.read_text("utf-8")), "x") if within(module, roots)]
        assert wrong == [], path


def test_every_folder_of_sources_is_a_package() -> None:
    """Without `__init__.py` a folder stays out of the wheel."""
    folders = {path.parent for folder in LAYERS for path in sources(folder)}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_guard_sees() -> None:
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import torch.nn
else:
    import numpy
try:
    import onnxruntime as ort
except ImportError:
    from .. import cli
def f():
    from ..passes.apply import Apply
    with open("x"):
        import torch
class C:
    import sklearn
match 1:
    case 1:
        import networkx
"""
    assert list(imports(ast.parse(source), "onnxprune.bridge")) == [
        ("typing", 2, True),
        ("typing.TYPE_CHECKING", 2, True),
        ("numpy", 6, True),
        ("onnxruntime", 8, True),
        ("onnxprune", 10, True),
        ("onnxprune.cli", 10, True),
        ("onnxprune.passes.apply", 12, False),
        ("onnxprune.passes.apply.Apply", 12, False),
        ("torch", 14, False),
        ("sklearn", 16, True),
        ("networkx", 19, True),
    ]


def test_the_core_has_an_order() -> None:
    assert within("onnxprune.report.page", above(ROOT / "onnxprune" / "counting" / "cost.py"))
    assert not within("onnxprune.graph.dims", above(ROOT / "onnxprune" / "counting" / "cost.py"))
    assert within("onnxprune.cli", above(ROOT / "onnxprune" / "report" / "page.py"))
