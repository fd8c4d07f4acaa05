"""Augmentation: a training image is decoded, cropped, mirrored and resized; a validation image is only resized.

The operations that vary it further are drawn here, with the same random generator, and applied by the training worker
to a batch at a time (`pipeline.training.worker.image_operations`). An image and its operations are a function of
(rng_seed, epoch, key) alone. PyTorch takes seconds to import. Only the processes that decode images import this module.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from pipeline.images.decode import ImageRejection, decode_image
from pipeline.images.frames import resize_planes
from pipeline.training.config import AugmentConfig, TrainConfig
from pipeline.training.data.epoch_order import VALIDATION
from pipeline.training.operations import NUM_JITTERS, RandAugment, draw_jitter
from pipeline.training.seeds import derive_seed

SAMPLE_COLUMNS = ("key", "epoch", "image", "class_ids")
"""Columns of the encoded samples."""

NARROWEST_CROP = 3 / 4
"""Smallest ratio of a crop's short side to its long side; timm's default."""
CROP_ATTEMPTS = 10

NUM_KEPT_SQUARES = 3
"""Squares of a long image that are resized at least, to take the one in the middle: a filter that shrinks an image sees
less than a square beside it."""
FILTER_MARGIN_PX = 3
"""Pixels that are resized beside them, for images so narrow that a filter sees more than their width."""

ReportRejection = Callable[[str, str], None]
"""Called with the key of a dropped sample and the reason."""


class CropBox(NamedTuple):
    """Part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class AugmentedImage(NamedTuple):
    """A cropped image, and the operations that a training worker applies to it."""

    image: UInt8[np.ndarray, "3 s s"]
    operations: Float32[np.ndarray, "l 2"]
    """An `Operation` and its argument, in the order in which they are applied."""


class Variation(NamedTuple):
    """How a decoded image becomes one of the network's size."""

    image_size: int
    """Side of the result, in pixels."""
    augment: AugmentConfig | None
    """Strength of the augmentation; None: a validation image."""
    min_short_side_px: int
    """Short side below which decoding must not reduce an image."""
    policy: RandAugment | None
    """None: colour jitter, unless its strength is 0."""

    @property
    def num_layers(self) -> int:
        """Operations that an image gets at most."""
        if self.policy:
            return self.policy.num_layers
        return NUM_JITTERS if self.augment and self.augment.color_jitter else 0

    def vary(self, image_rgb: UInt8[np.ndarray, "h w 3"], generator: np.random.Generator) -> AugmentedImage:
        """Crop, resize and mirror an image, and draw its operations; resize a validation image only."""
        if self.augment is None:
            return AugmentedImage(resize_to_square(image_rgb, self.image_size), self.draw_operations(generator))
        height, width = image_rgb.shape[:2]
        box = draw_crop(height, width, self.augment.min_crop_fraction, generator)
        crop = image_rgb[box.top : box.top + box.height, box.left : box.left + box.width]
        resized = resize_planes(crop, (self.image_size, self.image_size))
        if generator.random() < self.augment.flip:
            resized = resized[:, :, ::-1]
        return AugmentedImage(resized, self.draw_operations(generator))

    def draw_operations(self, generator: np.random.Generator) -> Float32[np.ndarray, "l 2"]:
        """Draw the operations of an image and their arguments."""
        if self.policy:
            return self.policy.draw(generator)
        if self.augment and self.augment.color_jitter:
            return draw_jitter(self.augment.color_jitter, generator)
        return np.zeros((0, 2), np.float32)


def make_variation(image_size: int, augment: AugmentConfig | None) -> Variation:
    """Prepare the augmentation, or the plain resize and centre crop when `augment` is None.

    Images are decoded at a size at which the smallest crop still has `image_size` pixels per side. Reduced to
    `image_size` before the crop, a quarter of a large photo would lose half of its detail.

    Args:
        image_size: Side of the result, in pixels.
        augment: Strength of the augmentation; None: a validation image.
    """
    if augment is None:
        return Variation(image_size, None, image_size, None)
    smallest = math.ceil(image_size / math.sqrt(augment.min_crop_fraction * NARROWEST_CROP))
    policy = RandAugment.parse(augment.rand_augment) if augment.rand_augment else None
    return Variation(image_size, augment, smallest, policy)


def draw_crop(height: int, width: int, min_fraction: float, generator: np.random.Generator) -> CropBox:
    """Draw a crop of random area, aspect and place; take the middle of an image in which no drawn size fits.

    Args:
        height: Of the image, in pixels.
        width: Likewise.
        min_fraction: Smallest fraction of the image's area.
        generator: Of the image.

    Source: Szegedy et al., CVPR 2015, with the distributions of timm's RandomResizedCropAndInterpolation.
    """
    for fraction, aspect, above, before in generator.random((CROP_ATTEMPTS, 4)).tolist():
        area = (min_fraction + fraction * (1 - min_fraction)) * height * width
        ratio = NARROWEST_CROP ** (1 - 2 * aspect)
        rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            return CropBox(int(above * (height - rows + 1)), int(before * (width - columns + 1)), rows, columns)
    rows, columns = min(height, round(width / NARROWEST_CROP)), min(width, round(height / NARROWEST_CROP))
    return CropBox((height - rows) // 2, (width - columns) // 2, rows, columns)


def resize_to_square(image_rgb: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "3 s s"]:
    """Resize an image until its short side fits, and take the square in its middle.

    Memory is bounded: far more than the square of a long image is not resized.
    """
    image_rgb = _take_middle(image_rgb)
    height, width = image_rgb.shape[:2]
    short = min(height, width)
    resized = resize_planes(image_rgb, (side * height // short, side * width // short))
    top, left = (round((length - side) / 2) for length in resized.shape[1:])
    return resized[:, top : top + side, left : left + side]


def _take_middle(image_rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "mid_h mid_w 3"]:
    """Cut off the ends of an image that is much longer than wide, as much at either end."""
    short = min(image_rgb.shape[:2])
    least = NUM_KEPT_SQUARES * short + 2 * FILTER_MARGIN_PX
    # Whole squares are cut off, so that the others keep their places in the resized image.
    top, left = (max(0, (length - least) // (2 * short)) * short for length in image_rgb.shape[:2])
    return image_rgb[top : len(image_rgb) - top, left : image_rgb.shape[1] - left]


def augment_image(
    payload: bytes, variation: Variation, rng_seed: int, max_pixels: int
) -> AugmentedImage | ImageRejection:
    """Decode and vary an image; equal arguments have equal results."""
    decoded = decode_image(payload, max_pixels=max_pixels, min_short_side_px=variation.min_short_side_px)
    if isinstance(decoded, ImageRejection):
        return decoded
    return variation.vary(decoded.image_rgb, np.random.default_rng(rng_seed))


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
        `key`; `image`, uint8 "n 3 s s"; `operations`, float32 "n l 2"; `image_labels`, bool "n c"; `is_valid`, bool
        "n". Pixels, operations and labels of an invalid row are zero.
    """
    size = config.model.image_size
    vary, resize = make_variation(size, config.augment), make_variation(size, None)
    samples = list(zip(*(batch.get(name, ()) for name in SAMPLE_COLUMNS), strict=True))
    rows = make_empty_rows([str(key) for key, *_ in samples], size, vary.num_layers, num_classes)
    for place, (key, epoch, payload, class_ids) in enumerate(samples):
        rng_seed = derive_seed(config.rng_seed, int(epoch), f"image/{key}")
        variation = resize if epoch == VALIDATION else vary
        found = augment_image(payload, variation, rng_seed, config.inputs.max_image_pixels)
        if isinstance(found, ImageRejection):
            on_rejection(str(key), f"{found.reason}: {found.error}")
            continue
        rows["image"][place] = found.image
        rows["operations"][place, : len(found.operations)] = found.operations
        rows["image_labels"][place] = np.isin(np.arange(1, num_classes + 1), class_ids)
        rows["is_valid"][place] = True
    return rows


def make_empty_rows(keys: list[str], image_size: int, num_layers: int, num_classes: int) -> dict[str, np.ndarray]:
    """Make invalid rows, with pixels, operations and labels of zero; Ray takes no column of width 0."""
    return {
        "key": np.array(keys, dtype=object),
        "image": np.zeros((len(keys), 3, image_size, image_size), np.uint8),
        "operations": np.zeros((len(keys), max(1, num_layers), 2), np.float32),
        "image_labels": np.zeros((len(keys), num_classes), bool),
        "is_valid": np.zeros(len(keys), bool),
    }
