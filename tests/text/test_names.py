"""Suggestions: near by spelling, or holding what was typed."""

from __future__ import annotations

from onnxprune.text.names import suggest


def test_near_by_spelling() -> None:
    assert suggest("CONV1", ["conv1", "relu", "fc"]) == "; did you mean 'conv1'?"


def test_a_part_of_a_path_is_meant() -> None:
    known = ["/stem/Conv", "/layer1/layer1.0/conv1/Conv", "/layer1/layer1.0/relu/Relu"]
    assert suggest("layer1.0/conv1*", known).startswith("; did you mean '/layer1/layer1.0/conv1/Conv'")
    assert suggest("relu", known) == "; did you mean '/layer1/layer1.0/relu/Relu'?"


def test_nothing_near_and_no_end_of_names() -> None:
    assert suggest("zzz", ["conv1"]) == suggest("", ["conv1"]) == suggest("*", ["conv1"]) == ""
    assert suggest("conv", [f"conv{number}" for number in range(9)]).count("conv") == 3
