"""FiftyOne: a folder of type ImageSegmentationDirectory a split, and the names of the mask values."""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pipeline.export.sample_list import identify, write_sample_list
from pipeline.export.samples import ExportContext, ExportFiles, ExportSample
from pipeline.run.config import IGNORE_LABEL


@dataclass(frozen=True, kw_only=True)
class FiftyoneFormat:
    """Options of format fiftyone: there are none."""

    def check(self, context: ExportContext) -> None:
        """Check nothing: any classes fit, and no package is needed."""

    def write_shard(
        self, shard_number: int, samples: Iterable[ExportSample], files: ExportFiles, context: ExportContext
    ) -> Iterator[Mapping[str, Any]]:
        """Write photo and grey mask of each sample; yield its identity."""
        for sample in samples:
            files.put(f"{sample.split}/data/{sample.name}{sample.image_suffix}", sample.image)
            files.put(f"{sample.split}/labels/{sample.name}.png", _encode_grey(sample.mask))
            yield identify(sample)

    def finish(
        self, entries: Callable[[], Iterator[Mapping[str, Any]]], files: ExportFiles, context: ExportContext
    ) -> None:
        """Write mask_targets.json, and the list of samples."""
        targets = dict(enumerate(context.class_names)) | {IGNORE_LABEL: "ignored"}
        files.put("mask_targets.json", json.dumps(targets, indent=2).encode())
        write_sample_list(entries, files)


def _encode_grey(mask: UInt8[np.ndarray, "h w"]) -> bytes:
    """Encode a mask without palette: the tool's reader turns palettes into colours."""
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()
