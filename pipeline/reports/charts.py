"""Charts as SVG, which a page embeds."""

import io
from dataclasses import dataclass, field

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from pipeline.printable import escape_controls

FIGURE_SIZE_INCHES = (6.4, 3.2)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves over common axes."""

    title: str
    unit: str
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    """Horizontal and vertical values of each curve, by its name."""
    colours: dict[str, str] = field(default_factory=dict)
    """Colour of curves by name, as #rrggbb; the others get the next of Matplotlib's."""
    place: str = "epoch"
    """Quantity on the horizontal axis."""
    is_logarithmic: bool = False


def draw(chart: Chart) -> str:
    """Draw a chart as SVG; names are shown literally and not as formulas."""
    figure = Figure(figsize=FIGURE_SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    names: list[str] = []
    colours = chart.colours
    for name, (places, values) in chart.curves.items():
        if places:
            marker = "o" if len(places) < 3 else None
            (line,) = axes.plot(places, values, linewidth=1.6, marker=marker, color=colours.get(name))
            # A thin dark edge keeps the light colours of a vocabulary apart from the paper.
            line.set_path_effects([withStroke(linewidth=2.6, foreground="#00000055")] if name in colours else [])
            names.append(escape_controls(name))
    axes.set_title(escape_controls(chart.title), parse_math=False, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(escape_controls(chart.place), parse_math=False)
    axes.set_ylabel(escape_controls(chart.unit), parse_math=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if chart.is_logarithmic:
        axes.set_yscale("log")
    if any(names):
        # Numbers first: Matplotlib omits names that begin with an underscore.
        legend = axes.legend(axes.lines, [str(number) for number, _ in enumerate(names)], fontsize=8, frameon=False)
        for text, name in zip(legend.get_texts(), names, strict=True):
            text.set_parse_math(False)
            text.set_text(name)
    buffer = io.StringIO()
    # Without a date and with names hashed from their content, equal charts have equal bytes.
    with rc_context({"svg.hashsalt": "tagmask"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
