"""A worker that hangs is noticed; one that goes on is not disturbed."""

import subprocess
import sys
import threading

from pipeline.workers.watchdog import EXIT_STALLED, Watchdog


def test_stalled_work_is_reported_by_name():
    stalled = []
    reported = threading.Event()
    watchdog = Watchdog(0.2, on_stall=lambda name: (stalled.append(name), reported.set()))
    with watchdog.watch("chunk 7"):
        assert reported.wait(20)
    assert stalled == ["chunk 7"]


def test_work_that_goes_on_hides_no_work_that_hangs():
    stalled = []
    reported = threading.Event()
    watchdog = Watchdog(1.0, on_stall=lambda name: (stalled.append(name), reported.set()))
    with watchdog.watch("lively") as tick, watchdog.watch("stuck"):
        while not reported.wait(0.01):
            tick()
    assert stalled == ["stuck"]


def test_finished_work_is_no_longer_watched():
    stalled = []
    # Far longer than a busy machine may keep a thread from its turn.
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


def test_process_that_hangs_in_c_code_ends_and_says_where():
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
