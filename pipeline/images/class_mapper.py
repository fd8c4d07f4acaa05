"""Class maps and masks of a batch of images of one shape: the work on the device.

views -> model -> class-to-patch attention, patch CAM -> refined by affinity -> sum over views
      -> scaled to [0, 1] -> refined by pixels, if wanted -> mask
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from models.bundle import ModelBundle
from models.class_maps import Evidence, compute_evidence, flag_finite, refine_class_maps, scale_min_max
from models.mctformer import MCTformer
from models.output import MCTformerOutput
from pipeline.images.frames import normalise
from pipeline.images.masks import draw_mask, enlarge_mask
from pipeline.images.pixel_maps import enlarge_maps, enlarge_refined_maps, refine_maps, resize_maps, take_class_scales
from pipeline.images.stats import (
    Presence,
    compute_head_agreement,
    compute_mask_stats,
    compute_presence,
    compute_view_agreement,
    join_mask_stats,
)
from pipeline.images.views import View, list_views, make_view, return_to_frame
from pipeline.run.config import LabelConfig, MapKind, PixelRefinement, Resolution


class _ViewMaps(NamedTuple):
    """What one view shows, on its own patch grid and unflipped; k is the number of requested classes."""

    maps: Float[Tensor, "b k gh gw"]
    attention: Float[Tensor, "b k gh gw"]
    patch_cam: Float[Tensor, "b k gh gw"] | None


class _ImageClasses(NamedTuple):
    """The classes of one image."""

    class_ids: tuple[int, ...]
    """Tagged classes, then suggested ones if they are drawn."""
    num_tagged: int


@dataclass(frozen=True, kw_only=True)
class ImageEvidence:
    """What was found in one image, on the CPU. k is the number of its classes."""

    class_ids: tuple[int, ...]
    """Tagged classes, then suggested ones if they are drawn."""
    upright_size: tuple[int, int]
    """Height and width in pixels."""
    pixel_maps: Float[Tensor, "k h w"]
    """Class maps in [0, 1] at image size, or smaller where that exceeds `pixel_maps.MAX_MAP_PIXELS`; 0 for doubtful
    classes."""
    mask: UInt8[Tensor, "h w"]
    """Pseudo label, as large as `pixel_maps`."""
    thresholds: tuple[float, float]
    """Background and foreground threshold of the mask."""
    has_background: bool
    """False: every pixel of the mask has a class."""
    grid_maps: Float[np.ndarray, "k gh gw"]
    """Refined maps on the patch grid, mean over views, before min-max."""
    presence: Float[np.ndarray, " k"]
    """Probability of each class, mean over views."""
    presence_std: Float[np.ndarray, " k"]
    view_agreement: list[float | None]
    head_agreement: list[float | None]
    suggested_class_ids: tuple[int, ...]
    doubtful_class_ids: tuple[int, ...]
    is_finite: bool
    """False: the model returned NaN or infinite values in a view, and all other fields are meaningless."""

    def enlarge_mask(self) -> UInt8[np.ndarray, "h w"]:
        """Pseudo label at the size of the upright image."""
        return enlarge_mask(self.mask, self.upright_size)

    def compute_stats(self) -> dict[str, Any]:
        """Statistics columns of this image's row."""
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
        return join_mask_stats(classes, mask_stats, self.doubtful_class_ids)


class ClassMapper:
    """A model on a device, which finds the tagged classes in images of one shape."""

    def __init__(
        self, *, model: MCTformer, bundle: ModelBundle, config: LabelConfig, device: torch.device, use_bf16: bool
    ) -> None:
        """Keep a model that is on `device` and in evaluation mode."""
        self._model = model
        self._config = config
        self._device = device
        self._use_bf16 = use_bf16
        self._input_mean, self._input_std = bundle.input_mean, bundle.input_std

    @torch.inference_mode()
    def find_evidence(
        self,
        frames: UInt8[np.ndarray, "b h w 3"],
        class_ids: Sequence[tuple[int, ...]],
        upright_sizes: Sequence[tuple[int, int]],
        guides: UInt8[np.ndarray, "b guide_h guide_w 3"] | None = None,
        *,
        in_float32: bool = False,
    ) -> list[ImageEvidence]:
        """Find the given classes in each image.

        Args:
            frames: Upright images at the size at which the model sees them, RGB.
            class_ids: Tagged classes of each image, from 1; at least one each.
            upright_sizes: Height and width of each image before scaling; its mask gets this size.
            guides: The same images at the size at which their pixels refine the maps (`frames.fit_guide`); None if they
                do not.
            in_float32: Run the whole model in float32, without bfloat16.
        """
        images = torch.from_numpy(frames).to(self._device, non_blocking=True).permute(0, 3, 1, 2)
        images = normalise(images, self._input_mean, self._input_std)
        views = list_views(self._config.views)
        outputs: Iterable[MCTformerOutput] = (self._run_model(images, view, in_float32) for view in views)
        if self._config.maps.draw_suggestions:
            # Presence over all views decides which classes are drawn, so all outputs are kept.
            outputs = list(outputs)
            wanted = self._add_suggested(outputs, class_ids)
        else:
            wanted = list(class_ids)
        class_index = self._index_classes(wanted)
        seen, logits, finite = [], [], []
        for view, output in zip(views, outputs, strict=True):
            seen.append(self._compute_view_maps(output, view, class_index))
            logits.append((output.class_logits, output.patch_logits))
            finite.append(flag_finite((*logits[-1], output.patch_cam, *seen[-1])))
        presences = _compute_presences(logits)
        joined = _sum_by_grid([view.maps for view in seen])
        is_finite = torch.stack([*finite, flag_finite(joined)]).all(0)
        refined = self._refine_by_pixels(joined, guides)
        evidence = []
        for row, (tags, ids, size) in enumerate(zip(class_ids, wanted, upright_sizes, strict=True)):
            own = [_select_image(view, row, len(ids)) for view in seen]
            pixel_maps = self._enlarge_image_maps(joined, refined, row, ids, size)
            classes = _ImageClasses(ids, len(tags))
            evidence.append(self._join_views(own, pixel_maps, presences[row], is_finite[row], classes, size))
        return evidence

    def _add_suggested(
        self, outputs: Sequence[MCTformerOutput], class_ids: Sequence[tuple[int, ...]]
    ) -> list[tuple[int, ...]]:
        presences = _compute_presences([(output.class_logits, output.patch_logits) for output in outputs])
        return [
            (*ids, *self._suggest_classes(presence.mean, ids))
            for ids, presence in zip(class_ids, presences, strict=True)
        ]

    def _suggest_classes(self, presence: Float[Tensor, " c"], class_ids: tuple[int, ...]) -> tuple[int, ...]:
        """List the classes that the model finds likely and that are not among the given ones."""
        threshold = self._config.maps.suggestion_threshold
        likely = (index + 1 for index, probability in enumerate(presence.tolist()) if probability > threshold)
        return tuple(class_id for class_id in likely if class_id not in class_ids)

    def _index_classes(self, class_ids: Sequence[tuple[int, ...]]) -> Int[Tensor, "b k"]:
        """Class indices of each image, from 0; its first class repeats where other images have more."""
        most = max(len(ids) for ids in class_ids)
        padded = [[*ids, *[ids[0]] * (most - len(ids))] for ids in class_ids]
        return torch.tensor(padded, device=self._device) - 1

    def _run_model(self, images: Float[Tensor, "b 3 h w"], view: View, in_float32: bool) -> MCTformerOutput:
        snap = self._config.views.resolution == Resolution.BUCKETS
        pixels = make_view(images, view, self._model.config.patch_size, snap_to_patches=snap)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._use_bf16 and not in_float32):
            output: MCTformerOutput = self._model(pixels)
        return output

    def _compute_view_maps(self, output: MCTformerOutput, view: View, class_index: Int[Tensor, "b k"]) -> _ViewMaps:
        evidence = compute_evidence(
            output,
            self._model.config.variant,
            class_index,
            num_layers=self._config.maps.num_attention_layers,
            fusion=self._config.maps.fusion,
        )
        maps = self._choose_evidence(evidence)
        settings = self._config.maps
        if settings.refine:
            maps = refine_class_maps(output, maps, settings.num_affinity_layers, settings.affinity_steps)
        return _unflip_maps(view, maps, evidence)

    def _choose_evidence(self, evidence: Evidence) -> Float[Tensor, "b k gh gw"]:
        match self._config.maps.kind:
            case MapKind.ATTENTION:
                return evidence.class_to_patch
            case MapKind.PATCH_CAM:
                if evidence.patch_cam is None:
                    raise ValueError("this model (variant v1) has no patch CAM; use maps.kind attention or fused")
                return evidence.patch_cam
            case MapKind.FUSED:
                return evidence.fused

    def _refine_by_pixels(
        self, joined: Sequence[Tensor], guides: UInt8[np.ndarray, "b h w 3"] | None
    ) -> Float[Tensor, "b k h w"] | None:
        """Refine maps of several grids, each `b k gh gw`, at the size of the guides; None if the run does not refine.

        Thresholds follow: the background competes with one value everywhere, which refinement would not change.
        """
        settings = self._config.maps
        if settings.pixel_refinement == PixelRefinement.NONE:
            return None
        if guides is None:
            raise ValueError(f"maps.pixel_refinement {settings.pixel_refinement} needs guides, got none")
        on_device = torch.from_numpy(guides).to(self._device, non_blocking=True)
        return refine_maps(joined, on_device, settings.pixel_iterations)

    def _enlarge_image_maps(
        self,
        joined: Sequence[Tensor],
        refined: Float[Tensor, "b k guide_h guide_w"] | None,
        row: int,
        class_ids: tuple[int, ...],
        size: tuple[int, int],
    ) -> Float[Tensor, "k h w"]:
        """Bring the maps of one image of the batch, the refined ones if any, to its size, in [0, 1]."""
        own = (slice(row, row + 1), slice(len(class_ids)))
        scales = take_class_scales(self._config.maps.class_scales, class_ids, self._device)
        if refined is None:
            return enlarge_maps([maps[own] for maps in joined], size, scales)
        return enlarge_refined_maps(refined[own], size, scales)

    def _join_views(
        self,
        seen: list[_ViewMaps],
        pixel_maps: Float[Tensor, "k h w"],
        presence: Presence,
        is_finite: Bool[Tensor, ""],
        classes: _ImageClasses,
        upright_size: tuple[int, int],
    ) -> ImageEvidence:
        """Draw the mask of one image and compare its views."""
        settings = self._config.maps
        index = [class_id - 1 for class_id in classes.class_ids]
        pixel_maps, mask, doubtful = draw_mask(pixel_maps, classes.class_ids, presence.mean[index], settings)
        base = (seen[0].maps.shape[-2], seen[0].maps.shape[-1])
        on_grid = torch.stack([resize_maps(view.maps, base) for view in seen])
        # One copy for both: every copy waits for the device.
        presence_and_flag = torch.cat([presence.mean[index], is_finite.float()[None]]).cpu().numpy()
        return ImageEvidence(
            class_ids=classes.class_ids,
            upright_size=upright_size,
            pixel_maps=pixel_maps.cpu(),
            mask=mask.cpu(),
            thresholds=(settings.background_threshold, settings.foreground_threshold),
            has_background=settings.has_background,
            grid_maps=on_grid.mean(0)[0].cpu().numpy(),
            presence=presence_and_flag[:-1],
            presence_std=presence.std[index].cpu().numpy(),
            view_agreement=compute_view_agreement(scale_min_max(on_grid[:, 0]), settings.foreground_threshold),
            head_agreement=self._compare_heads(seen, base),
            suggested_class_ids=self._suggest_classes(presence.mean, classes.class_ids[: classes.num_tagged]),
            doubtful_class_ids=doubtful,
            is_finite=bool(presence_and_flag[-1]),
        )

    def _compare_heads(self, seen: list[_ViewMaps], grid: tuple[int, int]) -> list[float | None]:
        attention = torch.stack([resize_maps(view.attention, grid) for view in seen]).mean(0)[0]
        cams = [resize_maps(view.patch_cam, grid) for view in seen if view.patch_cam is not None]
        if not cams:
            return [None] * attention.shape[0]
        patch_cam = torch.stack(cams).mean(0)[0]
        return compute_head_agreement(attention, patch_cam, self._config.maps.foreground_threshold)


def _compute_presences(views: Sequence[tuple[Tensor, Tensor | None]]) -> list[Presence]:
    """Compute the presence of every class in each image of a batch from the class and patch logits of its views."""
    class_logits = torch.stack([logits for logits, _ in views], 1)
    patch_logits = [logits for _, logits in views if logits is not None]
    by_patch = torch.stack(patch_logits, 1) if patch_logits else [None] * len(class_logits)
    return [compute_presence(by_class, patch) for by_class, patch in zip(class_logits, by_patch, strict=True)]


def _unflip_maps(view: View, maps: Float[Tensor, "b k gh gw"], evidence: Evidence) -> _ViewMaps:
    """Undo the flip of a view on its own grid; bilinear resizing commutes with it."""

    def unflip(values: Tensor) -> Tensor:
        return return_to_frame(values.float(), view, (values.shape[-2], values.shape[-1]))

    cam = evidence.patch_cam
    return _ViewMaps(unflip(maps), unflip(evidence.class_to_patch), None if cam is None else unflip(cam))


def _select_image(view: _ViewMaps, row: int, num_classes: int) -> _ViewMaps:
    """Select one image of the batch and its own classes."""
    maps, attention, cam = view
    one = slice(row, row + 1)
    return _ViewMaps(
        maps[one, :num_classes],
        attention[one, :num_classes],
        None if cam is None else cam[one, :num_classes],
    )


def _sum_by_grid(maps: list[Tensor]) -> list[Tensor]:
    """Sum the maps of views, each `b k gh gw`, that share a grid. Resizing is linear, so it may follow."""
    sums: dict[tuple[int, ...], Tensor] = {}
    for view in maps:
        shape = tuple(view.shape)
        sums[shape] = sums[shape] + view if shape in sums else view
    return list(sums.values())
