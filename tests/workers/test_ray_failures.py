"""Descriptions of Ray's failures: one short line without stack traces."""

from typing import Any

import pytest
import ray.exceptions

from pipeline.workers.ray_failures import MAX_LENGTH, describe_ray_failure

CORE_STACK = """Check failed: status.ok()
*** SIGSEGV received at time=1764162000 on cpu 3 ***
PC: @     0x7f5c1a2b3c4d  (unknown)  ray::core::CoreWorker::Get()
    @     0x7f5c1a2b3c4d       1792  (unknown)
    @ ... and at least 3 more frames
[2026-11-26 13:00:00,123 E 77 77] logging.cc:440: *** SIGSEGV received at time=1764162000 on cpu 3 ***
[2026-11-26 13:00:00,123 C 77 77] (raylet) node_manager.cc:1: An unexpected system state has occurred
*** StackTrace Information ***
/opt/ray/_raylet.so(+0x14a2b3c) [0x7f5c1a2b3c4d] ray::operator<<()
/lib/libc.so.6(+0x94ac3) [0x7f5c1a2b3c4d]
Fatal Python error: Segmentation fault
Stack (most recent call first):
  File "/opt/ray/worker.py", line 1069 in main_loop
"""
TRACES = ("0x", ".so(", "File ", "Traceback", "***", "^^^", "\x1b", "\n", "ray::", "[2026")


def assert_is_short(text: str) -> None:
    assert not [trace for trace in TRACES if trace in text], text
    assert 0 < len(text) <= MAX_LENGTH


@pytest.mark.parametrize("kind", [ray.exceptions.RaySystemError, ray.exceptions.WorkerCrashedError, RuntimeError])
def test_failure_with_a_stack_of_cpp_is_described_by_its_type_and_first_line(kind: Any) -> None:
    error = kind(CORE_STACK) if kind is not ray.exceptions.WorkerCrashedError else kind()
    text = describe_ray_failure(error)
    assert_is_short(text)
    assert text.startswith(kind.__name__)


def test_failure_of_a_stack_only_still_has_its_type() -> None:
    assert describe_ray_failure(RuntimeError(CORE_STACK.partition("\n")[2])) == "RuntimeError: no message"


def test_failure_with_terminal_escapes_shows_them_escaped() -> None:
    assert describe_ray_failure(RuntimeError("key \x1b]0;x\x07 \u202e")) == "RuntimeError: key \\x1b]0;x\\x07 \\u202e"
