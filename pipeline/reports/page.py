"""HTML page of tables, charts and galleries, without links to other files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import jinja2

from pipeline.images.masks import build_palette
from pipeline.printable import show_in_page
from pipeline.run.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Table:
    """Table of text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Embedded picture."""

    caption: str
    source: str
    """A data URI."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """Pictures of one image in a gallery."""

    key: str
    tags: str
    note: str
    pictures: tuple[Picture, ...]


def render_page(
    *,
    title: str,
    tables: Sequence[Table],
    galleries: Mapping[str, Sequence[Example]],
    vocabulary: Vocabulary,
    charts: Sequence[str] = (),
) -> str:
    """Render a page as HTML.

    Args:
        title: Of the page.
        tables: Shown first.
        galleries: Examples by heading; an empty heading is not shown.
        vocabulary: With the colours of the legend.
        charts: SVG, shown between tables and galleries.
    """
    palette = build_palette(vocabulary.colours, vocabulary.classes)
    template = jinja2.Environment(autoescape=True, finalize=show_in_page, undefined=jinja2.StrictUndefined).from_string(
        files("pipeline.reports").joinpath("templates/report.html.j2").read_text("utf-8")
    )
    return template.render(
        title=title,
        tables=tables,
        charts=charts,
        galleries=galleries,
        legend=[
            (name, "#" + bytes(palette[index + 1].tolist()).hex()) for index, name in enumerate(vocabulary.classes)
        ],
    )
