import json
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.report import Case, Report, Row, format_tables


class Clock:
    """Time that passes only when a case says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def make_case(name: str, clock: Clock, *, takes_s: float = 0.0, needs_s: float = 0.0, figure: Any = 1.5) -> Case:
    def measure(bench: Any) -> Row:
        clock.now_s += takes_s
        if isinstance(figure, Exception):
            raise figure
        return {"figure": figure}

    return Case(part="part", settings={"name": name}, measure=measure, needs_s=needs_s)


def read_rows(path: Path) -> list[Row]:
    rows: list[Row] = json.loads(path.read_text())["rows"]
    return rows


def test_case_whose_time_is_not_left_is_named_as_skipped_and_shorter_ones_run(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "figures.json"
    report = Report(max_s=10, path=path, clock=clock)
    report.run(make_case("first", clock, takes_s=6, needs_s=10), None)
    report.run(make_case("long", clock, takes_s=6, needs_s=5), None)
    report.run(make_case("short", clock, takes_s=4, needs_s=4), None)
    report.run(make_case("late", clock, needs_s=1), None)
    skipped = {"part": "part", "skipped": "no time left"}
    expected = [
        {"part": "part", "name": "first", "figure": 1.5},
        skipped | {"name": "long"},
        {"part": "part", "name": "short", "figure": 1.5},
        skipped | {"name": "late"},
    ]
    assert read_rows(path) == report.rows == expected
    assert "| late |  | no time left |" in list(format_tables(report.rows))


def test_file_has_every_row_before_the_next_case_begins(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "figures.json"
    report = Report(max_s=10, path=path, clock=clock)
    seen: list[int] = []

    def look(bench: Any) -> Row:
        seen.append(len(read_rows(path)) if path.exists() else 0)
        return {}

    for number in range(3):
        report.run(Case(part="part", settings={"number": number}, measure=look, needs_s=0), None)
    assert seen == [0, 1, 2]
    assert not json.loads(path.read_text())["is_complete"]
    report.finish()
    assert json.loads(path.read_text())["is_complete"]


def test_case_that_fails_is_a_row_and_the_others_run(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "figures.json"
    report = Report(max_s=10, path=path, clock=clock)
    report.run(make_case("bad", clock, figure=ValueError("wrong")), None)
    report.run(make_case("good", clock), None)
    assert [row.get("failed") for row in read_rows(path)] == ["ValueError: wrong", None]
    assert report.num_failed == 1


def test_figures_that_are_not_finite_leave_the_file_valid_json(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "figures.json"
    report = Report(max_s=10, path=path, clock=clock)
    report.run(make_case("bad", clock, figure=float("nan")), None)
    assert read_rows(path)[0]["figure"] == "nan"


def test_tables_have_the_columns_of_all_rows_of_a_part() -> None:
    rows: list[Row] = [{"part": "b", "x": 1, "y": 0.123456}, {"part": "a", "z": "z"}, {"part": "b", "x": 2, "v": True}]
    assert list(format_tables(rows)) == [
        *("**a**", "", "| z |", "|---|", "| z |", ""),
        *("**b**", "", "| x | y | v |", "|---|---|---|", "| 1 | 0.1235 |  |", "| 2 |  | True |", ""),
    ]
