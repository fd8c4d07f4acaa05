from typing import Any, NamedTuple

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_parts.busy_time import list_device_intervals, measure_union


class TimeRange(NamedTuple):
    start: float
    end: float


class Event(NamedTuple):
    """What is read of a profiler's event."""

    name: str
    time_range: TimeRange
    device_type: DeviceType = DeviceType.CUDA
    is_user_annotation: bool = False


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20))))
def test_union_counts_each_moment_once(spans: list[tuple[int, int]]) -> None:
    moments = {moment for start, length in spans for moment in range(start, start + length)}
    assert measure_union((start, start + length) for start, length in spans) == len(moments)


def test_busy_time_is_that_of_kernels_and_copies_of_all_streams() -> None:
    events = [
        Event("aten::addmm", TimeRange(0, 100), DeviceType.CPU),
        Event("cudaLaunchKernel", TimeRange(1, 2), DeviceType.CPU),
        Event("forward", TimeRange(0, 200), is_user_annotation=True),
        Event("gemm", TimeRange(10, 20)),
        Event("softmax", TimeRange(20, 25)),
        Event("Memcpy HtoD (Pinned -> Device)", TimeRange(15, 30)),
        Event("Stream Wait Event", TimeRange(30, 60)),
        Event("gemm", TimeRange(90, 91)),
    ]
    assert measure_union(list_device_intervals(events, DeviceType.CUDA)) == 21


def test_busy_time_of_a_profile_counts_nested_operations_once() -> None:
    values = torch.rand(64, 64)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(3):
            torch.nn.functional.linear(values, values, values[0])
    events: Any = profiled.events()
    busy = measure_union(list_device_intervals(events, DeviceType.CPU))
    outermost = sum(event.time_range.elapsed_us() for event in events if event.cpu_parent is None)
    assert abs(busy - outermost) < 1e-3 * busy
    assert busy < sum(event.time_range.elapsed_us() for event in events)
    assert list_device_intervals(events, DeviceType.CUDA) == []
