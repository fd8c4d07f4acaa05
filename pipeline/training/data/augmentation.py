"""Augmentation: a training image is decoded, cropped, mirrored, its colours varied; a validation image is only resized.

PyTorch and timm take seconds to import. Only the processes that decode images import this module.
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
"""Columns of the encoded samples."""

NARROWEST_CROP = 3 / 4
"""Smallest ratio of a crop's short side to its long side; timm's default."""

ReportRejection = Callable[[str, str], None]
"""Called with the key of a dropped sample and the reason."""


class Variation(NamedTuple):
    """Transform of a decoded image, and the size that it needs."""

    transform: Callable[[Image.Image], UInt8[np.ndarray, "3 s s"]]
    min_short_side_px: int
    """Short side below which decoding must not reduce an image."""


def make_variation(image_size: int, augment: AugmentConfig | None) -> Variation:
    """Build timm's training transform, or its plain resize and centre crop when `augment` is None.

    Both return uint8; the trainer normalises and erases. Images are decoded at a size at which the smallest crop still
    has `image_size` pixels per side. Reduced to `image_size` before the crop, a quarter of a large photo would lose
    half of its detail.

    Args:
        image_size: Side of the result, in pixels.
        augment: Strength of the augmentation; None: a validation image.
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
    """Decode and transform an image; equal arguments have equal results.

    Seeds the random generators of the whole process: `random`, NumPy and PyTorch.
    """
    decoded = decode_image(payload, max_pixels=max_pixels, min_short_side_px=variation.min_short_side_px)
    if isinstance(decoded, ImageRejection):
        return decoded
    # timm uses all three generators; augmentation runs in a process of its own.
    random.seed(rng_seed)
    np.random.seed(rng_seed)
    torch.manual_seed(rng_seed)
    return np.asarray(variation.transform(Image.fromarray(decoded.image_rgb)))


def augment_samples(
    batch: dict[str, np.ndarray], config: TrainConfig, num_classes: int, on_rejection: ReportRejection
) -> dict[str, np.ndarray]:
    """Turn encoded samples into training images, in order; an image that cannot be decoded becomes an invalid row.

    Samples of the epoch VALIDATION are only resized, all others augmented.

    Args:
        batch: Columns `SAMPLE_COLUMNS`.
        config: Of the run.
        num_classes: Of the vocabulary.
        on_rejection: Called for each image that cannot be decoded.

    Returns:
        `key`; `image`, uint8 "n 3 s s"; `image_labels`, bool "n c"; `is_valid`, bool "n". Pixels and labels of an
        invalid row are zero.
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
