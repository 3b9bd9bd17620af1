"""What people may rely on is written down in `public_api.txt`, exists, and says what it does."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("public_api.txt")
LINES = [line for line in LIST.read_text("utf-8").splitlines() if not line.startswith("#")]
PAIRS = [(module, name) for module, _, name in (line.rpartition(".") for line in LINES)]


@pytest.mark.parametrize("module", ["onnxprune", "onnxprune.passes"])
def test_the_list_is_the_list(module: str) -> None:
    names = importlib.import_module(module).__all__
    public = {name for name in names if not name.startswith("__")}
    listed = {name for owner, name in PAIRS if owner == module}
    assert public == listed, f"__all__ of {module} and {LIST.name} differ: change both, and CHANGELOG.md"
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("module", "name"), PAIRS)
def test_every_name_is_there_and_documented(module: str, name: str) -> None:
    thing = getattr(importlib.import_module(module), name)
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return  # a constant; its docstring stands below it, where Python does not keep it
    text = thing.__doc__ or ""
    assert text.strip(), f"{module}.{name} has no docstring"
    assert not text.startswith(f"{name}("), f"{module}.{name} has only the docstring that dataclass() makes up"


def test_the_version_is_the_package_s() -> None:
    from importlib.metadata import version

    import onnxprune

    assert onnxprune.__version__ == version("onnxprune")
