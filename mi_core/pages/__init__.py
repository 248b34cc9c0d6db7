"""How results become one self-contained HTML page: templates beside this file, and the few lines that fill them.

A package brings its own templates in a folder ``pages``: ``render("my_package/heat.html", ...)``, which may say
``{% extends "mi_core/page.html" %}``. Everything inserted is escaped.
"""

from __future__ import annotations

from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from mi_core.labelled import visible
from mi_core.pages.heat import Heat, number, strips

__all__ = ["framed", "render", "write"]


def source(name: str) -> str | None:
    """The text of the template ``PACKAGE/FILE``: the file ``pages/FILE`` of that package."""
    package, _, file = name.partition("/")
    template = files(package) / "pages" / file
    return template.read_text(encoding="utf-8") if template.is_file() else None


@cache
def environment() -> Any:
    """Jinja's environment with our filters, made at the first page."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(visible=visible, number=number)
    made.globals.update(heat_of=Heat.of, strips=strips)
    return made


def render(template: str, **context: Any) -> str:
    """The template ``PACKAGE/FILE`` filled with ``context``."""
    return str(environment().get_template(template).render(**context))


def write(page: str, path: str | Path | None) -> str:
    """The page as it is; also in the file ``path`` if one is given."""
    if path is not None:
        Path(path).write_text(page, encoding="utf-8")
    return page


def framed(page: str, height: str) -> str:
    """The page for a notebook, in a frame of its own: its style and script do not reach the notebook's."""
    shown = escape(page, quote=True)
    return f'<iframe srcdoc="{shown}" style="width:100%;height:{height};border:0" loading="lazy"></iframe>'
