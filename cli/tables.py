"""Tables that fit: columns of names give way, in the middle of the names, until the table is as wide as the screen.

Where they cannot give way any further the table stays wider than the screen, for a number that is cut short is wrong.
Widths are those on the screen, where a Chinese character takes two columns.

rich draws them; it leaves colours out where stdout is no terminal, and then takes 80 columns.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxprune.text.labels import printable, shorten

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

GAP = 2
"""Spaces between columns."""
USUAL = 80
LEAST = 12
"""A column of names is not made narrower than that."""


@dataclass(frozen=True)
class Column:
    """How one column is set."""

    title: str
    name: bool = False
    """Holds names, which are flush left and may be shortened; else numbers, flush right and whole."""


@dataclass(frozen=True)
class Grid:
    """A table before it is set."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


Part = Grid | str
"""Of a result: a table or a line of text."""


def rendered(parts: Sequence[Part]) -> str:
    """The text of tables and lines for stdout as it is."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if console.width < LEAST:  # 0 is how some say that they do not know
        console.width = USUAL
    things: list[RenderableType] = [
        _table(part, console) if isinstance(part, Grid) else Text(printable(part), overflow="fold") for part in parts
    ]
    with console.capture() as captured:
        for thing in things:
            console.print(thing, crop=False)
    # a table's cells are padded: no white space at the ends of lines that go to a file
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _table(grid: Grid, console: Console) -> Table:
    from rich import box
    from rich.table import Table

    rows = [[printable(cell) for cell in row] for row in grid.rows]
    widths = _widths(grid.columns, rows, console.width)
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        header_style="bold",
        width=_whole(widths),
    )
    for column, width in zip(grid.columns, widths, strict=True):
        table.add_column(
            column.title, justify="left" if column.name else "right", no_wrap=True, min_width=width, max_width=width
        )
    texts = zip(*rows, strict=True) if rows else ()
    cells = [
        _shortened(text, width) if column.name else text
        for column, text, width in zip(grid.columns, texts, widths, strict=False)
    ]
    for row in zip(*cells, strict=True):
        table.add_row(*row)
    return table


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """What each column takes: the widest column of names is the first to give way."""
    from rich.cells import cell_len

    widths = [max([len(c.title), *(cell_len(row[i]) for row in rows)]) for i, c in enumerate(columns)]
    names = [i for i, column in enumerate(columns) if column.name]
    while _whole(widths) > width:
        wide = [i for i in names if widths[i] > max(LEAST, len(columns[i].title))]
        if not wide:
            break
        widths[max(wide, key=lambda i: widths[i])] -= 1
    return widths


def _whole(widths: Sequence[int]) -> int:
    """How wide the table is."""
    return sum(widths) + GAP * (len(widths) - 1)


def _shortened(names: Sequence[str], width: int) -> list[str]:
    """At most so many columns of the screen each."""
    from rich.cells import cell_len

    found, at = shorten(names, width), width
    while any(cell_len(name) > width for name in found):
        at -= 1
        found = shorten(names, at)
    return found
