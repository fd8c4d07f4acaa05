"""A hanging worker is ended; one that makes progress is not."""

import subprocess
import sys
import threading
from typing import Any

from pipeline.workers.watchdog import EXIT_STALLED, Watchdog


def test_stalled_work_is_reported_by_name() -> None:
    stalled = []
    reported = threading.Event()
    watchdog = Watchdog(0.2, on_stall=lambda name: (stalled.append(name), reported.set()))
    with watchdog.watch("chunk 7"):
        assert reported.wait(20)
    assert stalled == ["chunk 7"]


def test_progress_of_one_work_does_not_hide_a_hang_of_another() -> None:
    stalled = []
    reported = threading.Event()
    watchdog = Watchdog(1.0, on_stall=lambda name: (stalled.append(name), reported.set()))
    with watchdog.watch("lively") as tick, watchdog.watch("stuck"):
        while not reported.wait(0.01):
            tick()
    assert stalled == ["stuck"]


def test_finished_work_is_no_longer_watched() -> None:
    stalled: list[Any] = []
    # Far longer than a busy machine delays a thread.
    watchdog = Watchdog(2.0, on_stall=stalled.append)
    with watchdog.watch("short") as tick:
        pass
    tick()
    with watchdog.watch("long") as tick:
        waiting = threading.Event()
        for _ in range(60):
            waiting.wait(0.04)
            tick()
    assert stalled == []


def test_process_that_hangs_in_c_code_ends_with_a_stack_trace() -> None:
    program = (
        "import time\n"
        "from pipeline.workers.watchdog import Watchdog\n"
        "with Watchdog(0.5).watch('chunk 3'):\n"
        "    time.sleep(1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == EXIT_STALLED
    assert "no progress on chunk 3" in done.stderr
    assert 'File "<string>", line 4' in done.stderr
