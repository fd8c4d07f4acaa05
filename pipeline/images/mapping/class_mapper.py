"""Class maps of a batch of images of one shape: the work on the device.

views -> model -> class-to-patch attention, patch CAM -> refined by affinity -> sum over views
      -> refined by pixels, if wanted -> one copy to the host

The number of operations does not depend on the number of images, and nothing waits for the device before the end.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from models.bundle import ModelBundle
from models.class_maps import Evidence, compute_evidence, refine_class_maps
from models.mctformer import MCTformer, hold_in_bf16
from models.output import MCTformerOutput
from pipeline.images.mapping.agreement import compute_agreements, compute_presence
from pipeline.images.mapping.evidence import ImageEvidence, Packed, to_fixed_point
from pipeline.images.mapping.transfers import Transfers
from pipeline.images.mapping.views import View, list_views, make_view, return_to_frame
from pipeline.images.pixel_maps import refine_maps, resize_maps
from pipeline.run.config import LabelConfig, MapKind, PixelRefinement, Resolution


class _Seen(NamedTuple):
    """What the views of a batch show."""

    views: list[Float[Tensor, "b _ _ _"]]
    """Of each view, on its own grid and unflipped: the maps of all requested classes, then their attention, then their
    patch CAM, if the model has one."""
    class_logits: Float[Tensor, "v b c"]
    patch_logits: Float[Tensor, "v b c"] | None


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
        self._fast_model = hold_in_bf16(model) if use_bf16 else model
        self._config = config
        self._device = device
        self._use_bf16 = use_bf16
        self._transfers = transfers or Transfers(device)
        mean, std = (
            self._transfers.upload(np.array(values, np.float32).reshape(1, 3, 1, 1))
            for values in (bundle.input_mean, bundle.input_std)
        )
        self._input_mean, self._input_std = mean, std

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
        class_index = _index_classes(wanted)
        seen = self._see(views, outputs, self._transfers.upload(class_index))
        num_classes = class_index.shape[1]
        joined = _sum_by_grid([view[:, :num_classes] for view in seen.views])
        packed = self._pack(seen, joined, num_classes)
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
        seen, class_logits, patch_logits = [], [], []
        found = iter(outputs)
        for view in views:
            output = next(found)
            seen.append(self._compute_view_maps(output, view, class_index))
            class_logits.append(output.class_logits)
            patch_logits.append(output.patch_logits)
            # The next view needs its memory.
            del output
        return _Seen(seen, *_stack_logits(class_logits, patch_logits))

    def _pack(self, seen: _Seen, joined: Sequence[Float[Tensor, "b k _ _"]], num_classes: int) -> Packed:
        """Join what the host needs, without refined maps."""
        base = (seen.views[0].shape[-2], seen.views[0].shape[-1])
        on_grid = torch.stack([resize_maps(view, base) for view in seen.views])
        mean = on_grid.mean(0)
        heads = mean[:, num_classes:].unflatten(1, (-1, num_classes)).transpose(0, 1)
        view_agreement, head_agreement = compute_agreements(
            [on_grid[:, :, :num_classes], heads], self._config.maps.foreground_threshold
        )
        presence = compute_presence(seen.class_logits, seen.patch_logits)
        lowest, highest = _find_extremes(seen, joined)
        tensors = {
            "grid_maps": mean[:, :num_classes],
            "presence": presence.mean,
            "presence_std": presence.std,
            "view_agreement": view_agreement,
            "head_agreement": head_agreement,
            "lowest": lowest,
            "highest": highest,
        }
        # Maps of one grid are those of `grid_maps` but for a factor, and refined maps replace those of several.
        is_drawn = len(joined) > 1 and self._config.maps.pixel_refinement == PixelRefinement.NONE
        return Packed(tensors | ({f"grid {n}": maps for n, maps in enumerate(joined)} if is_drawn else {}))

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
        grids = [refined[0][row, own]] if refined else grids or [found["grid_maps"][row, own]]
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
            is_finite=bool(np.isfinite([found["lowest"][row], found["highest"][row]]).all()),
        )

    def _add_suggested(
        self, outputs: Sequence[MCTformerOutput], class_ids: Sequence[tuple[int, ...]]
    ) -> list[tuple[int, ...]]:
        logits = _stack_logits([one.class_logits for one in outputs], [one.patch_logits for one in outputs])
        presence = compute_presence(*logits)
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

    def _compute_view_maps(self, output: MCTformerOutput, view: View, class_index: Int[Tensor, "b k"]) -> Tensor:
        """Compute the maps of a view, its attention and its patch CAM, joined as in `_Seen.views`."""
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
        cams = [] if evidence.patch_cam is None else [evidence.patch_cam]
        joined = torch.cat([maps, evidence.class_to_patch, *cams], 1)
        # Bilinear resizing, which follows, commutes with a flip.
        return return_to_frame(joined, view, (joined.shape[-2], joined.shape[-1]))

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


def _stack_logits(
    class_logits: Sequence[Float[Tensor, "b c"]], patch_logits: Sequence[Float[Tensor, "b c"] | None]
) -> tuple[Float[Tensor, "v b c"], Float[Tensor, "v b c"] | None]:
    """Stack the scores of views, in float32; no patch logits if the model has none."""
    by_patch = [logits for logits in patch_logits if logits is not None]
    return torch.stack(list(class_logits)).float(), torch.stack(by_patch).float() if by_patch else None


def _find_extremes(
    seen: _Seen, joined: Sequence[Float[Tensor, "b k _ _"]]
) -> tuple[Float[Tensor, "b 1"], Float[Tensor, "b 1"]]:
    """Find the lowest and highest value of each image; one of them is not finite if any value is not.

    Patch logits stand for the patch CAM of all classes, which is large: any pooling of NaN or infinite scores is one.
    """
    logits = [*seen.class_logits, *([] if seen.patch_logits is None else seen.patch_logits)]
    values = torch.cat([*logits, *(maps.flatten(1) for maps in (*seen.views, *joined))], 1)
    lowest, highest = values.aminmax(dim=1, keepdim=True)
    return lowest, highest


def _index_classes(class_ids: Sequence[tuple[int, ...]]) -> Int[np.ndarray, "b k"]:
    """Class indices of each image, from 0; its first class repeats where other images have more."""
    most = max(len(ids) for ids in class_ids)
    return np.array([[*ids, *[ids[0]] * (most - len(ids))] for ids in class_ids]) - 1


def _replace_nan(values: Float[np.ndarray, " k"]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _sum_by_grid(maps: Sequence[Tensor]) -> list[Tensor]:
    """Sum the maps of views, each `b k gh gw`, that share a grid. Resizing is linear, so it may follow."""
    sums: dict[tuple[int, ...], Tensor] = {}
    for view in maps:
        shape = tuple(view.shape)
        sums[shape] = sums[shape] + view if shape in sums else view
    return list(sums.values())
