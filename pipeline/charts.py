"""Charts as SVG, for pages that need no network."""

import io
from dataclasses import dataclass, field

from matplotlib.figure import Figure

FIGURE_SIZE_INCHES = (6.4, 3.2)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves over the same axes."""

    title: str
    unit: str
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    """Places and values, by name."""
    place: str = "epoch"
    """What the places are."""
    is_logarithmic: bool = False


def draw(chart: Chart) -> str:
    """Draw a chart as SVG."""
    figure = Figure(figsize=FIGURE_SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    for name, (places, values) in chart.curves.items():
        if places:
            marker = "o" if len(places) < 3 else None
            axes.plot(places, values, label=name or None, linewidth=1.6, marker=marker)
    axes.set_title(chart.title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(chart.place)
    axes.set_ylabel(chart.unit)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if chart.is_logarithmic:
        axes.set_yscale("log")
    if any(chart.curves):
        axes.legend(fontsize=8, frameon=False)
    buffer = io.StringIO()
    # Without a date and with fixed names the same records give the same bytes.
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
