"""Photos with the masks of a labelling run, in memory and at one size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

import tagmask

SIDE_PX = 224
"""Sides of the photos and masks in memory; the aspect of a photo is not kept."""


class Pair(NamedTuple):
    """A photo and its mask, both upright."""

    key: str
    quality: float
    class_ids: tuple[int, ...]
    """Classes of its tags."""
    orientation: int
    """EXIF orientation of the photo."""
    image_rgb: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w"]


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Photos and masks at one size."""

    keys: list[str]
    qualities: Float[np.ndarray, " n"]
    class_ids: list[tuple[int, ...]]
    """Classes of the tags of each photo."""
    images_rgb: UInt8[np.ndarray, "n side side 3"]
    masks: UInt8[np.ndarray, "n side side"]

    def select(self, is_wanted: Bool[np.ndarray, " n"]) -> "Photos":
        """Select some of the photos."""
        return Photos(
            keys=[key for key, wanted in zip(self.keys, is_wanted, strict=True) if wanted],
            qualities=self.qualities[is_wanted],
            class_ids=[ids for ids, wanted in zip(self.class_ids, is_wanted, strict=True) if wanted],
            images_rgb=self.images_rgb[is_wanted],
            masks=self.masks[is_wanted],
        )


def iterate_pairs(labels_uri: str) -> Iterator[Pair]:
    """Iterate over the labelled images of a run.

    Raises:
        ShardError: A shard does not hold the photo of a row any more.
    """
    for image, mask, row in tagmask.open(labels_uri, columns=("quality", "class_ids")):
        assert row.quality is not None, "rows with a mask have a quality"
        ids = tuple(row.get("class_ids"))
        yield Pair(row.key, row.quality, ids, row.orientation, np.asarray(image), mask)


def read_photos(labels_uri: str) -> Photos:
    """Read the labelled images of a run, resized to `SIDE_PX`."""
    keys, qualities, class_ids, images, masks = [], [], [], [], []
    size = (SIDE_PX, SIDE_PX)
    for pair in iterate_pairs(labels_uri):
        keys.append(pair.key)
        qualities.append(pair.quality)
        class_ids.append(pair.class_ids)
        photo = Image.fromarray(pair.image_rgb)
        images.append(np.asarray(photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=3)))
        masks.append(shrink_mask(pair.mask))
    return Photos(
        keys=keys,
        qualities=np.array(qualities, float),
        class_ids=class_ids,
        images_rgb=np.stack(images),
        masks=np.stack(masks),
    )


def shrink_mask(mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "side side"]:
    """Resize a mask to `SIDE_PX` by its nearest pixels."""
    return np.asarray(Image.fromarray(mask).resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST))
