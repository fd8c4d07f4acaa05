"""Pictures of a labelled image: photo, class maps, mask and truth."""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from pipeline.commit.manifests import Manifest
from pipeline.errors import ShardError, TruthError
from pipeline.evaluation.truth import FindTruth, decode_truth
from pipeline.evaluation.truth_frames import TruthFrame
from pipeline.images.decode import DecodedImage, decode_image
from pipeline.images.masks import decode_class_maps, decode_mask
from pipeline.images.orientation import turn_upright
from pipeline.images.pixel_maps import resize_maps
from pipeline.inputs.chunks import read_chunks
from pipeline.reports.page import Example, Picture
from pipeline.run.config import InputConfig
from pipeline.run.records import IGNORE_LABEL, Chunk, InputShard
from pipeline.run.vocabulary import Vocabulary

MAX_SIDE_PX = 280
"""Longer side of a picture."""


_HEAT = np.array([[20, 11, 53], [133, 33, 107], [229, 92, 48], [252, 195, 45], [252, 255, 164]], np.float32)
"""Colours of a class map from 0 to 1, in equal steps."""


def make_examples(
    manifest: Manifest,
    rows: Sequence[dict[str, Any]],
    inputs: InputConfig,
    vocabulary: Vocabulary,
    palette: UInt8[np.ndarray, "256 3"],
    find_truth: FindTruth | None,
    frame: TruthFrame = TruthFrame.AUTO,
) -> list[Example]:
    """Make the pictures of some labelled rows of a manifest: photo, class maps, mask, and truth if there is one.

    Args:
        manifest: Of the rows.
        rows: Labelled, with all columns.
        inputs: How the run read its shards.
        vocabulary: Of the run.
        palette: Of the masks.
        find_truth: From key to encoded true mask, or None.
        frame: Of the true masks.

    Raises:
        TruthFrameError: A true mask fits its image in both frames, and nothing tells in which it is.
    """
    photos = _read_photos(manifest, {row["key"]: row["image_sha256"] for row in rows}, inputs)
    return [_make_example(row, photos.get(row["key"]), vocabulary, palette, find_truth, frame) for row in rows]


def _read_photos(manifest: Manifest, digests: Mapping[str, str], inputs: InputConfig) -> dict[str, DecodedImage]:
    """Read photos from the input shard, by key, without those that are gone or have changed.

    Args:
        manifest: Of the shard.
        digests: SHA-256 of the labelled photo of each wanted key.
        inputs: How the run read its shards.
    """
    photos: dict[str, DecodedImage] = {}
    try:
        for piece in read_chunks(InputShard(**manifest.footer["shard"]), inputs):
            for sample in piece.samples if isinstance(piece, Chunk) else ():
                if sample.image is None or sample.key not in digests or sample.key in photos:
                    continue
                if hashlib.sha256(sample.image).hexdigest() == digests[sample.key]:
                    # The run labelled this image, so it passed the limit of the run.
                    image = decode_image(sample.image, max_pixels=2**31, min_short_side_px=MAX_SIDE_PX)
                    if isinstance(image, DecodedImage):
                        photos[sample.key] = image
            if len(photos) == len(digests):
                break
    except (ShardError, FileNotFoundError):
        return photos
    return photos


def _make_example(
    row: Mapping[str, Any],
    photo: DecodedImage | None,
    vocabulary: Vocabulary,
    palette: UInt8[np.ndarray, "256 3"],
    find_truth: FindTruth | None,
    frame: TruthFrame,
) -> Example:
    orientation = row["exif_orientation"]
    stored = decode_mask(row["mask"]["bytes"])
    mask = turn_upright(stored, orientation)
    size = _fit_size(mask.shape)
    grey = np.full((*size, 3), 128, np.uint8)
    rgb = grey if photo is None else np.asarray(Image.fromarray(photo.image_rgb).resize(size[::-1]))
    pictures = [] if photo is None else [_embed_picture("photo", rgb)]
    names = [vocabulary.classes[class_id - 1] for class_id in row["class_ids"]]
    if row["class_maps"] is not None:
        for name, class_map in zip(names, _enlarge_maps(decode_class_maps(row["class_maps"]), size), strict=True):
            pictures.append(_embed_picture(f"map: {name}", _colour_map(rgb, class_map)))
    pictures.append(_embed_picture("mask", _overlay_mask(rgb, _resize_mask(mask, size), palette)))
    note = "the input shard is gone or has changed: no photo" if photo is None else ""
    if find_truth is not None:
        try:
            payload = find_truth(row["key"])
            if payload is not None:
                truth = decode_truth(payload, row["key"], stored.shape, len(vocabulary.classes), orientation, frame)
                upright = turn_upright(truth, orientation)
                pictures.append(_embed_picture("truth", _overlay_mask(rgb, _resize_mask(upright, size), palette)))
                note = f"{note} mean IoU with the truth {_compute_mean_iou(mask, upright):.2f}"
        except TruthError as error:
            note = f"{note} {error}"
    unknown = row["tags_unknown"]
    tags = ", ".join(names) + (f" (unknown: {', '.join(unknown)})" if unknown else "")
    return Example(key=row["key"], tags=tags, note=note.strip(), pictures=tuple(pictures))


def _compute_mean_iou(mask: UInt8[np.ndarray, "h w"], truth: UInt8[np.ndarray, "h w"]) -> float:
    counted = truth != IGNORE_LABEL
    overlaps = []
    for value in np.union1d(np.unique(mask[counted]), np.unique(truth[counted])):
        either = ((mask == value) | (truth == value)) & counted
        overlaps.append(((mask == value) & (truth == value) & counted).sum() / either.sum())
    return float(np.mean(overlaps)) if overlaps else float("nan")


def _fit_size(shape: tuple[int, ...]) -> tuple[int, int]:
    factor = MAX_SIDE_PX / max(shape)
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def _resize_mask(mask: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "new_h new_w"]:
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def _enlarge_maps(maps: Float[np.ndarray, "k gh gw"], size: tuple[int, int]) -> Float[np.ndarray, "k h w"]:
    return resize_maps(torch.from_numpy(np.array(maps))[None], size)[0].numpy()


def _colour_map(rgb: UInt8[np.ndarray, "h w 3"], class_map: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    steps = np.linspace(0, 1, len(_HEAT))
    colored = np.stack([np.interp(class_map, steps, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    return (0.35 * rgb.mean(-1, keepdims=True) + 0.65 * colored).clip(0, 255).astype(np.uint8)


def _overlay_mask(
    rgb: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"], palette: UInt8[np.ndarray, "256 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    colored = np.where((mask == 0)[..., None], rgb * 0.55, 0.4 * rgb + 0.6 * palette[mask])
    return colored.clip(0, 255).astype(np.uint8)


def _embed_picture(caption: str, rgb: UInt8[np.ndarray, "h w 3"]) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "JPEG", quality=82)
    return Picture(caption=caption, source=f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}")
