"""Images a second of `ChunkLabeler`, called as a labelling actor calls it, and what happens when memory runs out."""

import io
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import UInt8
from PIL import Image

from benchmarks.gpu_parts.machine import NUM_CLASSES, Bench, clear, make_model
from benchmarks.gpu_parts.process_tree import read_descendants_cpu_s
from benchmarks.gpu_parts.report import Case
from jobs.qualities import QUALITIES
from models.bundle import ModelBundle
from pipeline.labelling.labeler import ChunkLabeler
from pipeline.run.config import InputConfig
from pipeline.run.records import Sample, Status
from pipeline.run.vocabulary import parse_vocabulary

CALLS_IN_FLIGHT = 2
"""As `pipeline.label.CALLS_PER_ACTOR`, whose module needs Ray: a test compares them."""
MEASURED_S = 4.0
"""Seconds in which chunks begin."""
MAX_WORKERS = 16
LEFT_BYTES = 2**30
"""Memory left to the labeler when it has to run out."""


class Labelled(NamedTuple):
    """What was labelled in some time."""

    num_images: int
    num_rejected: int
    seconds: float


def list_worker_cases(is_small: bool) -> list[Case]:
    """The main case, by the number of CPU workers: one, which is a thread, or several processes."""
    if is_small:
        return [_make_case("ViT-Tiny", "balanced", 196, workers) for workers in (2, 1)]
    return [_make_case("DeiT-S", "balanced", 196, workers) for workers in (16, 8, 4, 2, 1)]


def list_model_cases(is_small: bool) -> list[Case]:
    """All other models, qualities and budgets of patches."""
    if is_small:
        return [_make_case("ViT-Tiny", "best", 196, 2)]
    return [
        _make_case(model, quality, patches, MAX_WORKERS)
        for patches in (196, 784)
        for quality in ("balanced", "best", "fast")
        for model in ("DeiT-S", "ViT-Tiny", "ViT-B")
        if (model, quality, patches) != ("DeiT-S", "balanced", 196)
    ]


def list_memory_cases(is_small: bool) -> list[Case]:
    """Batches that do not fit."""
    settings = {"model": "ViT-B", "patches": 784, "left_gib": LEFT_BYTES / 2**30}
    return [Case(part="out of memory", settings=settings, measure=_measure_out_of_memory, needs_s=20)]


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


def decode_photos(number: int) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Pixels of the photos of `make_photos`."""
    return [np.asarray(Image.open(io.BytesIO(photo.image or b""))) for photo in make_photos(number)]


def make_chunk(is_small: bool) -> list[Sample]:
    """Make a chunk of the size that labelling takes by default."""
    return make_photos(8 if is_small else InputConfig().max_chunk_samples)


def make_labeler(
    device: torch.device,
    model: str,
    quality: str,
    num_patches: int,
    num_workers: int,
    see_input: Callable[[tuple[int, ...]], None] = lambda _: None,
) -> ChunkLabeler:
    """Labeler as an actor makes it, which finds its batch size.

    Args:
        device: Of the model.
        model: Name in `machine.SIZES`.
        quality: Name in `QUALITIES`.
        num_patches: Token budget.
        num_workers: Processes if there are several, which a CPU of its own has in the trial only.
        see_input: Called with the shape of each input of the model.
    """
    network = make_model(model)
    # Copies of the network keep the hook.
    network.register_forward_pre_hook(lambda _, arguments: see_input(tuple(arguments[0].shape)))
    names = tuple(f"c{number}" for number in range(NUM_CLASSES))
    config = QUALITIES[quality]()
    return ChunkLabeler(
        model=network,
        bundle=ModelBundle(config=network.config, class_names=names, input_mean=(0.5,) * 3, input_std=(0.5,) * 3),
        vocabulary=parse_vocabulary({"classes": list(names)}),
        config=replace(config, views=replace(config.views, num_patches=num_patches)),
        device=device,
        batch_size=1 if device.type == "cpu" else None,
        num_workers=num_workers,
        use_bf16=device.type == "cuda",
        use_processes=num_workers > 1,
    )


def label_for(label: Callable[[Sequence[Sample]], pa.Table], chunk: Sequence[Sample], seconds: float) -> Labelled:
    """Label a chunk again and again, with as many calls at once as an actor has; none begins after some seconds.

    One of the threads is the caller's, which is all that a profiler sees of a CPU.
    """
    started_s = time.perf_counter()

    def repeat() -> list[str]:
        statuses: list[str] = []
        while not statuses or time.perf_counter() - started_s < seconds:
            statuses += label(chunk)["status"].to_pylist()
        return statuses

    with ThreadPoolExecutor(CALLS_IN_FLIGHT - 1) as threads:
        others = [threads.submit(repeat) for _ in range(CALLS_IN_FLIGHT - 1)]
        statuses = repeat() + [status for other in others for status in other.result()]
    num_rejected = sum(status != Status.LABELLED for status in statuses)
    return Labelled(len(statuses), num_rejected, time.perf_counter() - started_s)


def find_input_shape(device: torch.device, model: str, num_patches: int) -> tuple[int, ...]:
    """Shape of the largest batch of a chunk, as the labeler makes it."""
    seen: list[tuple[int, ...]] = []
    with closing(make_labeler(device, model, "fast", num_patches, 1, seen.append)) as labeler:
        labeler.label_chunk(make_chunk(is_small=False))
    return max(seen)


def _make_case(model: str, quality: str, patches: int, workers: int) -> Case:
    settings: dict[str, Any] = {"model": model, "quality": quality, "patches": patches, "workers": workers}
    return Case(part="labelling", settings=settings, measure=partial(_measure_speed, **settings), needs_s=15)


def _measure_speed(bench: Bench, model: str, quality: str, patches: int, workers: int) -> dict[str, Any]:
    """Images a second, and the CPU time of an image in the process of the device and in all of its workers."""
    chunk = make_chunk(bench.is_small)
    batches: list[int] = []
    labeler = make_labeler(bench.device, model, quality, patches, workers, lambda shape: batches.append(shape[0]))
    with closing(labeler):
        labeler.label_chunk(chunk)
        own_s, workers_s = time.process_time(), read_descendants_cpu_s(os.getpid())
        labelled = label_for(labeler.label_chunk, chunk, 0 if bench.is_small else MEASURED_S)
        own_s, workers_s = time.process_time() - own_s, read_descendants_cpu_s(os.getpid()) - workers_s
    return {
        "batch": max(batches),
        "images_s": labelled.num_images / labelled.seconds,
        "own_cpu_ms": 1e3 * own_s / labelled.num_images,
        "workers_cpu_ms": 1e3 * workers_s / labelled.num_images,
        "images": labelled.num_images,
        "rejected": labelled.num_rejected,
    }


def _measure_out_of_memory(bench: Bench) -> dict[str, Any]:
    """Label with batches that do not fit: all images have to be labelled, in smaller batches."""
    device = bench.device
    if device.type != "cuda":
        return {"skipped": "a CPU labels one image at a time"}
    batches: list[int] = []
    chunk = make_chunk(is_small=False)
    labeler = make_labeler(device, "ViT-B", "balanced", 784, 8, lambda shape: batches.append(shape[0]))
    with closing(labeler):
        # Libraries take their own memory first.
        labeler.label_chunk(chunk[:1])
        batches.clear()
        clear(device)
        num_free, _ = torch.cuda.mem_get_info(device)
        ballast = torch.empty(max(0, num_free - LEFT_BYTES), dtype=torch.uint8, device=device)
        num_before = torch.cuda.memory_stats(device)["num_ooms"]
        labelled = label_for(labeler.label_chunk, chunk, 0)
        num_failures = torch.cuda.memory_stats(device)["num_ooms"] - num_before
        del ballast
    assert num_failures, "memory did not run out"
    assert not labelled.num_rejected, f"{labelled.num_rejected} images were not labelled"
    return {
        "images": labelled.num_images,
        "failures": num_failures,
        "first_batch": max(batches),
        "usual_batch": statistics.mode(batches),
        "images_s": labelled.num_images / labelled.seconds,
    }
