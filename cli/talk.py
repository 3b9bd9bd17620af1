"""stdout is the result, stderr the talk: the one place that writes to either."""

from __future__ import annotations

import errno
import json
import math
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from onnxprune.cli.tables import Part, rendered
from onnxprune.errors import UserError
from onnxprune.text.labels import printable


@dataclass(frozen=True)
class Talk:
    """How much is said, and in which form the result is."""

    json: bool
    quiet: bool
    verbose: bool

    @staticmethod
    def of(args: Namespace) -> Talk:
        return Talk(args.json, args.quiet, args.verbose)

    def note(self, text: str) -> None:
        """Something to know."""
        if not self.quiet:
            say(text)

    def detail(self, text: str) -> None:
        """Something that only `-v` wants to know."""
        if self.verbose:
            self.note(text)

    def result(self, document: Mapping[str, Any], parts: Sequence[Part], *, wrote: Sequence[Path] = ()) -> None:
        """What was asked for: a document for programs, or tables and lines for people. `wrote`: files that are safe."""
        with stdout(wrote):
            if self.json:
                text = json_text(document)
            else:
                text = rendered(parts)  # rich touches the stream as well
            _write(sys.stdout, text)

    def verbatim(self, document: Mapping[str, Any], text: str) -> None:
        """As `result`, of a text that is meant for programs: as it is, however wide."""
        with stdout():
            _write(sys.stdout, json_text(document) if self.json else text)


def json_text(document: Mapping[str, Any]) -> str:
    """As it is printed, and written to files."""
    return json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


class Unheard(UserError):
    """The work is done, but nobody can be told."""

    exit_code = 4


@contextmanager
def stdout(wrote: Sequence[Path] = ()) -> Iterator[None]:
    """Whatever is written inside has left the program afterwards."""
    try:
        yield
        _write(sys.stdout, "")
    except BrokenPipeError:
        raise
    except OSError as error:
        done = f" (written: {', '.join(repr(str(path)) for path in wrote)})" if wrote else ""
        raise Unheard(f"cannot write the result to stdout: {error.strerror or error}{done}") from None


def say(text: str) -> None:
    """A line on stderr, as far as there is anybody to read it."""
    with suppress(OSError):
        _write(sys.stderr, f"{printable(text)}\n")


def _plain(value: Any) -> Any:
    """The same in JSON's own types: JSON has no NaN and no Inf."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _write(stream: TextIO | None, text: str) -> None:
    """A name that the stream's encoding lacks is escaped: it must not end the program."""
    if stream is None:  # Python's way of saying that it was closed from the start
        raise OSError(errno.EBADF, "it is closed")
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
