"""Speed and time left are those of what came back lately; where nothing came back, there are none."""

from typing import Any

from jobs.display.progress import Pace
from pipeline.driver.ledger import Progress
from pipeline.run.counts import LabelCounts


def at(elapsed_s: Any, num_read: int, num_bytes_done: Any = None) -> Any:
    return Progress(
        num_shards=10,
        num_sealed=0,
        num_bytes=10_000,
        num_bytes_done=num_read if num_bytes_done is None else num_bytes_done,
        counts=LabelCounts(num_read=num_read, num_labelled=num_read),
        elapsed_s=float(elapsed_s),
    )


def show(*states: Any, window_s: float = 600.0) -> Any:
    pace = Pace(window_s)
    for state in states:
        pace.enter(state)
    return pace.describe(states[-1])


def test_time_left_follows_the_chunks_that_came_back() -> None:
    assert show(at(30, 0), at(40, 1000), at(50, 2000), at(60, 3000)) == "100.0 images/s, 1 min 10 s left"


def test_start_of_the_actors_is_not_counted() -> None:
    assert show(at(100, 0), at(500, 100)) == "- images/s, - left"


def test_run_that_stands_still_shows_no_time_left() -> None:
    states = [at(10, 100), at(20, 200), *(at(20 + seconds, 200) for seconds in range(10, 1000, 10))]
    assert show(*states) == "nothing for 16 min 30 s"


def test_what_was_long_ago_does_not_count() -> None:
    fast = [at(second, 100 * second) for second in range(1, 50)]
    slow = [at(50 + 10 * step, 5000 + step) for step in range(100)]
    assert show(*fast, *slow).startswith("0.1 images/s, ")


def test_shards_whose_progress_is_not_bytes_have_a_speed_and_no_time_left() -> None:
    assert show(at(10, 100, 0), at(20, 200, 0)) == "10.0 images/s, - left"
