"""Class maps of a published row at image size, from its kept maps and, with pixel refinement, its image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from pipeline.errors import ManifestError, ShardError
from pipeline.images.decode import ImageRejection, decode_image
from pipeline.images.drawing.grid_maps import GridMaps
from pipeline.images.frames import choose_shortest_side, fit_guide
from pipeline.images.masks import decode_class_maps
from pipeline.images.orientation import turn_size
from pipeline.images.pixel_maps import refine_maps
from pipeline.run.config import LabelConfig, PixelRefinement


def make_row_maps(
    row: Mapping[str, Any],
    image: bytes | None,
    config: LabelConfig,
    patch_size: int | None,
) -> GridMaps:
    """Make the class maps of a labelled row as labelling makes them, except for the rounding of kept maps.

    They are in [0, 1], before class scales.

    Args:
        row: With the columns of image size and kept maps.
        image: Encoded; needed if the configuration refines maps by pixels.
        config: Of the run.
        patch_size: Of the model, in pixels; also needed for pixel refinement, whose size depends on it.

    Raises:
        ManifestError: The row holds no maps of its classes.
        ShardError: The image does not have the size of this row.
    """
    require_row_maps(row)
    upright_size = measure_upright(row)
    grid = decode_class_maps(row["class_maps"])
    if config.maps.pixel_refinement == PixelRefinement.NONE:
        return GridMaps([grid], upright_size).scale_min_max()
    if image is None or patch_size is None:
        raise ValueError(f"maps.pixel_refinement {config.maps.pixel_refinement} needs image and patch_size, got None")
    # Copies, because tensors must not be read-only.
    guide = torch.from_numpy(_make_guide(row, image, config, patch_size).copy())[None]
    refined = refine_maps([torch.from_numpy(grid.copy())[None]], guide, config.maps.pixel_iterations)
    return GridMaps([refined[0].numpy()], upright_size)


def _make_guide(
    row: Mapping[str, Any], image: bytes, config: LabelConfig, patch_size: int
) -> UInt8[np.ndarray, "guide_h guide_w 3"]:
    """Decode an image and resize it for pixel refinement, as the labeler does."""
    shortest = choose_shortest_side(config, patch_size)
    # It was labelled, so it was within the limit of its run, which the row does not record.
    decoded = decode_image(image, max_pixels=row["height"] * row["width"], min_short_side_px=shortest)
    if isinstance(decoded, ImageRejection):
        raise ShardError(f"image of '{row['key']}' cannot be decoded as it was when it was labelled: {decoded.error}")
    said = (row["height"], row["width"], row["exif_orientation"])
    if (decoded.stored_height, decoded.stored_width, decoded.exif_orientation) != said:
        raise ShardError(f"image of '{row['key']}' has another size or orientation than when it was labelled")
    return fit_guide(decoded.image_rgb, config, patch_size)


def measure_upright(row: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of a row's image after it is turned upright."""
    return turn_size((row["height"], row["width"]), row["exif_orientation"])


def require_row_maps(row: Mapping[str, Any]) -> None:
    """Check that a labelled row holds the maps of its classes.

    Raises:
        ManifestError: It does not.
    """
    maps = row["class_maps"]
    if maps is None or len(maps["scales"]) != len(row["class_ids"]):
        held = "no class maps" if maps is None else f"{len(maps['scales'])} class maps"
        raise ManifestError(
            f"row '{row['key']}' has {held} for {len(row['class_ids'])} classes; label its shard again with "
            "--maps.keep-maps"
        )
