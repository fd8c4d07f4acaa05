"""Samples as tensors of one size."""

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from pipeline.library.samples import MaskSample


class ToTensors:
    """A transform that makes tensors of a size of image and mask, as training in batches needs."""

    def __init__(self, size: int | tuple[int, int]) -> None:
        """Set the size.

        Args:
            size: Height and width in pixels, or one number for both; the aspect of a photo is not kept.

        Raises:
            ValueError: A side has no pixel.
        """
        self.height, self.width = (size, size) if isinstance(size, int) else size
        if self.height < 1 or self.width < 1:
            raise ValueError(f"need a size of at least one pixel, got {size}")

    def __call__(self, sample: MaskSample) -> tuple[Float[Tensor, "3 h w"], Int[Tensor, "h w"]]:
        """Image in [0, 1], resized bilinearly; mask as int64, resized to its nearest pixels."""
        size = (self.width, self.height)
        pixels = np.asarray(sample.image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3), np.float32)
        mask = np.asarray(Image.fromarray(sample.mask).resize(size, Image.Resampling.NEAREST), np.int64)
        return torch.from_numpy(pixels.transpose(2, 0, 1) / 255), torch.from_numpy(mask.copy())

    def __repr__(self) -> str:
        """Name and size."""
        return f"ToTensors(({self.height}, {self.width}))"
