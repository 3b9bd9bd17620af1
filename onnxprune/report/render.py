"""From a page's data to its text, by a template in which everything is escaped unless it was drawn here.

Names are those of other people's files, so all of them are made `legible`, too.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.errors import MissingExtra
from onnxprune.report.page import Page
from onnxprune.report.svg import legible
from onnxprune.text.figures import count, milliseconds, noise, plural

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent


def check() -> None:
    """Refuse what could not be rendered later."""
    try:
        import jinja2  # noqa: F401  only whether it is there
    except ImportError:
        raise MissingExtra("a report needs jinja2: pip install 'onnxprune[report]'") from None


def render(page: Page) -> str:
    """The whole file."""
    return rendered("report.html.j2", page=page)


def rendered(template: str, **values: Any) -> str:
    """The text of any of the templates."""
    check()
    style = (_FOLDER / "style.css").read_text("utf-8")
    return _environment().get_template(template).render(style=style, **values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: object) -> object:
        """Everything that a template prints comes through here."""
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        return legible(value)

    def whole(text: str) -> Markup:
        """A number stays on one line with its unit."""
        return Markup.escape(legible(text)).replace(" ", Markup("&nbsp;"))

    def name(text: str) -> Markup:
        """A name, which may break behind each of its parts."""
        shown = Markup.escape(legible(text))
        return shown.replace(".", Markup(".<wbr>")).replace("/", Markup("/<wbr>")).replace("_", Markup("_<wbr>"))

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    environment.filters.update(
        count=lambda number: whole(count(number)),
        ms=lambda number: whole(milliseconds(number)),
        noise=noise,
        whole=whole,
        name=name,
        plural=plural,
        width=lambda share: f"{100 * min(1.0, max(0.0, share)):.2f}%",
        drawn=Markup,
    )
    return environment
