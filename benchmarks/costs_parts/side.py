"""The code of one commit in a process of its own, which measures a step each time it is asked to.

    PYTHONPATH=CHECKOUT python side.py present|baseline SETTINGS

It is run by its path, so that `pipeline` is that of the checkout. Each line of its input names a step; each line of its
output has the figures of a step as JSON.
"""

import importlib
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import torch
from PIL import Image

NUM_PASSES = 3
"""Passes over the photos in a step."""


class Steps:
    """The steps that a side measures, by name. Each returns its figures."""

    def __init__(self, code: Any, photos: str, large_photos: str) -> None:
        """Label the photos once, so that their evidence is known.

        Args:
            code: Of one commit.
            photos: Shard of photos.
            large_photos: Shard of photos of 3 megapixels.
        """
        self._code = code
        self._shard = photos
        self._photos = [bytes(sample.image) for sample in code.read(photos)]
        self._labeler = code.make_labeler(1)
        self._beside = code.make_labeler(2)
        rows = self._label_all(self._labeler)
        self._label_all(self._beside)
        self._kept = code.encode_kept(rows)
        self._finish_large = code.prepare_finishing(large_photos)
        self._finish_small = code.prepare_finishing(photos)

    def pillow(self) -> dict[str, float]:
        """CPU milliseconds to decode a photo with Pillow."""
        return {"ms": _measure_ms(lambda: [_decode(photo) for photo in self._photos], len(self._photos))}

    def beside(self) -> dict[str, float]:
        """CPU milliseconds an image beside the model: read, prepare, finish, encode and commit."""
        return {"ms": _measure_ms(lambda: self._label_all(self._labeler), len(self._photos))}

    def finish(self) -> dict[str, float]:
        """CPU milliseconds to finish a photo of its own size."""
        return {"ms": _measure_ms(self._finish_small, len(self._finish_small()))}

    def finish_large(self) -> dict[str, float]:
        """CPU milliseconds to finish a photo of 3 megapixels."""
        return {"ms": _measure_ms(self._finish_large, len(self._finish_large()))}

    def remask(self) -> dict[str, float]:
        """CPU milliseconds an image to make and commit new masks of kept maps."""
        return {"ms": _measure_ms(lambda: self._code.commit(self._code.remask(self._kept)), len(self._photos))}

    def device_process(self) -> dict[str, float]:
        """CPU milliseconds an image of the process of the device, to label and commit; it has two workers."""
        samples = self._code.read(self._shard)
        return {
            "ms": _measure_ms(lambda: self._code.commit(self._beside.label_chunk(samples)), len(self._photos)),
        }

    def close(self) -> None:
        """End the workers of labelers that have processes."""
        for labeler in (self._labeler, self._beside):
            getattr(labeler, "close", lambda: None)()

    def _label_all(self, labeler: Any) -> pa.Table:
        rows = labeler.label_chunk(self._code.read(self._shard))
        assert set(rows["status"].to_pylist()) == {"labelled"}, rows["error"].to_pylist()
        self._code.commit(rows)
        return rows


def _decode(photo: bytes) -> Image.Image:
    return Image.open(io.BytesIO(photo)).convert("RGB")


def _measure_ms(work: Callable[[], object], number: int) -> float:
    """CPU milliseconds of this process an item; the least of some passes, which other processes disturb least."""
    best_s = float("inf")
    for _ in range(NUM_PASSES):
        started_s = time.process_time()
        work()
        best_s = min(best_s, time.process_time() - started_s)
    return 1e3 * best_s / number


def main(arguments: Sequence[str]) -> None:
    """Measure the steps that the input names until it ends."""
    torch.set_num_threads(1)
    name, text = arguments
    settings = json.loads(text)
    photos, large_photos = settings.pop("photos"), settings.pop("large_photos")
    answers, sys.stdout = sys.stdout, sys.stderr
    steps = Steps(importlib.import_module(name).Code(**settings), photos, large_photos)
    for line in sys.stdin:
        print(json.dumps(getattr(steps, line.strip())()), file=answers, flush=True)
    steps.close()


if __name__ == "__main__":
    main(sys.argv[1:])
