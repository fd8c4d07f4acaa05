"""How busy labelling keeps the device, and with what."""

import time
from contextlib import closing
from functools import partial
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_parts.busy_time import list_device_intervals, measure_union
from benchmarks.gpu_parts.labelling import MAX_WORKERS, label_for, make_chunk, make_labeler
from benchmarks.gpu_parts.machine import Bench, count_flops, wait
from benchmarks.gpu_parts.report import Case

MEASURED_S = 2.0
"""Seconds in which chunks begin; each launch is an event."""


def list_cases(is_small: bool) -> list[Case]:
    """The main model and quality."""
    return [
        Case(
            part="device",
            settings={"model": model, "quality": "balanced", "patches": patches, "workers": workers},
            measure=partial(_measure_use, model, patches, workers),
            needs_s=25,
        )
        for model, patches, workers in (
            [("ViT-Tiny", 196, 2)] if is_small else [("DeiT-S", 196, MAX_WORKERS), ("DeiT-S", 784, MAX_WORKERS)]
        )
    ]


def _measure_use(model: str, patches: int, workers: int, bench: Bench) -> dict[str, Any]:
    """Share of the time in which the device is busy, its share of the peak, launches and waits an image.

    On a CPU it is the share of the time in which operations of one of the threads run.
    """
    device = bench.device
    on_gpu = device.type == "cuda"
    chunk = make_chunk(bench.is_small)
    with closing(make_labeler(device, model, "balanced", patches, workers)) as labeler:
        labeler.label_chunk(chunk)
        flops_an_image = count_flops(partial(labeler.label_chunk, chunk)) / len(chunk)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        with profile(activities=activities) as profiled:
            started_s = time.perf_counter()
            labelled = label_for(labeler.label_chunk, chunk, 0 if bench.is_small else MEASURED_S)
            wait(device)
            wall_s = time.perf_counter() - started_s
    events = profiled.events()
    assert events is not None
    busy_s = measure_union(list_device_intervals(events, DeviceType.CUDA if on_gpu else DeviceType.CPU)) / 1e6
    flops_s = flops_an_image * labelled.num_images / wall_s
    names = [event.name for event in events if event.device_type == DeviceType.CPU]
    print(profiled.key_averages().table(sort_by=f"self_{'device' if on_gpu else 'cpu'}_time_total", row_limit=12))
    return {
        "images_s": labelled.num_images / wall_s,
        "busy_share": busy_s / wall_s,
        "share_of_peak": flops_s / bench.peak,
        "share_of_peak_while_busy": flops_s * wall_s / busy_s / bench.peak if busy_s else 0.0,
        "launches_an_image": sum("LaunchKernel" in name for name in names) / labelled.num_images,
        "waits_an_image": sum("Synchronize" in name for name in names) / labelled.num_images,
    }
