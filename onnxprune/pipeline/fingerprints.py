"""What a result depends on, as text: the options of a pass, and what is in the files that it reads.

Files are told apart by what is in them, folders by the names, sizes and times of their files, a `module:function` by
the source of its module. Where a file lies does not matter, so a folder of results may move with the project.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from onnxprune.data.schema import names_file, options_of, written_by
from onnxprune.data.sources import Request, is_generated
from onnxprune.errors import UserError
from onnxprune.files.store import load
from onnxprune.text.functions import is_function_name

_HIDDEN = ("folder",)
"""Where a pass keeps what a stopped run needs: it decides nothing."""


class Fingerprints:
    """Makes digests, and reads every file once."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, int, int], str] = {}
        self._folders: dict[Path, str] = {}

    def combined(self, **facts: Any) -> str:
        """One digest of them all."""
        text = json.dumps(facts, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=12).hexdigest()

    def facts(self, thing: Any) -> Any:
        """A dataclass's options as JSON takes them, files replaced by their digests."""
        if isinstance(thing, Request):
            plain = {name: getattr(thing, name) for name in options_of(Request) if name != "spec"}
            return {"data": self.named(thing.spec), **{name: self.facts(value) for name, value in plain.items()}}
        if is_dataclass(thing) and not isinstance(thing, type):
            options = options_of(type(thing))
            values = {name: getattr(thing, name) for name in options if name not in _HIDDEN}
            read = {name for name, value in values.items() if names_file(options[name], value)}
            read -= set(written_by(type(thing)))
            return {name: self.read(value) if name in read else self.facts(value) for name, value in values.items()}
        if isinstance(thing, Mapping):
            return {str(key): self.facts(value) for key, value in thing.items()}
        if isinstance(thing, list | tuple):
            return [self.facts(value) for value in thing]
        return thing

    def read(self, path: str | Path) -> str:
        """Of a file that is read: of a model, also what its weights lie in."""
        if Path(path).suffix != ".onnx":
            return self.path(path)
        return self.combined(files=[self.path(file) for file in sorted(load(path).files)])

    def path(self, path: str | Path) -> str:
        """Of a file or a folder."""
        path = Path(path)
        try:
            if path.is_dir():
                if path not in self._folders:
                    listed = [_listed(path, file) for file in sorted(path.rglob("*"))]
                    self._folders[path] = self.combined(files=listed)
                return self._folders[path]
            about = path.stat()
            key = str(path.resolve()), about.st_size, about.st_mtime_ns
            if key not in self._files:
                with path.open("rb") as file:
                    self._files[key] = hashlib.file_digest(file, _blake).hexdigest()
            return self._files[key]
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            raise UserError(f"cannot read {str(path)!r}: {said}") from None

    def named(self, spec: str) -> str:
        """Of data, or of the source of a `module:function`."""
        if not is_generated(spec) and Path(spec).exists():
            return self.path(spec)
        source = _source(spec.partition(":")[0]) if is_function_name(spec) else None
        return f"{spec} {self.path(source)}" if source is not None else spec


def _blake() -> Any:
    return hashlib.blake2b(digest_size=12)


def _listed(folder: Path, file: Path) -> list[Any]:
    about = file.stat() if file.exists() else file.lstat()  # a link that leads nowhere is one that nobody reads
    times = [] if file.is_dir() else [about.st_size, about.st_mtime_ns]
    return [file.relative_to(folder).as_posix(), *times]


def _source(module: str) -> Path | None:
    """The file of a module, which is not imported; the packages that it is in are."""
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # noqa: BLE001  the packages that it is in are the user's code
        return None
    return Path(spec.origin) if spec is not None and spec.origin and Path(spec.origin).is_file() else None
