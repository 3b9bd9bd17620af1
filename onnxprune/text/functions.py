"""A function of the user's, named as `module:function`; what goes wrong in it is said in one line, with the place."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxprune.errors import UserError
from onnxprune.text.names import suggest

_NAME = re.compile(r"[\w.]+:[\w.]+")


def is_function_name(text: str) -> bool:
    """Whether it reads like `module:function`."""
    return _NAME.fullmatch(text) is not None


def function_of(name: str) -> Callable[..., Any]:
    """The function of that name; modules of the current folder come first, as in `python -m`."""
    module, _, path = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        with theirs(name):
            thing: Any = importlib.import_module(module)
    except ModuleNotFoundError:
        raise UserError(f"{name!r}: there is no module {module!r} in this folder or on Python's path") from None
    finally:
        sys.path.remove(here)
    for part in path.split("."):
        if not hasattr(thing, part):
            raise UserError(f"{name!r}: there is no {part!r} in {module!r}{suggest(part, dir(thing))}")
        thing = getattr(thing, part)
    if not callable(thing):
        raise UserError(f"{name!r} is not a function")
    function: Callable[..., Any] = thing
    return function


@contextmanager
def theirs(name: str) -> Iterator[None]:
    """Around the user's code: its exceptions become mistakes of the user's."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and name.startswith(f"{error.name}:"):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{name!r} failed in {place.filename}, line {place.lineno}: {said}") from error
