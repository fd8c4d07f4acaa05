"""Class maps of a batch of images of one shape: the work on the device.

views -> model -> class-to-patch attention, patch CAM -> refined by affinity -> sum over views
      -> refined by pixels, if wanted -> one copy to the host

The number of operations does not depend on the number of images, and nothing waits for the device before the end.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from models.bundle import ModelBundle
from models.class_maps import Evidence, compute_evidence, flag_finite, refine_class_maps
from models.mctformer import MCTformer
from models.output import MCTformerOutput
from pipeline.images.mapping.agreement import Presence, compute_agreement, compute_presence
from pipeline.images.mapping.evidence import ImageEvidence, Packed, from_fixed_point, to_fixed_point
from pipeline.images.mapping.transfers import Transfers
from pipeline.images.mapping.views import View, list_views, make_view, return_to_frame
from pipeline.images.pixel_maps import refine_maps, resize_maps
from pipeline.run.config import LabelConfig, MapKind, PixelRefinement, Resolution


class _ViewMaps(NamedTuple):
    """What one view shows, on its own patch grid and unflipped; k is the number of requested classes."""

    maps: Float[Tensor, "b k gh gw"]
    attention: Float[Tensor, "b k gh gw"]
    patch_cam: Float[Tensor, "b k gh gw"] | None


class _Seen(NamedTuple):
    """What the views of a batch show."""

    views: list[_ViewMaps]
    presence: Presence
    is_finite: Bool[Tensor, " b"]


class ClassMapper:
    """A model on a device, which finds the tagged classes in images of one shape."""

    def __init__(
        self,
        *,
        model: MCTformer,
        bundle: ModelBundle,
        config: LabelConfig,
        device: torch.device,
        use_bf16: bool,
        transfers: Transfers | None = None,
    ) -> None:
        """Keep a model that is on `device` and in evaluation mode.

        Args:
            model: Its weights stay float32.
            bundle: Input statistics of the model.
            config: Of the run.
            device: Device of the model.
            use_bf16: Run the blocks under bfloat16 autocast, with a copy of their weights in bfloat16.
            transfers: Copies to the device and back; None: those of the device.
        """
        self._model = model
        self._fast_model = _hold_in_bf16(model) if use_bf16 else model
        self._config = config
        self._device = device
        self._use_bf16 = use_bf16
        self._transfers = transfers or Transfers(device)
        mean, std = (
            self._transfers.upload(np.array(values, np.float32).reshape(1, 3, 1, 1))
            for values in (bundle.input_mean, bundle.input_std)
        )
        self._input_mean, self._input_std = mean, std

    def find_evidence(
        self,
        frames: UInt8[np.ndarray, "b h w 3"],
        class_ids: Sequence[tuple[int, ...]],
        upright_sizes: Sequence[tuple[int, int]],
        guides: UInt8[np.ndarray, "b guide_h guide_w 3"] | None = None,
        *,
        in_float32: bool = False,
    ) -> list[ImageEvidence]:
        """Find the given classes in each image: `queue`, and the wait for its result."""
        return self.queue(frames, class_ids, upright_sizes, guides, in_float32=in_float32)()

    @torch.inference_mode()
    def queue(
        self,
        frames: UInt8[np.ndarray, "b h w 3"],
        class_ids: Sequence[tuple[int, ...]],
        upright_sizes: Sequence[tuple[int, int]],
        guides: UInt8[np.ndarray, "b guide_h guide_w 3"] | None = None,
        *,
        in_float32: bool = False,
    ) -> Callable[[], list[ImageEvidence]]:
        """Begin to find the given classes in each image. Only suggestions that are drawn need a wait here.

        Args:
            frames: Upright images at the size at which the model sees them, RGB.
            class_ids: Tagged classes of each image, from 1; at least one each.
            upright_sizes: Height and width of each image before scaling; its mask gets this size.
            guides: The same images at the size at which their pixels refine the maps (`frames.fit_guide`); None if they
                do not.
            in_float32: Run the whole model in float32, without bfloat16.

        Returns:
            Function that waits for the device and returns what was found in each image.
        """
        images = self._transfers.upload(frames).permute(0, 3, 1, 2)
        images = (images.float() / 255 - self._input_mean) / self._input_std
        views = list_views(self._config.views)
        outputs: Iterable[MCTformerOutput] = (self._run_model(images, view, in_float32) for view in views)
        wanted = [tuple(ids) for ids in class_ids]
        if self._config.maps.draw_suggestions:
            # Presence over all views decides which classes are drawn, so all outputs are kept.
            outputs = list(outputs)
            wanted = self._add_suggested(outputs, wanted)
        seen = self._see(views, outputs, self._transfers.upload(_index_classes(wanted)))
        joined = _sum_by_grid([view.maps for view in seen.views])
        packed = self._pack(seen, joined)
        refined = self._refine_by_pixels(joined, guides)
        wait = self._transfers.download([packed.values, *([] if refined is None else [refined])])

        def read() -> list[ImageEvidence]:
            values, *refined_maps = wait()
            found = packed.unpack(values)
            return [
                self._read_image(found, refined_maps, row, ids, len(tags), size)
                for row, (ids, tags, size) in enumerate(zip(wanted, class_ids, upright_sizes, strict=True))
            ]

        return read

    def _see(self, views: Sequence[View], outputs: Iterable[MCTformerOutput], class_index: Int[Tensor, "b k"]) -> _Seen:
        seen, class_logits, patch_logits, checked = [], [], [], []
        for view, output in zip(views, outputs, strict=True):
            seen.append(self._compute_view_maps(output, view, class_index))
            class_logits.append(output.class_logits)
            patch_logits.append(output.patch_logits)
            checked += [output.class_logits, output.patch_logits, output.patch_cam, *seen[-1]]
        return _Seen(seen, compute_presence(class_logits, patch_logits), flag_finite(checked))

    def _pack(self, seen: _Seen, joined: Sequence[Float[Tensor, "b k _ _"]]) -> Packed:
        """Join what the host needs, without refined maps."""
        base = (seen.views[0].maps.shape[-2], seen.views[0].maps.shape[-1])
        threshold = self._config.maps.foreground_threshold
        on_grid = torch.stack([resize_maps(view.maps, base) for view in seen.views])
        tensors = {
            "grid_maps": on_grid.mean(0),
            "presence": seen.presence.mean,
            "presence_std": seen.presence.std,
            "view_agreement": compute_agreement(on_grid, threshold),
            "head_agreement": self._compare_heads(seen.views, base),
            "is_finite": (seen.is_finite & flag_finite(joined))[:, None],
        }
        # Maps of one grid are those of `grid_maps` but for a factor.
        return Packed(tensors | ({f"grid {n}": maps for n, maps in enumerate(joined)} if len(joined) > 1 else {}))

    def _read_image(
        self,
        found: dict[str, Float[np.ndarray, "b ..."]],
        refined: Sequence[np.ndarray],
        row: int,
        class_ids: tuple[int, ...],
        num_tagged: int,
        size: tuple[int, int],
    ) -> ImageEvidence:
        """Read what was found in one image of a batch."""
        own, index = slice(len(class_ids)), np.array(class_ids) - 1
        grids = [values[row, own] for name, values in found.items() if name.startswith("grid ")]
        grids = grids or [found["grid_maps"][row, own]]
        if refined:
            maps = refined[0][row, own]
            grids = [maps if maps.dtype == np.float32 else from_fixed_point(maps)]
        presence = found["presence"][row]
        return ImageEvidence(
            class_ids=class_ids,
            upright_size=size,
            grids=tuple(grids),
            is_refined=bool(refined),
            grid_maps=found["grid_maps"][row, own],
            presence=presence[index],
            presence_std=found["presence_std"][row, index],
            view_agreement=_replace_nan(found["view_agreement"][row, own]),
            head_agreement=_replace_nan(found["head_agreement"][row, own]),
            suggested_class_ids=self._suggest_classes(presence, class_ids[:num_tagged]),
            is_finite=bool(found["is_finite"][row, 0]),
        )

    def _add_suggested(
        self, outputs: Sequence[MCTformerOutput], class_ids: Sequence[tuple[int, ...]]
    ) -> list[tuple[int, ...]]:
        presence = compute_presence(
            [output.class_logits for output in outputs], [output.patch_logits for output in outputs]
        )
        (on_host,) = self._transfers.download([presence.mean])()
        return [(*ids, *self._suggest_classes(own, ids)) for ids, own in zip(class_ids, on_host, strict=True)]

    def _suggest_classes(self, presence: Float[np.ndarray, " c"], class_ids: tuple[int, ...]) -> tuple[int, ...]:
        """List the classes that the model finds likely and that are not among the given ones."""
        likely = (np.flatnonzero(presence > self._config.maps.suggestion_threshold) + 1).tolist()
        return tuple(class_id for class_id in likely if class_id not in class_ids)

    def _run_model(self, images: Float[Tensor, "b 3 h w"], view: View, in_float32: bool) -> MCTformerOutput:
        snap = self._config.views.resolution == Resolution.BUCKETS
        pixels = make_view(images, view, self._model.config.patch_size, snap_to_patches=snap)
        if in_float32 or not self._use_bf16:
            full: MCTformerOutput = self._model(pixels)
            return full
        with torch.autocast(self._device.type, dtype=torch.bfloat16):
            fast: MCTformerOutput = self._fast_model(pixels)
        return fast

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

    def _refine_by_pixels(self, joined: Sequence[Tensor], guides: UInt8[np.ndarray, "b h w 3"] | None) -> Tensor | None:
        """Refine maps of several grids, each `b k gh gw`, at the size of the guides; None if the run does not refine.

        Thresholds follow: the background competes with one value everywhere, which refinement would not change.
        """
        settings = self._config.maps
        if settings.pixel_refinement == PixelRefinement.NONE:
            return None
        if guides is None:
            raise ValueError(f"maps.pixel_refinement {settings.pixel_refinement} needs guides, got none")
        refined = refine_maps(joined, self._transfers.upload(guides), settings.pixel_iterations)
        return refined if self._device.type == "cpu" else to_fixed_point(refined)

    def _compare_heads(self, seen: Sequence[_ViewMaps], grid: tuple[int, int]) -> Float[Tensor, "b k"]:
        attention = torch.stack([resize_maps(view.attention, grid) for view in seen]).mean(0)
        cams = [resize_maps(view.patch_cam, grid) for view in seen if view.patch_cam is not None]
        kinds = [attention, torch.stack(cams).mean(0)] if cams else [attention]
        return compute_agreement(torch.stack(kinds), self._config.maps.foreground_threshold)


def _hold_in_bf16(model: MCTformer) -> MCTformer:
    """Copy a model with the weights of its products in bfloat16, in which autocast computes them; others stay."""
    fast = copy.deepcopy(model)
    for module in fast.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)
    return fast


def _index_classes(class_ids: Sequence[tuple[int, ...]]) -> Int[np.ndarray, "b k"]:
    """Class indices of each image, from 0; its first class repeats where other images have more."""
    most = max(len(ids) for ids in class_ids)
    return np.array([[*ids, *[ids[0]] * (most - len(ids))] for ids in class_ids]) - 1


def _replace_nan(values: Float[np.ndarray, " k"]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _unflip_maps(view: View, maps: Float[Tensor, "b k gh gw"], evidence: Evidence) -> _ViewMaps:
    """Undo the flip of a view on its own grid; bilinear resizing commutes with it."""

    def unflip(values: Tensor) -> Tensor:
        return return_to_frame(values.float(), view, (values.shape[-2], values.shape[-1]))

    cam = evidence.patch_cam
    return _ViewMaps(unflip(maps), unflip(evidence.class_to_patch), None if cam is None else unflip(cam))


def _sum_by_grid(maps: Sequence[Tensor]) -> list[Tensor]:
    """Sum the maps of views, each `b k gh gw`, that share a grid. Resizing is linear, so it may follow."""
    sums: dict[tuple[int, ...], Tensor] = {}
    for view in maps:
        shape = tuple(view.shape)
        sums[shape] = sums[shape] + view if shape in sums else view
    return list(sums.values())
