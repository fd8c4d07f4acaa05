"""The code of one commit in a process of its own, which measures a step each time it is asked to.

    PYTHONPATH=CHECKOUT python side.py present|baseline SETTINGS

It is run by its path, so that `pipeline` is that of the checkout. Each line of its input names a step; each line of its
output has the figures of a step as JSON.
"""

import importlib
import io
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from PIL import Image

NUM_PASSES = 3
"""Passes over the photos in a step."""
SWITCH_INTERVAL_S = 1.0
"""Longer than the lock is held at once, so that the waiting thread sleeps until it is released."""
KNOWN_HOLD_S = 0.3
"""Time for which a thread holds the lock, to check the measurement."""


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

    def gil(self) -> dict[str, float]:
        """Milliseconds an image that the lock of the interpreter is held, and the same for a thread of known length."""
        held_s = _measure_held_s(lambda: [self._label_all(self._beside) for _ in range(NUM_PASSES)])
        known_s = _measure_held_s(_compute_in_python)
        return {"ms": 1e3 * held_s / NUM_PASSES / len(self._photos), "of_known": known_s / KNOWN_HOLD_S}

    def device_process(self) -> dict[str, float]:
        """CPU milliseconds an image of the process of the device: its lock is held for at most as long."""
        samples = self._code.read(self._shard)
        return {"ms": _measure_ms(lambda: self._beside.label_chunk(samples), len(self._photos))}

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


def _measure_held_s(work: Callable[[], object]) -> float:
    """Seconds for which other threads hold the lock of the interpreter while some work runs.

    A thread releases the lock and takes it again all the time. It waits for nothing but the lock and a core. Linux
    counts its time on a core and its wait for one; the rest of its time other threads held the lock.
    """
    found: list[float] = []
    is_done = threading.Event()
    begins = threading.Event()

    def wait_often() -> None:
        before, started_s = _read_scheduled_s(), time.perf_counter()
        begins.set()
        while not is_done.is_set():
            time.sleep(0)
        found.append(time.perf_counter() - started_s - (_read_scheduled_s() - before))

    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    waiting = threading.Thread(target=wait_often)
    waiting.start()
    begins.wait()
    try:
        work()
    finally:
        is_done.set()
        waiting.join()
        sys.setswitchinterval(usual)
    return found[0]


def _read_scheduled_s() -> float:
    """Seconds for which this thread was on a core or waited for one."""
    with Path("/proc/thread-self/schedstat").open() as file:
        on_core_ns, waited_ns, _ = file.read().split()
    return (int(on_core_ns) + int(waited_ns)) / 1e9


def _compute_in_python() -> None:
    started_s = time.thread_time()
    while time.thread_time() - started_s < KNOWN_HOLD_S:
        pass


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
