"""What a model found in one image, on the host, and how it travels from the device: packed, in one copy a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.images.drawing.grid_maps import GridMaps


@dataclass(frozen=True, kw_only=True)
class ImageEvidence:
    """What was found in one image. k is the number of its classes."""

    class_ids: tuple[int, ...]
    """Tagged classes, then suggested ones if they are drawn."""
    upright_size: tuple[int, int]
    """Height and width in pixels."""
    grids: tuple[Float[np.ndarray, "k _ _"] | Int[np.ndarray, "k _ _"], ...]
    """Class maps on patch grids, to be summed at image size and scaled; or maps in [0, 1] that pixels refined, of a GPU
    as integers (`to_fixed_point`), which reach other processes with half the bytes."""
    is_refined: bool
    """Whether pixels refined the maps."""
    grid_maps: Float[np.ndarray, "k gh gw"]
    """Maps on the patch grid of the first view, mean over views, before min-max."""
    presence: Float[np.ndarray, " k"]
    """Probability of each class, mean over views."""
    presence_std: Float[np.ndarray, " k"]
    view_agreement: Sequence[float | None]
    head_agreement: Sequence[float | None]
    suggested_class_ids: tuple[int, ...]
    is_finite: bool
    """False: the model returned NaN or infinite values in a view, and all other fields are meaningless."""

    def scale_maps(self) -> GridMaps:
        """Class maps in [0, 1], before class scales."""
        grids = [from_fixed_point(grid) if grid.dtype == np.int16 else grid for grid in self.grids]
        maps = GridMaps(grids, self.upright_size)
        return maps if self.is_refined else maps.scale_min_max()

    def list_classes(self) -> list[dict[str, Any]]:
        """Columns of each class that do not depend on the mask."""
        return [
            {
                "class_id": class_id,
                "presence": float(self.presence[index]),
                "presence_std": float(self.presence_std[index]),
                "raw_peak": float(self.grid_maps[index].max()),
                "view_agreement": self.view_agreement[index],
                "head_agreement": self.head_agreement[index],
            }
            for index, class_id in enumerate(self.class_ids)
        ]


class Packed:
    """Named tensors of a batch as one, so that they reach the host in one copy."""

    def __init__(self, tensors: Mapping[str, Float[Tensor, "b ..."]]) -> None:
        """Join the tensors, which have the images of the batch first."""
        self._shapes = {name: tuple(values.shape[1:]) for name, values in tensors.items()}
        self.values = torch.cat([values.float().flatten(1) for values in tensors.values()], 1)

    def unpack(self, values: Float[np.ndarray, "b n"]) -> dict[str, Float[np.ndarray, "b ..."]]:
        """Split a copy of `values` into arrays of the names and shapes of the tensors, as views."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self._shapes.values()])
        parts = np.split(values, ends[:-1], axis=1)
        named = zip(self._shapes.items(), parts, strict=True)
        return {name: part.reshape(len(values), *shape) for (name, shape), part in named}


def to_fixed_point(maps: Float[Tensor, "b k h w"]) -> Int[Tensor, "b k h w"]:
    """Maps in [0, 1] as integers of 16 bits: half the bytes of a float, and 30 times as exact as one of 16 bits."""
    return (maps.clamp(0, 1) * 65535 - 32768).round().to(torch.int16)


def from_fixed_point(values: Int[np.ndarray, "k h w"]) -> Float[np.ndarray, "k h w"]:
    """Maps in [0, 1] from the integers of `to_fixed_point`."""
    return (values.astype(np.float32) + 32768) / 65535
