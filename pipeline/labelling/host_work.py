"""Work on the host beside the device, in threads: samples -> frames, and evidence -> rows."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

from pipeline.images.drawing.columns import make_mask_columns
from pipeline.images.mapping.evidence import ImageEvidence
from pipeline.images.masks import encode_class_maps
from pipeline.labelling.prepare import ReadyImage, RejectedSample, SamplePreparer
from pipeline.run.config import LabelConfig
from pipeline.run.records import Sample, Status

Prepared = ReadyImage | RejectedSample
Finishing = tuple[dict[str, Any], ImageEvidence]
"""Columns of an image that do not depend on the model, and what was found in it."""


@dataclass(frozen=True, kw_only=True)
class HostJobs:
    """What is done on the host; picklable."""

    preparer: SamplePreparer
    config: LabelConfig
    palette: UInt8[np.ndarray, "256 3"]

    def prepare(self, numbered: Sequence[tuple[int, Sample]]) -> list[Prepared]:
        """Check and decode samples, each with its place in the chunk."""
        return [self.preparer.prepare(position, sample) for position, sample in numbered]

    def finish(self, images: Sequence[Finishing]) -> list[dict[str, Any]]:
        """Draw the masks of images and complete their rows, of columns that do not depend on the model."""
        return [self._finish(row, evidence) for row, evidence in images]

    def _finish(self, row: dict[str, Any], evidence: ImageEvidence) -> dict[str, Any]:
        maps, classes = evidence.scale_maps(), evidence.list_classes()
        labelled = row | {
            "status": str(Status.LABELLED),
            "class_ids": list(evidence.class_ids),
            "suggested_class_ids": list(evidence.suggested_class_ids),
            **make_mask_columns(row, maps, classes, self.config.maps, self.palette),
        }
        if self.config.maps.keep_maps:
            labelled["class_maps"] = encode_class_maps(evidence.grid_maps)
        return labelled


class HostWorkers(Protocol):
    """Threads or processes that prepare and finish images."""

    group: int
    """Images in a task."""

    def prepare(self, numbered: Sequence[tuple[int, Sample]]) -> Callable[[], list[Prepared]]:
        """Begin to prepare samples, each with its place in the chunk; return the function that waits for them."""

    def finish(self, images: Sequence[Finishing]) -> Callable[[], list[dict[str, Any]]]:
        """Begin to finish images; return the function that waits for their rows."""

    def close(self) -> None:
        """End the threads or processes."""


class ThreadWorkers:
    """Threads of this process."""

    group = 1

    def __init__(self, jobs: HostJobs, num_workers: int) -> None:
        """Start no thread yet."""
        self._jobs = jobs
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="label")

    def prepare(self, numbered: Sequence[tuple[int, Sample]]) -> Callable[[], list[Prepared]]:
        """Begin to prepare samples."""
        return self._threads.submit(self._jobs.prepare, numbered).result

    def finish(self, images: Sequence[Finishing]) -> Callable[[], list[dict[str, Any]]]:
        """Begin to finish images."""
        return self._threads.submit(self._jobs.finish, images).result

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)
