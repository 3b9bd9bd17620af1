"""Tables fit, names stay recognisable, numbers keep three digits, and silence ends after two seconds."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxprune.cli.progress import Activity, _rough
from onnxprune.cli.tables import Column, Grid, rendered
from onnxprune.cli.talk import Talk
from onnxprune.text.figures import change, count, milliseconds, noise, percent, plural, size
from onnxprune.text.labels import printable, shorten

LOUD = Talk(json=False, quiet=False, verbose=False)


@pytest.fixture(autouse=True)
def eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("/layer1/conv", 12, "/layer1/conv"),
        ("/stage3/stage3.1/branch2/branch2.0/Conv", 28, ".../stage3.1/branch2.0/Conv"),
        ("/stage3/stage3.1/branch2/branch2.0/Conv", 20, "stage3...nch2.0/Conv"),
        ("abcdefghijklmnop", 9, "ab...mnop"),
        ("abcdefgh", 2, "ab"),
    ],
)
def test_names_are_shortened_in_the_middle(name: str, width: int, expected: str) -> None:
    assert shorten([name], width) == [expected]


def test_a_shortened_name_always_fits() -> None:
    for name in ("/a/a.b/c", "x" * 50, "/long/" * 9 + "Conv", "a/b", "/" * 30):
        for width in range(1, 60):
            assert all(len(short) <= width for short in shorten([name, "y" + name, "short"], width))


def test_shortened_names_stay_apart() -> None:
    names = [f"/encoder/layers/encoder_layer_{i}/self_attention/MatMul" for i in range(12)] + ["short"]
    for width in (30, 36, 60):
        assert len(set(shorten(names, width))) == 13
    assert shorten(names, 36)[-1] == "short"


def test_printable() -> None:
    assert printable("a\x1b[2J\n") == "a\\x1b[2J\\n"
    assert printable("größe/层") == "größe/层"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (count(999), "999"),
        (count(25_557_032), "25.6 M"),
        (count(4_089_184_256), "4.09 G"),
        (count(999_960), "1.00 M"),
        (size(704_400), "704 kB"),
        (size(12), "12 B"),
        (milliseconds(0.0821), "0.082 ms"),
        (milliseconds(1234.5), "1,234 ms"),
        (percent(0.4436), "44.4%"),
        (change(200, 100), "-50.0%"),
        (change(0, 100), ""),
        (noise(1e-5), "1e-05"),
        (noise(4.42e-7), "4.4e-07"),
        (noise(0.0), "0"),
        (noise(float("inf")), "inf"),
        (plural(1, "group"), "1 group"),
        (plural(1200, "unit"), "1,200 units"),
    ],
)
def test_figures(text: str, expected: str) -> None:
    assert text == expected


def test_a_table_gives_way_in_its_names_only() -> None:
    columns = (Column("Name", name=True), Column("Number"), Column("Other", name=True))
    rows = [["n" * 90, "123,456,789", "o" * 70], ["short", "1", "[red]markup[/red] :smile:"]]
    lines = rendered([Grid(columns, rows), "x" * 100]).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "123,456,789" in lines[2]
    assert "n...n" in lines[2]
    assert "[red]markup[/red] :smile:" in lines[3]
    assert lines[4] == "x" * 80


@pytest.mark.parametrize("width", ["0", "20", "40"])
def test_no_number_is_cut_short(monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    columns = (Column("Name", name=True), *(Column(f"Number {i}") for i in range(4)))
    lines = rendered([Grid(columns, [["n" * 30, *(f"{i}23,456 M" for i in range(4))]])]).splitlines()
    assert all(f"{i}23,456 M" in lines[2] for i in range(4))
    assert ("n" * 30 in lines[2]) == (width == "0"), "nobody knows how wide it is, so it is 80 columns"


def test_wide_characters_take_two_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    columns = (Column("Name", name=True), Column("Number"))
    names = [f"層の名前/{i}/" + "重み" * i for i in range(5)]
    lines = rendered([Grid(columns, [[name, "1,234"] for name in names])]).splitlines()[2:]
    assert all("1,234" in line for line in lines)
    assert len({line.split()[0] for line in lines}) == 5
    assert lines[1].split()[0] == names[1]
    assert "…" not in "".join(lines), "rich cuts where we have not"


def test_a_name_that_the_terminal_cannot_show(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    LOUD.result({}, [Grid((Column("Größe", name=True),), [["层"]])])
    assert b"\\u5c42" in raw.getvalue()


def test_json_holds_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    Talk(json=True, quiet=False, verbose=False).result(
        {"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("x")}, []
    )
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": "x"}


def test_short_commands_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Activity(LOUD) as activity:
        activity.step("reading")
    assert capsys.readouterr().err == ""


def test_long_ones_name_the_steps_that_take_their_time(capsys: pytest.CaptureFixture[str]) -> None:
    with Activity(LOUD, delay=0.0) as activity:
        activity.step("brief")
        time.sleep(0.05)
        activity.step("verifying")
        time.sleep(1.0)
        activity.step("writing")
    assert capsys.readouterr().err == "verifying ...\n"


def test_a_log_hears_now_and_then_how_far_a_long_step_is(capsys: pytest.CaptureFixture[str]) -> None:
    with Activity(LOUD, delay=0.0, long=0.8) as activity:
        activity.step("measuring")
        for part in (None, 0.25, 0.5, 0.75):
            if part is not None:
                activity.part(part)
            time.sleep(0.6)
        activity.step("unknown")
        time.sleep(1.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "measuring ..."
    assert lines[-1] == "unknown ..."
    assert 1 <= len(lines[1:-1]) <= 2
    for line in lines[1:-1]:
        assert re.fullmatch(r"measuring: (25|50|75)%, about [0-9] s left", line), line


def test_a_log_is_never_silent_for_long(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.cli.progress.SELDOM", 0.2)
    with Activity(LOUD, delay=0.0, long=0.6) as activity:
        activity.step("training")
        activity.part(0.5)
        time.sleep(3.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 5, "of lines that come when a step has taken twice as long there are three in this time"


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (89, "89 s"), (120, "2 min"), (7200, "2 h")])
def test_time_left_is_rough(seconds: float, text: str) -> None:
    assert _rough(seconds) == text


def test_quiet_is_silent_however_long(capsys: pytest.CaptureFixture[str]) -> None:
    with Activity(Talk(json=False, quiet=True, verbose=False), delay=0.0) as activity:
        activity.step("verifying")
        time.sleep(0.8)
    assert capsys.readouterr().err == ""


TERMINAL = """
import sys, time
from onnxprune.cli.progress import Activity, _rough
from onnxprune.cli.tables import Column, Grid
from onnxprune.cli.talk import Talk

talk = Talk(json=False, quiet=False, verbose=False)
with Activity(talk, delay=0.0) as activity:
    activity.step("measuring")
    late = time.monotonic() + 60
    while "rich.progress" not in sys.modules and time.monotonic() < late:  # the thread that draws imports it
        time.sleep(0.05)
    for tenth in range(8):
        activity.part(tenth / 10)
        time.sleep(0.1)
talk.result({}, [Grid((Column("Name", name=True), Column("Number")), [["n" * 90, "1"]])])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_gets_a_bar_and_colours_and_its_own_width() -> None:
    import pty
    import termios

    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (40, 60))
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL],
        stdin=child,
        stdout=child,
        stderr=child,
        env=environment | {"TERM": "xterm-256color"},
    )
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(parent, 65536)
        except OSError:  # the other end has gone
            break
    assert process.wait() == 0
    os.close(parent)
    text = shown.decode()
    assert "measuring" in text
    assert "\x1b[1m" in text
    table = text[text.index("Name") :].replace("\r", "").splitlines()
    assert max(len(line) for line in table[1:]) == 60
