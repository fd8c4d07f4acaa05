"""Label Studio: images, tasks with brush masks as predictions, and the labelling configuration."""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO
from xml.sax.saxutils import quoteattr

import numpy as np

from pipeline.export.sample_list import identify, write_sample_list
from pipeline.export.samples import ExportContext, ExportFiles, ExportSample
from pipeline.run.config import IGNORE_LABEL

_BRUSH, _IMAGE = "mask", "image"
"""Names of the controls, which results and configuration share."""


@dataclass(frozen=True, kw_only=True)
class LabelStudioFormat:
    """Options of format label-studio. Brush masks hold no ignored pixels: these become background."""

    image_url: str = "/data/local-files/?d="
    """What stands before images/SPLIT/NAME in the address of an image. Default: Label Studio serves the folder of the
    export as its document root of local files."""
    model_version: str = "tagmask"
    """Name of the predictions."""

    def check(self, context: ExportContext) -> None:
        """Check that the converter of label-studio-sdk is there.

        Raises:
            ValueError: It is not.
        """
        if importlib.util.find_spec("label_studio_sdk") is None:
            raise ValueError("format label-studio needs label-studio-sdk; install it by: pip install 'tagmask[export]'")

    def write_shard(
        self, shard_number: int, samples: Iterable[ExportSample], files: ExportFiles, context: ExportContext
    ) -> Iterator[Mapping[str, Any]]:
        """Write the photo of each sample, and a file of tasks a split; yield the identity of each sample."""
        with ExitStack() as stack:
            tasks: dict[str, BinaryIO] = {}
            for sample in samples:
                path = f"images/{sample.split}/{sample.name}{sample.image_suffix}"
                files.put(path, sample.image)
                is_first = sample.split not in tasks
                if is_first:
                    opened = files.open(f"tasks/{sample.split}-{shard_number:06d}.json")
                    tasks[sample.split] = stack.enter_context(opened)
                task = json.dumps(self._describe(sample, path, context))
                tasks[sample.split].write(f"{'[' if is_first else ','}\n{task}".encode())
                yield identify(sample)
            for file in tasks.values():
                file.write(b"\n]\n")

    def finish(
        self, entries: Callable[[], Iterator[Mapping[str, Any]]], files: ExportFiles, context: ExportContext
    ) -> None:
        """Write the labelling configuration, and the list of samples."""
        labels = "".join(
            f'    <Label value={quoteattr(name)} background="#{bytes(context.palette[value].tolist()).hex()}"/>\n'
            for value, name in enumerate(context.class_names)
            if value
        )
        config = (
            f'<View>\n  <Image name="{_IMAGE}" value="$image" zoom="true"/>\n'
            f'  <BrushLabels name="{_BRUSH}" toName="{_IMAGE}">\n{labels}  </BrushLabels>\n</View>\n'
        )
        files.put("config.xml", config.encode())
        write_sample_list(entries, files)

    def _describe(self, sample: ExportSample, path: str, context: ExportContext) -> dict[str, Any]:
        """Describe a sample as a task, its mask as a prediction of one brush result a class."""
        results = [
            _draw(sample, value, context.class_names[value])
            for value in np.unique(sample.mask).tolist()
            if value not in (0, IGNORE_LABEL)
        ]
        prediction = {"model_version": self.model_version, "score": sample.quality, "result": results}
        data = {"image": f"{self.image_url}{path}", "tags": list(sample.tags), "quality": sample.quality}
        return {"data": identify(sample) | data, "predictions": [prediction]}


def _draw(sample: ExportSample, value: int, name: str) -> dict[str, Any]:
    from label_studio_sdk.converter.brush import encode_rle

    height, width = sample.mask.shape
    # The tool keeps four channels a pixel, and reads the last.
    channels = np.repeat(np.where(sample.mask == value, 255, 0).astype(np.uint8).ravel(), 4)
    return {
        "id": hashlib.sha256(f"{sample.number} {value}".encode()).hexdigest()[:10],
        "type": "brushlabels",
        "from_name": _BRUSH,
        "to_name": _IMAGE,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_rle(channels), "brushlabels": [name]},
    }
