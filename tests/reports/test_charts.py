"""Charts as SVG."""

from pipeline.reports.charts import Chart, draw


def test_equal_charts_have_equal_bytes_and_other_curves_do_not() -> None:
    first, again, other = (
        draw(Chart(title="loss", unit="nats", curves={"train": ([0.0, 1.0, 2.0], values)}))
        for values in ([3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 2.0])
    )
    assert first == again
    assert first != other


def test_curves_have_the_colours_of_their_names() -> None:
    curves = {"cat": ([0.0, 1.0, 2.0], [3.0, 2.0, 1.0]), "other": ([0.0, 1.0, 2.0], [1.0, 1.0, 1.0])}
    svg = draw(Chart(title="IoU", unit="%", curves=curves, colours={"cat": "#12ab34"}))
    assert "stroke: #12ab34" in svg
    assert "stroke: #12ab34" not in draw(Chart(title="IoU", unit="%", curves=curves))
