"""A photo that was labelled in this process: its mask, class maps and statistics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from pipeline.errors import LabellingError
from pipeline.images.decode import ImageRejection, decode_image
from pipeline.images.masks import decode_class_maps
from pipeline.library.overlays import draw_overlay, encode_png
from pipeline.published.rows import MaskRow


@dataclass(frozen=True, eq=False)
class LabelledPhoto:
    """A photo with its mask, or with the reason why it was rejected."""

    row: MaskRow
    """All columns that a labelling run writes for the photo."""
    encoded_image: bytes = field(repr=False)
    """The image as it was labelled."""
    palette: UInt8[np.ndarray, "256 3"] = field(repr=False)
    """RGB of each mask value."""
    advice: str = field(repr=False)
    """What to do about a rejection; empty if there is none."""
    max_image_pixels: int = field(repr=False)

    @property
    def status(self) -> str:
        """Either labelled or rejected."""
        return str(self.row.get("status"))

    @property
    def is_labelled(self) -> bool:
        """Whether there is a mask."""
        return self.row.is_labelled

    @property
    def reason(self) -> str | None:
        """Why the photo was rejected, one of `Reason`; None if it was not."""
        found: str | None = self.row.get("reason")
        return found

    @property
    def error(self) -> str | None:
        """The reason in words, and what to do; None if the photo was not rejected."""
        found: str | None = self.row.get("error")
        return found if found is None or not self.advice else f"{found}; {self.advice}"

    @cached_property
    def mask(self) -> UInt8[np.ndarray, "h w"]:
        """Mask on the stored pixels of the image, before its EXIF orientation: 0 background, 255 ignored.

        `class_names` of the labeler names the values.

        Raises:
            LabellingError: The photo was rejected.
        """
        self._require_mask()
        return self.row.mask()

    @cached_property
    def upright_mask(self) -> UInt8[np.ndarray, "upright_h upright_w"]:
        """Mask on the pixels of `image`: turned by the EXIF orientation as a viewer turns the photo.

        Raises:
            LabellingError: The photo was rejected.
        """
        self._require_mask()
        return self.row.upright_mask()

    @cached_property
    def image(self) -> Image.Image:
        """The photo upright, in RGB.

        Raises:
            LabellingError: It cannot be decoded.
        """
        found = decode_image(self.encoded_image, max_pixels=self.max_image_pixels)
        if isinstance(found, ImageRejection):
            raise LabellingError(f"photo '{self.row.key}' cannot be shown: {found.error}")
        return Image.fromarray(found.image_rgb)

    @property
    def quality(self) -> float | None:
        """Predicted quality of the mask, 0 to 1; None for a rejected photo."""
        return self.row.quality

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes that the tags name, and suggested ones if they are drawn."""
        return self.row.class_names

    @property
    def unknown_tags(self) -> tuple[str, ...]:
        """Tags that name no class, as written."""
        return tuple(self.row.get("tags_unknown") or ())

    @property
    def suggested_class_names(self) -> tuple[str, ...]:
        """Classes that the model finds likely and that no tag names."""
        return self._name(self.row.get("suggested_class_ids"))

    @property
    def doubtful_class_names(self) -> tuple[str, ...]:
        """Classes that a tag names and the model does not find."""
        return self._name(self.row.get("doubtful_class_ids"))

    @property
    def statistics(self) -> dict[str, dict[str, Any]]:
        """Figures of each class by its name: presence, area_fraction, confidence_mean and the others of a row."""
        return {self.row.names[one["class_id"]]: dict(one) for one in self.row.get("classes") or ()}

    @cached_property
    def class_maps(self) -> Mapping[str, Float[np.ndarray, "gh gw"]]:
        """Class map of each class by its name, in [0, 1], on the patch grid of the upright image.

        Values are those that a run keeps: steps of 1/255. Resize them bilinearly to `image`.

        Raises:
            LabellingError: The photo was rejected.
        """
        self._require_mask()
        return dict(zip(self.class_names, decode_class_maps(self.row.get("class_maps")), strict=True))

    def _name(self, class_ids: list[int] | None) -> tuple[str, ...]:
        return tuple(self.row.names[class_id] for class_id in class_ids or ())

    def _require_mask(self) -> None:
        if not self.is_labelled:
            raise LabellingError(f"photo '{self.row.key}' has no mask: it was rejected ({self.reason}): {self.error}")

    def _repr_png_(self) -> bytes | None:
        """Picture for notebooks: the photo with the mask over it; the photo alone if it was rejected."""
        try:
            image = self.image
        except LabellingError:
            return None
        return encode_png(draw_overlay(image, self.upright_mask, self.palette) if self.is_labelled else image)

    def __repr__(self) -> str:
        """Key, classes and quality, or the reason of the rejection."""
        if self.is_labelled:
            classes = ", ".join(self.class_names)
            return f"<LabelledPhoto {self.row.key!r}: {classes}, quality {self.quality or 0:.2f}>"
        return f"<LabelledPhoto {self.row.key!r}: rejected, {self.reason}: {self.error}>"
