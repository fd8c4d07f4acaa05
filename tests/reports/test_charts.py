"""Charts as SVG."""

from pipeline.reports.charts import Chart, draw


def test_equal_charts_have_equal_bytes_and_other_curves_do_not() -> None:
    first, again, other = (
        draw(Chart(title="loss", unit="nats", curves={"train": ([0.0, 1.0, 2.0], values)}))
        for values in ([3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 2.0])
    )
    assert first == again
    assert first != other
