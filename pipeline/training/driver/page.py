"""HTML page of a training run: curves and a table of the epochs, in one file without external resources."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import jinja2

from pipeline.printable import show_in_page
from pipeline.reports.charts import Chart, draw


def list_charts(records: Sequence[dict[str, Any]]) -> list[Chart]:
    """Make the charts of a run; omit those without a point."""
    steps = [record for record in records if record["kind"] == "step"]
    epochs = [record for record in records if record["kind"] == "epoch"]
    validated = [record for record in epochs if record["validation"]]
    losses = {
        name.removesuffix("_loss"): _trace_curve(
            steps, "position", lambda record, name=name: record["losses"].get(name)
        )
        for name in (steps[-1]["losses"] if steps else ())
    }
    validation_losses = {
        name.removesuffix("_loss"): _trace_curve(
            validated, "epoch", lambda r, name=name: r["validation"]["losses"].get(name)
        )
        for name in (validated[-1]["validation"]["losses"] if validated else ())
    }
    means = {
        "class scores": _trace_curve(validated, "epoch", lambda record: record["validation"]["mean_average_precision"]),
        "patch scores": _trace_curve(
            validated, "epoch", lambda record: (record["patch_validation"] or {}).get("mean_average_precision")
        ),
    }
    class_names = validated[-1]["validation"]["average_precision"] if validated else ()
    by_class = {
        name: _trace_curve(validated, "epoch", lambda r, name=name: r["validation"]["average_precision"].get(name))
        for name in class_names
    }
    charts = [
        Chart(title="Training loss", unit="", curves=losses),
        Chart(title="Validation loss", unit="", curves=validation_losses),
        Chart(title="Mean average precision", unit="", curves=means),
        Chart(title="Average precision of the class scores", unit="", curves=by_class),
        Chart(
            title="Learning rate", unit="", curves={"": _trace_curve(steps, "position", lambda r: r["learning_rate"])}
        ),
        Chart(
            title="Gradient norm",
            unit="",
            curves={"": _trace_curve(steps, "position", lambda record: record["grad_norm"])},
            is_logarithmic=True,
        ),
        Chart(
            title="Speed", unit="images/s", curves={"": _trace_curve(steps, "position", lambda r: r["images_per_s"])}
        ),
        Chart(
            title="Waiting for images",
            unit="% of the time",
            curves={"": _trace_curve(steps, "position", lambda record: 100 * record["wait_share"])},
        ),
    ]
    return [chart for chart in charts if any(points[0] for points in chart.curves.values())]


def list_rows(records: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Make the rows of the table, one per epoch."""
    rows = []
    for record in (record for record in records if record["kind"] == "epoch"):
        validation, patches = record["validation"] or {}, record["patch_validation"] or {}
        rows.append(
            {
                "epoch": str(record["epoch"]),
                "loss": f"{record['losses']['total']:.4f}",
                "validation loss": _format_value(validation.get("losses", {}).get("total"), "{:.4f}"),
                "mAP": _format_value(validation.get("mean_average_precision"), "{:.1%}"),
                "mAP, patches": _format_value(patches.get("mean_average_precision"), "{:.1%}"),
                "learning rate": f"{record['learning_rate']:.2e}",
                "gradient norm": f"{record['grad_norm']:.3g}",
                "images": str(record["num_images"]),
                "not decoded": str(record["num_dropped"]),
                "images/s": f"{record['num_images'] / max(record['train_s'], 1e-9):.1f}",
                "waiting": f"{record['wait_share']:.1%}",
                "workers": str(record["num_workers"]),
            }
        )
    return rows


def render_training_page(title: str, records: Sequence[dict[str, Any]]) -> str:
    """Render the page as HTML."""
    source = files("pipeline.training.driver").joinpath("templates/training.html.j2").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, finalize=show_in_page, trim_blocks=True, lstrip_blocks=True)
    charts = [draw(chart) for chart in list_charts(records)]
    return environment.from_string(source).render(title=title, charts=charts, rows=list_rows(records))


def _trace_curve(
    records: Sequence[dict[str, Any]], place: str, find: Callable[..., float | None]
) -> tuple[list[float], list[float]]:
    """List the positions and the values of a figure, without the records that lack it."""
    points = [(float(record[place]), find(record)) for record in records]
    known = [(where, value) for where, value in points if value is not None]
    return [where for where, _ in known], [float(value) for _, value in known]


def _format_value(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
