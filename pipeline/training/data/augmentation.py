"""What a training image looks like: decoded, cropped, mirrored, its colours varied; or plainly resized to validate.

A module of its own, as it imports PyTorch and timm, which takes seconds and only the processes that decode need.
"""

import math
import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from timm.data import create_transform

from pipeline.images.decode import ImageRejection, decode_image
from pipeline.training.config import AugmentConfig, TrainConfig
from pipeline.training.data.epoch_order import VALIDATION
from pipeline.training.seeds import derive_seed

SAMPLE_COLUMNS = ("key", "epoch", "image", "class_ids")
"""Of the encoded samples that come in."""

NARROWEST_CROP = 3 / 4
"""Short side of a crop by its long side, at the least: what timm's crops have by default."""

ReportRejection = Callable[[str, str], None]
"""Called with the key of a sample that had to be dropped, and why."""


class Variation(NamedTuple):
    """How a decoded image becomes one that is trained on or validated."""

    transform: Callable[[Image.Image], UInt8[np.ndarray, "3 s s"]]
    min_short_side_px: int
    """How far a large image may be reduced while it is decoded, as `transform` needs no more of it."""


def make_variation(image_size: int, augment: AugmentConfig | None) -> Variation:
    """Build timm's training transform, or its plain resize and centre crop when `augment` is None.

    Both give uint8; normalising and erasing are left to the trainer. An image is decoded so large that the smallest
    crop has a pixel for each one of the result: reduced to `image_size` first, a crop of a quarter of a large photo
    would have half of its detail.
    """
    if augment is None:
        resize = create_transform(
            image_size, is_training=False, interpolation="bicubic", crop_pct=1.0, use_prefetcher=True
        )
        return Variation(resize, image_size)
    vary = create_transform(
        image_size,
        is_training=True,
        scale=(augment.min_crop_fraction, 1.0),
        ratio=(NARROWEST_CROP, 1 / NARROWEST_CROP),
        hflip=augment.flip,
        color_jitter=augment.color_jitter,
        auto_augment=augment.rand_augment or None,
        interpolation="bicubic",
        re_prob=0.0,
        use_prefetcher=True,
    )
    return Variation(vary, math.ceil(image_size / math.sqrt(augment.min_crop_fraction * NARROWEST_CROP)))


def augment_image(
    payload: bytes, variation: Variation, rng_seed: int, max_pixels: int
) -> UInt8[np.ndarray, "3 s s"] | ImageRejection:
    """Decode an image and vary it. The same arguments give the same pixels."""
    decoded = decode_image(payload, max_pixels=max_pixels, min_short_side_px=variation.min_short_side_px)
    if isinstance(decoded, ImageRejection):
        return decoded
    # timm draws from all three; this runs in a process of its own.
    random.seed(rng_seed)
    np.random.seed(rng_seed)
    torch.manual_seed(rng_seed)
    return np.asarray(variation.transform(Image.fromarray(decoded.image_rgb)))


def augment_samples(
    batch: dict[str, np.ndarray], config: TrainConfig, num_classes: int, on_rejection: ReportRejection
) -> dict[str, np.ndarray]:
    """Turn encoded samples into training images; what cannot be decoded is reported and keeps its place.

    Samples of the epoch VALIDATION are plainly resized, all others varied.

    Returns:
        `key`; `image`, uint8 "n 3 s s"; `image_labels`, bool "n c"; `is_valid`, bool "n": False where there is no
        image, and pixels and labels are zero.
    """
    size = config.model.image_size
    vary, resize = make_variation(size, config.augment), make_variation(size, None)
    samples = list(zip(*(batch.get(name, ()) for name in SAMPLE_COLUMNS), strict=True))
    images = np.zeros((len(samples), 3, size, size), np.uint8)
    labels = np.zeros((len(samples), num_classes), bool)
    is_valid = np.zeros(len(samples), bool)
    for place, (key, epoch, payload, class_ids) in enumerate(samples):
        rng_seed = derive_seed(config.rng_seed, int(epoch), f"image/{key}")
        variation = resize if epoch == VALIDATION else vary
        image = augment_image(payload, variation, rng_seed, config.inputs.max_image_pixels)
        if isinstance(image, ImageRejection):
            on_rejection(str(key), f"{image.reason}: {image.error}")
            continue
        images[place] = image
        labels[place] = np.isin(np.arange(1, num_classes + 1), class_ids)
        is_valid[place] = True
    keys = np.array([str(key) for key, *_ in samples], dtype=object)
    return {"key": keys, "image": images, "image_labels": labels, "is_valid": is_valid}
