"""HTML page of tables, charts and galleries, without links to other files."""

from collections.abc import Sequence
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
    width: int
    """In pixels."""
    height: int


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A figure about an image."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class ClassNote:
    """What is known of a class in an image."""

    name: str
    colour: str
    """In masks, as #rrggbb."""
    kind: str = ""
    """Tagged if empty; else `doubtful` (tagged, and left out of the mask) or `suggested` (seen, and not tagged)."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """Pictures of one image in a gallery, and what is known of it."""

    key: str
    classes: tuple[ClassNote, ...] = ()
    unknown_tags: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    """Figures of the image; the one that orders the gallery is the first."""
    statistics: Table | None = None
    """Columns of the manifest by class."""
    note: str = ""
    """What went wrong: why the image is rejected, or a picture is missing."""
    pictures: tuple[Picture, ...] = ()
    """Photo, mask and truth, which stand side by side."""
    maps: tuple[Picture, ...] = ()
    """Class maps."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Examples under a heading."""

    heading: str
    examples: tuple[Example, ...]
    note: str = ""
    """In which order they are."""


def render_page(
    *,
    title: str,
    tables: Sequence[Table],
    galleries: Sequence[Gallery],
    vocabulary: Vocabulary,
    charts: Sequence[str] = (),
) -> str:
    """Render a page as HTML.

    Args:
        title: Of the page.
        tables: Shown first.
        galleries: Shown last.
        vocabulary: With the colours of the legend.
        charts: SVG, shown between tables and galleries.
    """
    template = jinja2.Environment(autoescape=True, finalize=show_in_page, undefined=jinja2.StrictUndefined).from_string(
        files("pipeline.reports").joinpath("templates/report.html.j2").read_text("utf-8")
    )
    return template.render(
        title=title,
        tables=tables,
        charts=charts,
        galleries=galleries,
        legend=list(zip(vocabulary.classes, list_colours(vocabulary), strict=True)),
    )


def list_colours(vocabulary: Vocabulary) -> list[str]:
    """List the colours of the classes in masks, as #rrggbb.

    >>> list_colours(Vocabulary(classes=("cat", "dog"), colours=((255, 0, 0), (0, 16, 255))))
    ['#ff0000', '#0010ff']
    """
    palette = build_palette(vocabulary.colours, vocabulary.classes)
    return ["#" + bytes(palette[class_id].tolist()).hex() for class_id in range(1, len(vocabulary.classes) + 1)]
