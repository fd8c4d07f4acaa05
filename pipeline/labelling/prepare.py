"""A sample before the device: checked, decoded, at the size at which the model sees it."""

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from pipeline.images.decode import DecodedImage, ImageRejection, decode_image
from pipeline.images.frames import choose_shortest_side, fit_frame, fit_guide
from pipeline.images.orientation import turn_size
from pipeline.run.config import LabelConfig, PixelRefinement
from pipeline.run.records import Reason, Sample, Status, TagEdit
from pipeline.run.vocabulary import MatchedTags, Vocabulary


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


class SamplePreparer:
    """Prepares samples; without state, so that threads and processes may share it."""

    def __init__(self, *, config: LabelConfig, vocabulary: Vocabulary, patch_size: int) -> None:
        """Keep the settings.

        Args:
            config: Settled (`config.settle_config`).
            vocabulary: Of the run.
            patch_size: Of the model, in pixels.
        """
        self._config = config
        self._vocabulary = vocabulary
        self._patch_size = patch_size

    def prepare(self, position: int, sample: Sample) -> ReadyImage | RejectedSample:
        """Check and decode a sample, whose place in the chunk is `position`."""
        row: dict[str, Any] = {"key": sample.key, **sample.locate_image()}
        if sample.dotted_name_error:
            return RejectedSample(position, reject(row, Reason.DOTTED_NAME, sample.dotted_name_error))
        if sample.download_error:
            return RejectedSample(position, reject(row, Reason.DOWNLOAD_FAILED, sample.download_error))
        if sample.image_error:
            return RejectedSample(
                position, reject(row, Reason(sample.image_reason or Reason.TOO_LARGE), sample.image_error)
            )
        if sample.image is None:
            return RejectedSample(
                position, reject(row, Reason.NO_IMAGE, sample.no_image_error or "the image is missing")
            )
        row["image_sha256"] = hashlib.sha256(sample.image).hexdigest()
        # Classes that a reviewer added need no tags.
        edit = TagEdit(removed=frozenset(sample.removed_class_ids), added=frozenset(sample.added_class_ids))
        if not sample.has_tags_row and not edit.added:
            error = "the tags table has no row with this key"
            return RejectedSample(position, reject(row, Reason.NOT_IN_TAGS_TABLE, error))
        if sample.tags_error and not edit.added:
            return RejectedSample(position, reject(row, Reason.BAD_TAGS, sample.tags_error))
        matched = self._vocabulary.match(
            sample.tags, sample.class_numbers, first_number=self._config.inputs.first_class_number
        )
        class_ids = edit.apply(matched.class_ids)
        row |= {"tags_unknown": list(matched.unknown), "class_ids": list(class_ids)}
        if not class_ids:
            return RejectedSample(position, reject(row, Reason.NO_KNOWN_TAG, _explain_no_class(sample, matched)))
        image = self._decode(sample.image)
        if isinstance(image, ImageRejection):
            return RejectedSample(position, reject(row, image.reason, image.error))
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
            class_ids=class_ids,
            row=row,
        )

    def _decode(self, payload: bytes | memoryview) -> DecodedImage | ImageRejection:
        return decode_image(
            payload,
            max_pixels=self._config.inputs.max_image_pixels,
            min_short_side_px=choose_shortest_side(self._config, self._patch_size),
        )


def _explain_no_class(sample: Sample, matched: MatchedTags) -> str:
    if matched.class_ids:
        return "a reviewer took away all classes that its tags name"
    has_tags = sample.tags or sample.class_numbers
    return "none of its tags is in the vocabulary" if has_tags else sample.no_tags_error or "no tags"


def reject(row: dict[str, Any], reason: Reason, error: str) -> dict[str, Any]:
    """Make a rejected row of what is known about a sample."""
    return row | {"status": str(Status.REJECTED), "reason": str(reason), "error": error}
