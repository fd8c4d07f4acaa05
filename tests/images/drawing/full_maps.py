"""Masks and statistics from class maps at image size, in torch: the definitions, written without regard to speed."""

from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

IGNORED = 255


def draw_all(maps: Any) -> np.ndarray:
    """Values of maps at all pixels, from their tiles."""
    values = np.full((maps.num_classes, *maps.size), np.nan, np.float32)
    for (rows, columns), tile in maps.iterate_tiles():
        assert np.isnan(values[:, rows, columns]).all()
        values[:, rows, columns] = tile
    return values


def enlarge(grids: Any, size: tuple[int, int]) -> torch.Tensor:
    """Sum grids, each resized to the image, in float64."""
    parts = [
        functional.interpolate(torch.from_numpy(np.asarray(grid, np.float64))[None], size=size, mode="bilinear")[0]
        for grid in grids
    ]
    return torch.stack(parts).sum(0)


def scale_min_max(maps: torch.Tensor) -> torch.Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    spread = high - low
    return torch.where(spread > 1e-6 * torch.maximum(low.abs(), high.abs()), (maps - low) / spread, torch.zeros(()))


def label(maps: torch.Tensor, ids: Any, low: float, high: float, has_background: bool = True) -> np.ndarray:
    """Label one pixel after the other."""
    mask = np.zeros(maps.shape[1:], np.uint8)
    for row, column in np.ndindex(*mask.shape):
        values = maps[:, row, column].tolist()
        if not values:
            continue
        best = max(values)
        winner = min(number for number, value in zip(ids, values, strict=True) if value == best)
        ignored = 0 if best <= low else winner if best > high else IGNORED
        mask[row, column] = ignored if has_background else winner
    return mask


def measure(
    maps: torch.Tensor, mask: np.ndarray, ids: Any, low: float, high: float, sample: Any = ()
) -> dict[str, Any]:
    """Statistics with background; `sample` selects the pixels of those measures that are not exact."""
    sampled_mask = mask[sample]
    sampled = maps[(slice(None), *sample)]
    contenders = torch.cat([sampled, torch.full((1, *sampled_mask.shape), (low + high) / 2, dtype=maps.dtype)])
    best = contenders.sort(0, descending=True).values
    shares = contenders / contenders.sum(0).clamp_min(1e-30)
    return {
        "ignore_fraction": (mask == IGNORED).mean(),
        "background_fraction": (mask == 0).mean(),
        "margin_mean": float((best[0] - best[1]).mean()),
        "entropy_mean": float(torch.special.entr(shares).sum(0).mean() / np.log(len(contenders))),
        "classes": [
            {
                "area_fraction": (mask == number).mean(),
                "confidence_mean": float(one[torch.from_numpy(mask == number)].mean())
                if (mask == number).any()
                else None,
                "stability": _divide(int((few > high + 0.1).sum()), int((few > high - 0.1).sum())),
                "components": ndimage.label(sampled_mask == number, np.ones((3, 3)))[1],
            }
            for number, one, few in zip(ids, maps, sampled, strict=True)
        ],
    }


def _divide(above: int, below: int) -> float | None:
    return above / below if below else None
