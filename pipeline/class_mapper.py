"""From a batch of images of one shape to the class maps and the mask of each: the work on the device.

views -> model -> class-to-patch attention, patch CAM -> refined by affinity -> views joined -> mask
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from models.bundle import ModelBundle
from models.class_maps import Evidence, compute_evidence, refine_class_maps, scale_min_max
from models.mctformer import MCTformer, MCTformerOutput
from pipeline.config import LabelConfig, MapKind, Resolution
from pipeline.masks import label_pixels
from pipeline.pixel_maps import enlarge_maps, enlarge_mask, resize_maps, take_class_scales
from pipeline.stats import (
    compute_head_agreement,
    compute_mask_stats,
    compute_presence,
    compute_view_agreement,
    join_mask_stats,
)
from pipeline.views import View, list_views, make_view, return_to_frame


class _ViewMaps(NamedTuple):
    """What one view says, on its own patch grid but turned back; k is the number of requested classes."""

    maps: Float[Tensor, "b k gh gw"]
    attention: Float[Tensor, "b k gh gw"]
    patch_cam: Float[Tensor, "b k gh gw"] | None
    class_logits: Float[Tensor, "b c"]


@dataclass(frozen=True, kw_only=True)
class ImageEvidence:
    """What was found in one image, on the CPU. k is the number of its tagged classes."""

    class_ids: tuple[int, ...]
    upright_size: tuple[int, int]
    pixel_maps: Float[Tensor, "k h w"]
    """Class maps in [0, 1] at image size, or smaller where that exceeds `pixel_maps.MAX_MAP_PIXELS`."""
    mask: UInt8[Tensor, "h w"]
    """Pseudo label, as large as `pixel_maps`."""
    thresholds: tuple[float, float]
    """Background and foreground threshold that made the mask."""
    has_background: bool
    """False: every pixel of the mask has a class."""
    grid_maps: Float[np.ndarray, "k gh gw"]
    """Refined maps on the patch grid, mean over views, before min-max."""
    presence: Float[np.ndarray, " k"]
    presence_std: Float[np.ndarray, " k"]
    view_agreement: list[float | None]
    head_agreement: list[float | None]
    suggested_class_ids: tuple[int, ...]

    def enlarge_mask(self) -> UInt8[np.ndarray, "h w"]:
        """Give the pseudo label at the size of the upright image."""
        return enlarge_mask(self.mask, self.upright_size)

    def compute_stats(self) -> dict[str, Any]:
        """Give the statistics columns of this image's row."""
        mask_stats = compute_mask_stats(
            self.pixel_maps, self.mask, self.class_ids, *self.thresholds, has_background=self.has_background
        )
        classes = [
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
        return join_mask_stats(classes, mask_stats)


class ClassMapper:
    """Finds the tagged classes in images of one shape."""

    def __init__(
        self, *, model: MCTformer, bundle: ModelBundle, config: LabelConfig, device: torch.device, use_bf16: bool
    ) -> None:
        """Take a model that is on `device` and in evaluation mode."""
        self._model = model
        self._config = config
        self._device = device
        self._use_bf16 = use_bf16
        self._mean = torch.tensor(bundle.input_mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(bundle.input_std, device=device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def find(
        self,
        frames: UInt8[np.ndarray, "b h w 3"],
        class_ids: Sequence[tuple[int, ...]],
        upright_sizes: Sequence[tuple[int, int]],
    ) -> list[ImageEvidence]:
        """Find the given classes in each image.

        Args:
            frames: Upright images at the size at which the model sees them, RGB.
            class_ids: Classes of each image, from 1; at least one each.
            upright_sizes: Height and width of each image before scaling; its mask gets this size.
        """
        images = torch.from_numpy(frames).to(self._device, non_blocking=True).permute(0, 3, 1, 2)
        images = (images.float() / 255 - self._mean) / self._std
        class_index = self._pad(class_ids)
        seen = [self._look(images, view, class_index) for view in list_views(self._config.views)]
        return [
            self._conclude([_take(view, row, len(ids)) for view in seen], ids, size)
            for row, (ids, size) in enumerate(zip(class_ids, upright_sizes, strict=True))
        ]

    def _pad(self, class_ids: Sequence[tuple[int, ...]]) -> Int[Tensor, "b k"]:
        """Index the classes of each image from 0, repeating the first one where others have more."""
        most = max(len(ids) for ids in class_ids)
        padded = [[*ids, *[ids[0]] * (most - len(ids))] for ids in class_ids]
        return torch.tensor(padded, device=self._device) - 1

    def _look(self, images: Float[Tensor, "b 3 h w"], view: View, class_index: Int[Tensor, "b k"]) -> _ViewMaps:
        snap = self._config.views.resolution == Resolution.BUCKETS
        pixels = make_view(images, view, self._model.config.patch_size, snap_to_patches=snap)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._use_bf16):
            output = self._model(pixels)
        evidence = compute_evidence(
            output, self._model.config.variant, class_index, num_layers=self._config.maps.num_attention_layers
        )
        maps = self._choose(evidence)
        if self._config.maps.refine:
            maps = refine_class_maps(output, maps)
        return _turn_back(view, maps, evidence, output)

    def _choose(self, evidence: Evidence) -> Float[Tensor, "b k gh gw"]:
        match self._config.maps.kind:
            case MapKind.ATTENTION:
                return evidence.class_to_patch
            case MapKind.PATCH_CAM:
                if evidence.patch_cam is None:
                    raise ValueError("this model (variant v1) has no patch CAM; use maps.kind attention or fused")
                return evidence.patch_cam
            case MapKind.FUSED:
                return evidence.fused

    def _conclude(self, seen: list[_ViewMaps], class_ids: tuple[int, ...], size: tuple[int, int]) -> ImageEvidence:
        settings = self._config.maps
        thresholds = (settings.background_threshold, settings.foreground_threshold)
        grids = _join_by_grid([view.maps for view in seen])
        scales = take_class_scales(settings.class_scales, class_ids, self._device)
        pixel_maps = enlarge_maps(grids, size, scales)
        ids = torch.tensor(class_ids, device=self._device)
        mask = label_pixels(pixel_maps, ids, *thresholds, has_background=settings.has_background)
        base = (seen[0].maps.shape[-2], seen[0].maps.shape[-1])
        on_grid = torch.stack([resize_maps(view.maps, base) for view in seen])
        presence_logits = torch.stack([view.class_logits[0] for view in seen]).float()
        mean, std = compute_presence(presence_logits)
        tagged = [class_id - 1 for class_id in class_ids]
        return ImageEvidence(
            class_ids=class_ids,
            upright_size=size,
            pixel_maps=pixel_maps.cpu(),
            mask=mask.cpu(),
            thresholds=thresholds,
            has_background=settings.has_background,
            grid_maps=on_grid.mean(0)[0].cpu().numpy(),
            presence=mean[tagged].cpu().numpy(),
            presence_std=std[tagged].cpu().numpy(),
            view_agreement=compute_view_agreement(scale_min_max(on_grid[:, 0]), settings.foreground_threshold),
            head_agreement=self._compare_heads(seen, base),
            suggested_class_ids=tuple(
                index + 1
                for index, probability in enumerate(mean.tolist())
                if probability > settings.suggestion_threshold and index not in tagged
            ),
        )

    def _compare_heads(self, seen: list[_ViewMaps], grid: tuple[int, int]) -> list[float | None]:
        attention = torch.stack([resize_maps(view.attention, grid) for view in seen]).mean(0)[0]
        cams = [resize_maps(view.patch_cam, grid) for view in seen if view.patch_cam is not None]
        if not cams:
            return [None] * attention.shape[0]
        patch_cam = torch.stack(cams).mean(0)[0]
        return compute_head_agreement(attention, patch_cam, self._config.maps.foreground_threshold)


def _turn_back(view: View, maps: Float[Tensor, "b k gh gw"], evidence: Evidence, output: MCTformerOutput) -> _ViewMaps:
    """Undo the view's flip on its own grid: bilinear resizing commutes with it."""

    def turn(values: Tensor) -> Tensor:
        return return_to_frame(values.float(), view, (values.shape[-2], values.shape[-1]))

    cam = evidence.patch_cam
    return _ViewMaps(turn(maps), turn(evidence.class_to_patch), None if cam is None else turn(cam), output.class_logits)


def _take(view: _ViewMaps, row: int, num_classes: int) -> _ViewMaps:
    """Take one image out of the batch, and the classes that are its own."""
    maps, attention, cam, logits = view
    one = slice(row, row + 1)
    return _ViewMaps(
        maps[one, :num_classes],
        attention[one, :num_classes],
        None if cam is None else cam[one, :num_classes],
        logits[one],
    )


def _join_by_grid(maps: list[Tensor]) -> list[Tensor]:
    """Sum the views, each `1 k gh gw`, that share a grid. Resizing is linear, so this comes before it."""
    sums: dict[tuple[int, ...], Tensor] = {}
    for view in maps:
        shape = tuple(view.shape)
        sums[shape] = sums[shape] + view if shape in sums else view
    return list(sums.values())
