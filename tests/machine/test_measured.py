"""What was measured is measured once, and a file that holds anything else never stands in the way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onnxprune.machine import measured
from onnxprune.machine.measured import Found, Machine, folder, remembered

MACHINE = Machine("a processor", 2, "1.2.3", "CPUExecutionProvider", 1)


class Clock:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> Any:
        self.asked += 1
        return {"times": [self.asked]}


def valid(value: Any) -> bool:
    return all(int(time) > 0 for time in value["times"])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def ask(clock: Callable[[], Any], machine: Machine = MACHINE, **of: Any) -> Found:
    return remembered("speed", machine, clock, of=of, valid=valid)


def only(cache: Path) -> Path:
    (path,) = cache.iterdir()
    return path


def test_measured_once(cache: Path) -> None:
    clock = Clock()
    first, second = ask(clock), ask(clock)
    assert (first.value, first.fresh, first.notes) == ({"times": [1]}, True, ())
    assert (second.value, second.fresh, second.notes) == ({"times": [1]}, False, ())
    assert clock.asked == 1
    stored = json.loads(only(cache).read_text())
    assert stored["facts"]["machine"]["cpu"] == "a processor"
    assert stored["format"] == measured.FORMAT


@pytest.mark.parametrize(
    "other",
    [
        {"machine": replace(MACHINE, threads=2)},
        {"machine": replace(MACHINE, cpu="another")},
        {"machine": replace(MACHINE, onnxruntime="1.2.4")},
        {"machine": replace(MACHINE, provider="CUDAExecutionProvider")},
        {"machine": replace(MACHINE, cores=4)},
        {"dtype": "float16"},
        {"dims": {"batch": 2}},
    ],
    ids=str,
)
def test_what_it_depends_on_is_measured_apart(cache: Path, other: dict[str, Any]) -> None:
    clock = Clock()
    ask(clock, dtype="float32", dims={"batch": 1})
    found = ask(clock, **({"dtype": "float32", "dims": {"batch": 1}} | other))
    assert (clock.asked, found.fresh, found.notes) == (2, True, ())
    assert len(list(cache.iterdir())) == 2
    again = ask(clock, dtype="float32", dims={"batch": 1})
    assert (again.value, clock.asked) == ({"times": [1]}, 2)


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """The file with something in it changed."""

    def write(path: Path) -> None:
        stored = json.loads(path.read_text())
        change(stored)
        path.write_text(json.dumps(stored))

    return write


def text(content: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (text(""), "were damaged"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "were damaged"),
    "not JSON": (text("times: 3"), "were damaged"),
    "not text": (text(b"\xff\xfe\x00\x01"), "were damaged"),
    "a list": (text("[1, 2]"), "were damaged"),
    "a number": (text("7"), "were damaged"),
    "null": (text("null"), "were damaged"),
    "nested too deeply": (text("[" * 100_000), "were damaged"),
    "a number of ten thousand digits": (text("1" * 10_000), "were damaged"),
    "no facts": (edited(lambda stored: stored.pop("facts")), "were damaged"),
    "no value": (edited(lambda stored: stored.pop("value")), "were damaged"),
    "a value of another kind": (edited(lambda stored: stored.update(value=[1])), "were damaged"),
    "a value without what belongs in it": (edited(lambda stored: stored.update(value={})), "were damaged"),
    "a time that is no number": (edited(lambda stored: stored.update(value={"times": ["x"]})), "were damaged"),
    "a time without end": (text('{"value": {"times": [Infinity]}, "facts": FACTS, "format": 1}'), "were damaged"),
    "a time that is impossible": (edited(lambda stored: stored.update(value={"times": [-1]})), "do not fit"),
    "an older format": (edited(lambda stored: stored.update(format=0)), "do not fit"),
    "no format": (edited(lambda stored: stored.pop("format")), "do not fit"),
    "another machine's facts": (
        edited(lambda stored: stored["facts"]["machine"].update(cpu="that has the same digest")),
        "do not fit",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_file_that_holds_anything_else_is_measured_anew(cache: Path, kind: str) -> None:
    clock = Clock()
    ask(clock)
    path = only(cache)
    whole = path.read_bytes()
    damage, said = DAMAGE[kind]
    damage(path)
    if b"FACTS" in path.read_bytes():
        path.write_bytes(path.read_bytes().replace(b"FACTS", json.dumps(json.loads(whole)["facts"]).encode()))
    assert path.read_bytes() != whole
    found = ask(clock)
    assert (found.value, found.fresh, clock.asked) == ({"times": [2]}, True, 2)
    assert len(found.notes) == 1
    assert said in found.notes[0]
    assert found.notes[0].endswith("measured anew")
    assert str(path) in found.notes[0]
    # and it is whole again
    assert ask(clock) == Found({"times": [2]})


def test_a_folder_in_the_file_s_place(cache: Path) -> None:
    clock = Clock()
    ask(clock)
    path = only(cache)
    path.unlink()
    path.mkdir()
    found = ask(clock)
    assert found.value == {"times": [2]}
    assert [note.split(str(path))[0] for note in found.notes] == [
        "cannot read '",
        "measurements are not kept: cannot write '",
    ]


def test_a_file_where_the_folder_should_be(cache: Path) -> None:
    cache.write_text("")
    clock = Clock()
    for asked in (1, 2):
        found = ask(clock)
        assert (found.value, found.fresh) == ({"times": [asked]}, True)
        assert found.notes[-1].startswith("measurements are not kept: ")


def test_a_folder_that_cannot_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # root may write anywhere, whatever the mode says
    found = ask(Clock())
    (note,) = found.notes
    assert found.value == {"times": [1]}
    assert note.startswith(f"measurements are not kept: cannot write '{cache}")
    assert note.endswith("permission denied")
    assert not list(cache.iterdir())


def test_a_disk_that_is_full(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measured, "write_text", full)
    found = ask(Clock())
    assert (found.value, found.notes) == (
        {"times": [1]},
        ("measurements are not kept: No space left on device",),
    )


def test_a_measurement_that_fails_leaves_no_file(cache: Path) -> None:
    def fail() -> Any:
        raise RuntimeError("the clock is broken")

    with pytest.raises(RuntimeError, match="the clock is broken"):
        ask(fail)
    assert not cache.exists()


def test_where_measurements_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path))
    assert folder() == tmp_path
    monkeypatch.delenv("ONNXPRUNE_CACHE")
    monkeypatch.setattr(measured.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert folder() == tmp_path / "xdg" / "onnxprune"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert folder() == tmp_path / "home" / ".cache" / "onnxprune"
    monkeypatch.setattr(measured.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert folder() == tmp_path / "local" / "onnxprune"


def test_this_machine() -> None:
    import onnxruntime

    one = Machine.this(threads=1)
    assert one == Machine.this(threads=1)
    assert one != Machine.this(threads=2)
    assert (one.onnxruntime, one.provider, one.threads) == (onnxruntime.__version__, "CPUExecutionProvider", 1)
    assert one.cpu
