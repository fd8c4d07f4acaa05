"""Images a second of `ChunkLabeler`, how busy the device is meanwhile, and what happens when its memory runs out."""

import io
import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_parts.machine import NUM_CLASSES, count_flops, make_model
from jobs.qualities import QUALITIES
from models.bundle import ModelBundle
from pipeline.labelling.batches import limit_batch_size
from pipeline.labelling.labeler import ChunkLabeler
from pipeline.run.records import Sample, Status
from pipeline.run.vocabulary import parse_vocabulary

BATCH_SIZE = 64
LEFT_BYTES = 2 * 2**30
"""Memory left to the labeler when it has to run out."""


def make_photos(number: int) -> list[Sample]:
    """JPEG files of 500 x 375 pixels with smooth and noisy parts, about 90 kB each, with one or two tags."""
    rng = np.random.default_rng(0)
    photos = []
    for index in range(number):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(int)
        noisy = np.clip(smooth + rng.integers(-12, 12, smooth.shape), 0, 255).astype(np.uint8)
        payload = io.BytesIO()
        Image.fromarray(noisy).save(payload, "JPEG", quality=88)
        tags = ("c1", "c5") if index % 3 == 0 else ("c2",)
        photos.append(Sample(key=f"{index:06d}", image=payload.getvalue(), tags=tags))
    return photos


def make_labeler(
    device: torch.device, model: str, quality: str, num_patches: int, num_workers: int, batch_size: int = BATCH_SIZE
) -> ChunkLabeler:
    """Labeler as an actor makes it."""
    network = make_model(model)
    names = tuple(f"c{number}" for number in range(NUM_CLASSES))
    config = QUALITIES[quality]()
    return ChunkLabeler(
        model=network,
        bundle=ModelBundle(config=network.config, class_names=names, input_mean=(0.5,) * 3, input_std=(0.5,) * 3),
        vocabulary=parse_vocabulary({"classes": list(names)}),
        config=replace(config, views=replace(config.views, num_patches=num_patches)),
        device=device,
        batch_size=limit_batch_size(batch_size, device),
        num_workers=num_workers,
        use_bf16=device.type == "cuda",
        use_processes=device.type == "cuda" and num_workers > 1,
    )


def measure_speed(device: torch.device, report: Any, peak: float, is_small: bool) -> None:
    """Images a second by model, quality, patches and CPU workers."""
    photos = make_photos(8 if is_small else 768)
    cases = [("DeiT-S", "balanced", 196, workers) for workers in (1, 2, 4, 8, 16)]
    cases += [
        (model, quality, patches, 16)
        for patches in (196, 784)
        for model in ("ViT-Tiny", "DeiT-S", "ViT-B")
        for quality in ("fast", "balanced", "best")
        if (model, quality, patches) != ("DeiT-S", "balanced", 196)
    ]
    for model, quality, patches, workers in [("ViT-Tiny", "balanced", 196, 1)] if is_small else cases:
        labeler = make_labeler(device, model, quality, patches, workers)
        own = photos[: 192 if workers < 4 else None]
        labeler.label_chunk(own[:BATCH_SIZE])
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        rows = labeler.label_chunk(own)
        wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
        report.add(
            "labelling",
            model=model,
            quality=quality,
            patches=patches,
            workers=workers,
            images_s=len(own) / wall_s,
            cpu_ms_an_image=1e3 * cpu_s / len(own),
            rejected=sum(status != Status.LABELLED for status in rows["status"].to_pylist()),
        )


def measure_busy(device: torch.device, report: Any, peak: float, is_small: bool) -> None:
    """Share of the time in which the device computes, its share of the peak, launches and waits an image."""
    photos = make_photos(4 if is_small else 512)
    for patches in (196,) if is_small else (196, 784):
        labeler = make_labeler(device, "ViT-Tiny" if is_small else "DeiT-S", "balanced", patches, 16)
        labeler.label_chunk(photos[:BATCH_SIZE])
        num_flops = count_flops(partial(labeler.label_chunk, photos[:BATCH_SIZE]))
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        with profile(activities=activities) as found:
            started_s = time.perf_counter()
            labeler.label_chunk(photos)
            wall_s = time.perf_counter() - started_s
        events = found.key_averages()
        busy_s = sum(getattr(event, "self_device_time_total", 0.0) for event in events) / 1e6
        flops_s = num_flops / min(BATCH_SIZE, len(photos)) * len(photos) / wall_s
        report.add(
            "device",
            patches=patches,
            busy_share=busy_s / wall_s,
            share_of_peak=flops_s / peak,
            share_of_peak_while_busy=flops_s * wall_s / busy_s / peak if busy_s else 0.0,
            launches_an_image=sum(event.count for event in events if "LaunchKernel" in event.key) / len(photos),
            waits_an_image=sum(event.count for event in events if "Synchronize" in event.key) / len(photos),
        )
        print(events.table(sort_by="self_device_time_total", row_limit=12))


def measure_out_of_memory(device: torch.device, report: Any, peak: float, is_small: bool) -> None:
    """Label with batches that do not fit: all images have to be labelled, in smaller batches."""
    if device.type != "cuda":
        report.add("out of memory", skipped="a CPU labels one image at a time")
        return
    labeler = make_labeler(device, "ViT-B", "balanced", 784, 8, batch_size=512)
    photos = make_photos(512)
    torch.cuda.empty_cache()
    num_free, _ = torch.cuda.mem_get_info(device)
    ballast = torch.empty(max(0, num_free - LEFT_BYTES), dtype=torch.uint8, device=device)
    started_s = time.perf_counter()
    rows = labeler.label_chunk(photos)
    num_labelled = sum(status == Status.LABELLED for status in rows["status"].to_pylist())
    report.add(
        "out of memory",
        images=len(photos),
        labelled=num_labelled,
        images_s=len(photos) / (time.perf_counter() - started_s),
        ballast_gib=ballast.numel() / 2**30,
    )
    assert num_labelled == len(photos), f"{len(photos) - num_labelled} images were not labelled"


PARTS = {"labelling": measure_speed, "device": measure_busy, "out of memory": measure_out_of_memory}
