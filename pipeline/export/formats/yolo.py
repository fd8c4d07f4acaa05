"""YOLO segmentation: images, a text file of polygons beside each, data.yaml."""

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from pipeline.export.formats.polygons import find_polygons
from pipeline.export.samples import ExportContext, ExportFiles, ExportSample
from pipeline.run.config import IGNORE_LABEL


@dataclass(frozen=True, kw_only=True)
class YoloFormat:
    """Options of format yolo. Polygons hold no ignored pixels: these become background."""

    min_pixels: int = 1
    """Components of fewer pixels get no polygon."""

    def check(self, context: ExportContext) -> None:
        """Check that OpenCV is there, and the options.

        Raises:
            ValueError: It is not, or an option is out of range.
        """
        if self.min_pixels < 1:
            raise ValueError(f"need --yolo.min-pixels >= 1, got {self.min_pixels}")
        if importlib.util.find_spec("cv2") is None:
            raise ValueError("format yolo needs OpenCV; install it by: pip install 'tagmask[export]'")

    def write_shard(
        self, shard_number: int, samples: Iterable[ExportSample], files: ExportFiles, context: ExportContext
    ) -> Iterator[Mapping[str, Any]]:
        """Write photo and polygons of each sample; yield name, split and key."""
        for sample in samples:
            path = f"images/{sample.split}/{sample.name}{sample.image_suffix}"
            files.put(path, sample.image)
            lines = "".join(f"{line}\n" for line in self._describe(sample))
            files.put(f"labels/{sample.split}/{sample.name}.txt", lines.encode())
            yield {"path": path, "split": sample.split, "key": sample.key}

    def finish(
        self, entries: Callable[[], Iterator[Mapping[str, Any]]], files: ExportFiles, context: ExportContext
    ) -> None:
        """Write data.yaml, and the list of each split."""
        for split in context.splits:
            with files.open(f"{split}.txt") as file:
                for entry in entries():
                    if entry["split"] == split:
                        file.write(f"./{entry['path']}\n".encode())
        # Classes count from 0: there is no background. Training needs both words, also where there is one split.
        splits = {split: f"images/{split}" for split in context.splits}
        splits.setdefault("train", next(iter(splits.values())))
        splits.setdefault("val", splits.get("train", ""))
        described = splits | {"names": dict(enumerate(context.class_names[1:]))}
        files.put("data.yaml", yaml.safe_dump(described, sort_keys=False, allow_unicode=True).encode())

    def _describe(self, sample: ExportSample) -> Iterator[str]:
        """Describe each component by a line: class, then x and y of its points as shares of width and height."""
        height, width = sample.mask.shape
        for value in np.unique(sample.mask).tolist():
            if value in (0, IGNORE_LABEL):
                continue
            for polygon in find_polygons(self._drop_small(sample.mask == value)):
                # Centres of pixels are at halves.
                shares = (polygon + 0.5) / (width, height)
                yield f"{value - 1} " + " ".join(f"{share:.6f}" for share in shares.ravel())

    def _drop_small(self, region: np.ndarray) -> np.ndarray:
        if self.min_pixels == 1:
            return region
        import cv2

        _, numbers, figures, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
        is_large = figures[:, cv2.CC_STAT_AREA] >= self.min_pixels
        is_large[0] = False
        kept: np.ndarray = is_large[numbers]
        return kept
