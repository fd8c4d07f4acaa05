"""A page that needs no other file: tables, charts and galleries, from one template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import jinja2

from pipeline.images.masks import build_palette
from pipeline.printable import show_in_page
from pipeline.run.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text for the page."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture as the page embeds it."""

    caption: str
    source: str
    """A data URI."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image of the gallery."""

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
    """Render a page that needs no other file.

    Args:
        title: Of the page.
        tables: Shown first.
        galleries: Examples by heading; without heading if it is empty.
        vocabulary: Gives the colours of the legend.
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
