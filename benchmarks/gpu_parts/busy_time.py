"""How long a device was busy, by the events of PyTorch's profiler."""

from collections.abc import Iterable
from typing import Any

from torch.autograd import DeviceType

Interval = tuple[float, float]

WAITS = {"Context Sync", "Event Sync", "Stream Sync", "Stream Wait Event"}
"""Events of a device in which it does nothing, which some settings of the profiler add."""


def list_device_intervals(events: Iterable[Any], device_type: DeviceType) -> list[Interval]:
    """Start and end of each kernel and copy of a device on all its streams, in microseconds.

    Operations of the CPU are left out: their device time is that of their kernels, which are events of their own. So
    are named ranges, which span kernels and the time between them.

    Args:
        events: Of `torch.profiler.profile.events`, each a `FunctionEvent`.
        device_type: Type of the device.
    """
    return [
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type == device_type and not event.is_user_annotation and event.name not in WAITS
    ]


def measure_union(intervals: Iterable[Interval]) -> float:
    """Length of the union of intervals: kernels of several streams at once count once.

    >>> measure_union([(5, 6), (0, 2), (1, 3), (1, 2)])
    4.0
    """
    total, covered = 0.0, -float("inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, covered))
        covered = max(covered, end)
    return total
