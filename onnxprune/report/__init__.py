"""A page about one model or one pruning run: gathered here as data, drawn as SVG, rendered into one HTML file.

    Findings ─ gather ─► Page ─ render ─► one file, nothing fetched, no script

Whatever is written into it comes from a file that somebody else made, so every name passes through one place that
escapes it (`render`, and `svg` for drawings).
"""

from __future__ import annotations

from onnxprune.report.findings import Findings
from onnxprune.report.gather import gather
from onnxprune.report.page import Page
from onnxprune.report.render import check, render

__all__ = ["Findings", "Page", "check", "gather", "render"]
