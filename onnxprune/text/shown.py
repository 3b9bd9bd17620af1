"""What people print in a notebook shows itself as a table there; plain `repr` stays what it is.

A class says so by its base, `Shown`. Which table it is stands in `notebook`, loaded only when a notebook asks.
"""

from __future__ import annotations


class Shown:
    """Has a rich form in notebooks."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from onnxprune.report.notebook import html

        return html(self)
