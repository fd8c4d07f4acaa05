"""Photos with the masks of a labelling run, in memory and at one size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from pipeline.commit.manifests import list_manifests, open_manifest
from pipeline.images.decode import DecodedImage, decode_image
from pipeline.images.masks import decode_mask
from pipeline.images.orientation import turn_upright
from pipeline.inputs.chunks import read_chunks
from pipeline.run.records import Chunk, InputShard, Status
from pipeline.run.run_file import read_config, read_run

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
        ValueError: A shard does not hold the photo of a row any more.
    """
    inputs = read_config(labels_uri, read_run(labels_uri)).inputs
    for uri in list_manifests(labels_uri):
        manifest = open_manifest(uri)
        columns = ["key", "status", "quality", "exif_orientation", "class_ids", "mask"]
        rows = {row["key"]: row for row in manifest.iterate_rows(columns) if row["status"] == Status.LABELLED}
        for piece in read_chunks(InputShard(**manifest.footer["shard"]), inputs):
            for sample in piece.samples if isinstance(piece, Chunk) else ():
                row = rows.pop(sample.key, None)
                if row is None or sample.image is None:
                    continue
                photo = decode_image(sample.image, max_pixels=inputs.max_image_pixels)
                assert isinstance(photo, DecodedImage), "the run decoded it"
                mask = turn_upright(decode_mask(row["mask"]["bytes"]), row["exif_orientation"])
                ids = tuple(row["class_ids"])
                yield Pair(sample.key, row["quality"], ids, row["exif_orientation"], photo.image_rgb, mask)
        if rows:
            raise ValueError(f"'{uri}': the shard lacks the photos of {len(rows)} rows, such as '{next(iter(rows))}'")


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
