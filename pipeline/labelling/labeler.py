"""Labelling a chunk with a model: samples -> class maps -> masks and statistics.

    samples -> decode (threads) -> batches of one shape -> ClassMapper (device) -> masks, rows (threads)

No Ray here: an actor calls `ChunkLabeler.label_chunk`, and so does a plain loop. Several threads may call it at once: a
lock keeps one on the device while others decode and encode.
"""

import hashlib
import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import UInt8

from models.bundle import ModelBundle
from models.mctformer import MCTformer
from pipeline.images.class_mapper import ClassMapper, ImageEvidence
from pipeline.images.decode import DecodedImage, ImageRejection, decode_image
from pipeline.images.frames import choose_shortest_side, fit_frame, fit_guide
from pipeline.images.masks import build_palette, encode_class_maps, encode_mask, name_mask_file
from pipeline.images.orientation import place_on_stored_pixels, turn_size
from pipeline.run.config import LabelConfig, PixelRefinement, settle_config
from pipeline.run.records import PART_SCHEMA, Reason, Sample, Status
from pipeline.run.vocabulary import Vocabulary

MAX_PENDING_PIXELS = 48_000_000
"""Maximum number of decoded pixels that wait for a batch of their shape to fill: 144 MB."""

OUT_OF_MEMORY = "the device has too little memory for this image alone; label it on a larger one or in smaller views"

NOT_FINITE = (
    "the model gives NaN or infinite values for this image, again in float32; look at the image, and if many say so at "
    "the weights of the model and at the device"
)

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True, kw_only=True)
class ReadyImage:
    """A sample that can be labelled: decoded, at the size of the model input."""

    position: int
    """Place in the chunk."""
    frame: UInt8[np.ndarray, "h w 3"]
    guide: UInt8[np.ndarray, "guide_h guide_w 3"] | None
    """The image at the size at which its pixels refine the class maps; None if they do not."""
    upright_size: tuple[int, int]
    """Height and width of the upright image in pixels, before it was scaled to the frame."""
    class_ids: tuple[int, ...]
    row: dict[str, Any]
    """Columns that do not depend on the model."""

    @property
    def num_pixels(self) -> int:
        """Decoded pixels in memory."""
        return (self.frame.size + (0 if self.guide is None else self.guide.size)) // 3


class RejectedSample(NamedTuple):
    """A sample that cannot be labelled."""

    position: int
    """Place in the chunk."""
    row: dict[str, Any]
    """The rejected row, with its reason."""


def limit_batch_size(batch_size: int, device: torch.device) -> int:
    """Limit the batch size to that of a device.

    A CPU gets one image at a time: rounding in its kernels depends on the batch size, so pixels would depend on the
    other images of the batch.
    """
    return 1 if device.type == "cpu" else batch_size


class ChunkLabeler:
    """Labels chunks with one model on one device."""

    def __init__(
        self,
        *,
        model: MCTformer,
        bundle: ModelBundle,
        vocabulary: Vocabulary,
        config: LabelConfig,
        device: torch.device,
        batch_size: int,
        num_threads: int,
        use_bf16: bool,
    ) -> None:
        """Put the model on its device.

        Args:
            model: In evaluation mode; moved to `device`.
            bundle: Input statistics and classes of the model.
            vocabulary: Its classes are the model's, in the same order.
            config: Determines the bytes; the remaining arguments only affect the speed.
            device: Device of the model and the class maps.
            batch_size: Images of one shape in a forward pass, as `limit_batch_size` allows.
            num_threads: Threads that decode images and encode masks.
            use_bf16: Run the blocks under bfloat16 autocast; maps stay float32.
        """
        config = settle_config(config, model.config.grid_side)
        self._config = config
        self._vocabulary = vocabulary
        self._patch_size = model.config.patch_size
        self._batch_size = batch_size
        self._window = self._batch_size + 2 * num_threads
        self._palette = build_palette(vocabulary.colours, vocabulary.classes)
        self._mapper = ClassMapper(
            model=model.to(device).eval(), bundle=bundle, config=config, device=device, use_bf16=use_bf16
        )
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="label")
        self._device_lock = threading.Lock()

    def label_chunk(self, samples: Sequence[Sample], on_progress: Callable[[], None] = lambda: None) -> pa.Table:
        """Label the samples of a chunk.

        Args:
            samples: Still encoded.
            on_progress: Called after every step of an image or batch, from any thread.

        Returns:
            One row a sample, in order, with the schema `PART_SCHEMA`. A sample that cannot be labelled is a rejected
            row with its reason.
        """
        rows: dict[int, dict[str, Any]] = {}
        unfinished: deque[tuple[int, Future[dict[str, Any]]]] = deque()

        def keep_rejections() -> Iterator[ReadyImage]:
            for outcome in _map_ahead(self._threads, self._prepare, enumerate(samples), self._window):
                on_progress()
                if isinstance(outcome, RejectedSample):
                    rows[outcome.position] = outcome.row
                else:
                    yield outcome

        def finish_first() -> None:
            position, future = unfinished.popleft()
            rows[position] = future.result()
            on_progress()

        for batch in _batch_by_shape(keep_rejections(), self._batch_size):
            with self._device_lock:
                found = self._find_finite(batch, on_progress)
            for image, evidence in zip(batch, found, strict=True):
                if evidence is None:
                    rows[image.position] = _reject(image.row, Reason.OUT_OF_MEMORY, OUT_OF_MEMORY)
                    continue
                if not evidence.is_finite:
                    rows[image.position] = _reject(image.row, Reason.NOT_FINITE, NOT_FINITE)
                    continue
                unfinished.append((image.position, self._threads.submit(self._finish, image, evidence)))
            # Maps at image size are large: the device waits when more than two batches of them accumulate.
            while len(unfinished) > 2 * self._batch_size:
                finish_first()
        while unfinished:
            finish_first()
        return pa.Table.from_pylist([rows[position] for position in range(len(samples))], schema=PART_SCHEMA)

    def _find_finite(self, batch: Sequence[ReadyImage], on_progress: Callable[[], None]) -> list[ImageEvidence | None]:
        """Find the classes in a batch; again in float32 for images with non-finite values."""
        found = self._find(batch, on_progress)
        places = [place for place, evidence in enumerate(found) if evidence is not None and not evidence.is_finite]
        if places:
            logger.warning("%d of %d images give non-finite values, they are tried in float32", len(places), len(batch))
            again = self._find([batch[place] for place in places], on_progress, in_float32=True)
            for place, evidence in zip(places, again, strict=True):
                # Without enough memory for float32 an image stays non-finite.
                found[place] = evidence or found[place]
        return found

    def _find(
        self, batch: Sequence[ReadyImage], on_progress: Callable[[], None], *, in_float32: bool = False
    ) -> list[ImageEvidence | None]:
        """Find the classes in a batch; split it if memory runs out. None for an image that alone is too large."""
        guides = [image.guide for image in batch if image.guide is not None]
        try:
            found: list[ImageEvidence | None] = [
                *self._mapper.find_evidence(
                    np.stack([image.frame for image in batch]),
                    [image.class_ids for image in batch],
                    [image.upright_size for image in batch],
                    np.stack(guides) if guides else None,
                    in_float32=in_float32,
                )
            ]
        except torch.OutOfMemoryError:
            found = []
        on_progress()
        if found:
            return found
        # Outside of the handler, whose traceback keeps the tensors of the failed attempt alive.
        torch.cuda.empty_cache()
        if len(batch) == 1:
            return [None]
        logger.warning("out of memory with %d images of %s, the batch is halved", len(batch), batch[0].frame.shape)
        half = len(batch) // 2
        halves = (batch[:half], batch[half:])
        return [one for part in halves for one in self._find(part, on_progress, in_float32=in_float32)]

    def _prepare(self, numbered: tuple[int, Sample]) -> ReadyImage | RejectedSample:
        """Check and decode a sample, which comes with its place in the chunk."""
        position, sample = numbered
        row: dict[str, Any] = {"key": sample.key}
        if sample.dotted_name_error:
            return RejectedSample(position, _reject(row, Reason.DOTTED_NAME, sample.dotted_name_error))
        if sample.download_error:
            return RejectedSample(position, _reject(row, Reason.DOWNLOAD_FAILED, sample.download_error))
        if sample.image_error:
            return RejectedSample(
                position, _reject(row, Reason(sample.image_reason or Reason.TOO_LARGE), sample.image_error)
            )
        if sample.image is None:
            return RejectedSample(
                position, _reject(row, Reason.NO_IMAGE, sample.no_image_error or "the image is missing")
            )
        row["image_sha256"] = hashlib.sha256(sample.image).hexdigest()
        if not sample.has_tags_row:
            error = "the tags table has no row with this key"
            return RejectedSample(position, _reject(row, Reason.NOT_IN_TAGS_TABLE, error))
        if sample.tags_error:
            return RejectedSample(position, _reject(row, Reason.BAD_TAGS, sample.tags_error))
        matched = self._vocabulary.match(
            sample.tags, sample.class_numbers, first_number=self._config.inputs.first_class_number
        )
        row |= {"tags_unknown": list(matched.unknown), "class_ids": list(matched.class_ids)}
        if not matched.class_ids:
            has_tags = sample.tags or sample.class_numbers
            error = "none of its tags is in the vocabulary" if has_tags else sample.no_tags_error or "no tags"
            return RejectedSample(position, _reject(row, Reason.NO_KNOWN_TAG, error))
        image = self._decode(sample.image)
        if isinstance(image, ImageRejection):
            return RejectedSample(position, _reject(row, image.reason, image.error))
        row |= {
            "width": image.stored_width,
            "height": image.stored_height,
            "exif_orientation": image.exif_orientation,
        }
        frame = fit_frame(image.image_rgb, self._config.views, self._patch_size)
        needs_guide = self._config.maps.pixel_refinement != PixelRefinement.NONE
        return ReadyImage(
            position=position,
            frame=frame,
            guide=fit_guide(image.image_rgb, self._config, self._patch_size, frame) if needs_guide else None,
            upright_size=turn_size((image.stored_height, image.stored_width), image.exif_orientation),
            class_ids=matched.class_ids,
            row=row,
        )

    def _decode(self, payload: bytes | memoryview) -> DecodedImage | ImageRejection:
        return decode_image(
            payload,
            max_pixels=self._config.inputs.max_image_pixels,
            min_short_side_px=choose_shortest_side(self._config, self._patch_size),
        )

    def _finish(self, image: ReadyImage, evidence: ImageEvidence) -> dict[str, Any]:
        stored = place_on_stored_pixels(evidence.enlarge_mask(), image.row["exif_orientation"])
        row = image.row | {
            "status": str(Status.LABELLED),
            "mask": {"bytes": encode_mask(stored, self._palette), "path": name_mask_file(image.row["key"])},
            "class_ids": list(evidence.class_ids),
            "suggested_class_ids": list(evidence.suggested_class_ids),
            **evidence.compute_stats(),
        }
        if self._config.maps.keep_maps:
            row["class_maps"] = encode_class_maps(torch.from_numpy(evidence.grid_maps))
        return row


def _reject(row: dict[str, Any], reason: Reason, error: str) -> dict[str, Any]:
    return row | {"status": str(Status.REJECTED), "reason": str(reason), "error": error}


def _map_ahead(
    threads: ThreadPoolExecutor, function: Callable[[Item], Outcome], items: Iterable[Item], window: int
) -> Iterator[Outcome]:
    """Apply a function in threads, at most `window` items ahead of the consumer, in order."""
    pending: deque[Future[Outcome]] = deque()
    for item in items:
        pending.append(threads.submit(function, item))
        if len(pending) >= window:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _batch_by_shape(images: Iterable[ReadyImage], batch_size: int) -> Iterator[list[ReadyImage]]:
    """Gather images of one shape into batches. Which images share a batch depends on the chunk alone."""
    waiting: dict[tuple[int, ...], list[ReadyImage]] = defaultdict(list)
    num_pixels = 0
    for image in images:
        group = waiting[image.frame.shape]
        group.append(image)
        num_pixels += image.num_pixels
        if len(group) < batch_size and num_pixels < MAX_PENDING_PIXELS:
            continue
        if len(group) < batch_size:
            group = max(waiting.values(), key=lambda held: sum(item.num_pixels for item in held))
        batch = waiting.pop(group[0].frame.shape)
        num_pixels -= sum(item.num_pixels for item in batch)
        yield batch
    yield from waiting.values()
