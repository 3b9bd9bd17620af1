"""Data: where it comes from, and how it becomes what a model takes."""

from __future__ import annotations

from onnxprune.data.sources import Dataset, Request, open_data

__all__ = ["Dataset", "Request", "open_data"]
