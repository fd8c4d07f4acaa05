"""What a run shows: a bar in a terminal, lines with the time in a log, JSON where it is asked for."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.display.progress import ProgressDisplay
from jobs.display.streams import LineStream, describe_in_log, use_log_format
from pipeline.driver.ledger import Progress
from pipeline.progress.pace import Pace
from pipeline.run.counts import LabelCounts

ROOT = Path(__file__).parents[2]
SHOW = """
import sys
from jobs.display.progress import ProgressDisplay
from tests.jobs.test_progress import at

display = ProgressDisplay()
try:
    with display.open():
        display(at(0, 0))
        display._drawn_s = 0.0
        display(at(10, 100, reasons={"no_known_tag": 2}))
        print("a line of the job")
        print("warning: mind the gap", file=sys.stderr)
        display._drawn_s = 0.0
        display(at(20, 5000, num_sealed=4))
        if "fail" in sys.argv:
            raise ValueError("the run fails")
finally:
    print("the end", flush=True)
"""


def at(elapsed_s: Any, num_read: int, num_bytes_done: Any = None, reasons: Any = None, num_sealed: int = 0) -> Any:
    num_rejected = sum((reasons or {}).values())
    return Progress(
        num_shards=10,
        num_sealed=num_sealed,
        num_bytes=10_000,
        num_bytes_done=num_read if num_bytes_done is None else num_bytes_done,
        counts=LabelCounts(
            num_read=num_read,
            num_labelled=num_read - num_rejected,
            num_rejected=num_rejected,
            rejected_by_reason=reasons or {},
        ),
        elapsed_s=float(elapsed_s),
    )


def measure(*states: Any) -> Pace:
    pace = Pace()
    for state in states:
        pace.enter(state)
    return pace


def test_speed_and_time_left_are_averages_from_the_start() -> None:
    pace = measure(at(0, 0), at(40, 1000), at(50, 2000))
    assert pace.images_per_s == 40.0
    assert pace.seconds_left == 200.0


def test_nothing_is_said_before_something_is_done() -> None:
    pace = measure(at(0, 0), at(100, 0))
    assert (pace.images_per_s, pace.seconds_left, pace.silent_s) == (None, None, 100.0)


def test_what_earlier_invocations_did_makes_no_run_look_fast() -> None:
    pace = measure(at(0, 0, 5000), at(10, 100, 6000))
    assert (pace.images_per_s, pace.seconds_left) == (10.0, 40.0)


def test_sizes_that_are_unknown_leave_the_time_open() -> None:
    pace = measure(at(10, 100, 0), at(20, 200, 0))
    assert (pace.images_per_s, pace.seconds_left) == (10.0, None)


def test_silence_is_told_in_place_of_the_time_left() -> None:
    display = ProgressDisplay()
    for state in (at(10, 100), at(20, 200), at(990, 200)):
        display(state)
    assert display.describe(at(990, 200)) == "0/10 shards, 200 images, 0.2 images/s, nothing for 16 min 10 s"


def test_rejected_rows_are_shown_by_reason_with_hostile_text_escaped() -> None:
    display = ProgressDisplay("left out")
    state = at(10, 100, reasons={"b\x1b[2J\n": 1, "a": 2})
    display(state)
    assert display.describe(state).endswith("3 left out (a 2, b\\x1b[2J\\n 1)")


def test_lines_of_a_log_begin_with_the_time_and_its_zone(capsys: pytest.CaptureFixture[str]) -> None:
    display = ProgressDisplay(period_s=0.0)
    with display.open():
        display(at(10, 100))
    first, _, rest = capsys.readouterr().out.partition(" ")
    assert datetime.fromisoformat(first).tzinfo is not None
    assert rest == "0/10 shards, 100 images, 10.0 images/s\n"


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run something that prints, as JSON; give the entries of standard output and of standard error."""

    def print_json(function: Callable[[], None]) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", sys.stdout)
            patch.setattr(sys, "stderr", sys.stderr)
            use_log_format("json")
            function()
        printed = capsys.readouterr()
        return [[json.loads(line) for line in text.splitlines()] for text in (printed.out, printed.err)]

    return print_json


def test_json_is_one_object_a_line_whatever_is_printed(as_json: Callable[..., Any]) -> None:
    hostile = 'k"ey\u2028\x1b[2J \udcff {"a": 1}'

    def print_all() -> None:
        sys.stdout.write("two\nlines\n")
        sys.stderr.write(f"warning: {hostile}\n")
        sys.stderr.write("error: it is over\n")
        ProgressDisplay(period_s=0.0)(at(10, 100, reasons={hostile: 3}))

    out, err = as_json(print_all)
    assert [entry["message"] for entry in out[:2]] == ["two", "lines"]
    assert [(entry["level"], entry["event"], entry["message"]) for entry in err] == [
        ("warning", "warning", hostile),
        ("error", "error", "it is over"),
    ]
    progress = out[2]
    assert (progress["event"], progress["num_images"], progress["images_per_s"]) == ("progress", 100, 10.0)
    assert progress["rejected_by_reason"] == {hostile: 3}
    assert all(datetime.fromisoformat(entry["time"]).tzinfo for entry in out + err)


def test_line_in_parts_is_one_line() -> None:
    lines: list[str] = []
    stream = LineStream(sys.stdout, lambda _, line: lines.append(line))
    for text in ("a", "b\nc", "d"):
        stream.write(text)
    assert lines == ["ab"]
    stream.end_line()
    assert lines == ["ab", "cd"]


def run_in_terminal(*words: str, columns: int = 100, out: Any = None, **variables: str) -> tuple[int, str]:
    """Run `SHOW` in a terminal; return its exit code and what the terminal received."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    program = subprocess.Popen(
        [sys.executable, "-c", SHOW, *words],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs if out is None else out,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"} | variables,
    )
    os.close(theirs)
    received = b""
    try:
        while block := os.read(ours, 4096):
            received += block
    except OSError:
        # Linux: all ends of the terminal are closed.
        pass
    os.close(ours)
    return program.wait(timeout=60), received.decode()


def show_screen(received: str) -> list[str]:
    """The lines that a terminal shows in the end, by carriage returns and newlines."""
    lines = []
    for line in received.replace("\r\n", "\n").split("\n"):
        shown = ""
        for text in line.split("\r"):
            shown = text + shown[len(text) :]
        lines.append(shown.replace("\x1b[A", "").rstrip())
    return lines


def test_bar_is_redrawn_in_place_and_lines_go_above_it() -> None:
    code, received = run_in_terminal(columns=160)
    assert code == 0
    assert " 50%|" in received
    assert "4/10 shards, 5000 images, 250.0 images/s, 20 s left" in received
    assert "2 rejected (no_known_tag 2)" in received
    assert show_screen(received) == ["a line of the job", "warning: mind the gap", "the end", ""]
    assert not re.search(r"\x1b\[\d+m", received)


def test_bar_of_a_run_that_fails_leaves_the_terminal_clean() -> None:
    code, received = run_in_terminal("fail")
    assert code == 1
    assert show_screen(received)[:3] == ["a line of the job", "warning: mind the gap", "the end"]
    assert "ValueError: the run fails" in received


def test_bar_fits_narrow_terminals() -> None:
    _, received = run_in_terminal(columns=30)
    drawn = [text for line in received.split("\n") for text in line.split("\r") if "%|" in text]
    assert drawn
    assert max(len(text.rstrip("\r")) for text in drawn) <= 30


def test_terminal_without_cursor_gets_lines() -> None:
    _, received = run_in_terminal(TERM="dumb")
    assert "%|" not in received
    assert re.search(r"^\S+T\S+ 4/10 shards, 5000 images", received, re.MULTILINE)


def test_log_beside_a_terminal_gets_lines_too(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        _, received = run_in_terminal(out=log)
    assert "%|" in received
    written = (tmp_path / "log").read_text()
    assert "a line of the job" in written
    assert "4/10 shards, 5000 images" in written
    assert "%|" not in written


def test_warning_in_a_log_has_the_time_also_where_the_bar_is_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stdout", LineStream(sys.stdout, lambda stream, line: None))
        monkeypatch.setattr(sys, "stderr", log)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\S+ warning: full", describe_in_log("warning: full"))
