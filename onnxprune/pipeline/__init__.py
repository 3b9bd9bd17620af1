"""Passes one after the other, and stages that start from each other's results; what they leave behind."""

from __future__ import annotations

from onnxprune.pipeline.manager import Dump, Observer, PassManager, State, Timings

__all__ = ["Dump", "Observer", "PassManager", "State", "Timings"]
