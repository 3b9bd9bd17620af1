"""Targets: what the user may write, and what every mistake is told."""

from __future__ import annotations

import pytest

from onnxprune.errors import UserError
from onnxprune.targets.grammar import parse


@pytest.mark.parametrize(
    ("text", "original", "limit"),
    [
        ("macs=0.5", 300e6, 150e6),
        ("macs=300M", 1e9, 300e6),
        ("params = 1.5k", 1e9, 1500),
        ("bytes=4MB", 1e9, 4e6),
        ("bytes=2KiB", 1e9, 2048),
        ("peak-memory=0.25", 80, 20),
        ("latency=12ms", 100, 12),
        ("latency=500us", 100, 0.5),
        ("latency=2s", 100, 2000),
        ("macs=1000", 1e9, 1000),
    ],
)
def test_fractions_and_amounts(text: str, original: float, limit: float) -> None:
    (target,) = parse([text])
    assert target.limit(original) == pytest.approx(limit)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["mac=0.5"], "unknown target 'mac'; did you mean 'macs'"),
        (["macs"], "is not of the form macs=0.5"),
        (["macs=half"], "is not of the form macs=0.5"),
        (["latency=3parsec"], "latency takes a fraction between 0 and 1, or an amount in us, ms, s"),
        (["latency=1.5"], "latency takes a fraction"),
        (["ratio=1.5"], "ratio takes a fraction between 0 and 1"),
        (["macs=0"], "must be more than 0"),
        (["macs=1"], "a fraction lies between 0 and 1, both excluded, and no amount is that small"),
        (["bytes=4mb"], "or an amount in B, kB, MB, GB, KiB, MiB, GiB; did you mean MB?"),
        (["macs=0.5", "macs=0.4"], "two targets for macs: 'macs=0.5' and 'macs=0.4'"),
    ],
)
def test_mistakes(texts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(texts)


def test_the_same_target_twice_is_one() -> None:
    assert len(parse(["macs=0.5", "macs=0.5", "params=0.5"])) == 2
