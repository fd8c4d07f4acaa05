"""Class maps from the output of the model: the location of each class in the image."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.attention import compute_class_to_patch, propagate
from models.fusion import Fusion
from models.mctformer import Variant
from models.output import MCTformerOutput
from models.rounding import NOISE

ATTENTION_LAYERS = {Variant.V1: 3, Variant.V2: 3, Variant.PLUS: 12}
"""Number of last layers whose class-to-patch attention the authors use."""


FUSION = {Variant.V1: Fusion.PRODUCT, Variant.V2: Fusion.PRODUCT, Variant.PLUS: Fusion.SQUARE_ROOT}
"""Fusion that the authors use."""


class Evidence(NamedTuple):
    """Two kinds of evidence for the location of the wanted classes, and their fusion; non-negative, any scale."""

    class_to_patch: Float[Tensor, "b k gh gw"]
    """Attention of the class tokens."""
    patch_cam: Float[Tensor, "b k gh gw"] | None
    """After ReLU; None for V1."""
    fused: Float[Tensor, "b k gh gw"]
    """Fusion of both; attention alone for V1."""


def compute_evidence(
    output: MCTformerOutput,
    variant: Variant,
    class_index: Int[Tensor, "b k"],
    num_layers: int | None = None,
    fusion: Fusion | None = None,
) -> Evidence:
    """Compute the evidence for the location of the wanted classes.

    Args:
        output: Of the model.
        variant: Of the model.
        class_index: Wanted classes of each image, from 0; they may repeat.
        num_layers: Number of last layers whose attention is used; None: as the authors (`ATTENTION_LAYERS`), or all
            layers of a model with fewer.
        fusion: Of attention and patch CAM; None: as the authors (`FUSION`).

    Source: CVPR 2022, section 3.3 (V1, V2); the authors' code for plus, where attention is the mean over the layers
    and not their sum.
    """
    depth = len(output.queries)
    num_layers = min(ATTENTION_LAYERS[variant], depth) if num_layers is None else num_layers
    attention = compute_class_to_patch(output, num_layers, class_index)
    if variant == Variant.PLUS:
        attention = attention / num_layers
    if output.patch_cam is None:
        return Evidence(attention, None, attention)
    patch_cam = take_classes(output.patch_cam, class_index).float().relu()
    product = attention * patch_cam
    is_root = (fusion or FUSION[variant]) == Fusion.SQUARE_ROOT
    return Evidence(attention, patch_cam, product.sqrt() if is_root else product)


def refine_class_maps(
    output: MCTformerOutput,
    class_maps: Float[Tensor, "b k gh gw"],
    num_layers: int | None = None,
    num_steps: int = 1,
) -> Float[Tensor, "b k gh gw"]:
    """Propagate class maps along the patch affinity.

    Args:
        output: Of the model.
        class_maps: Non-negative, any scale.
        num_layers: Number of last layers whose attention is the affinity; None: all, as the authors.
        num_steps: Multiplications by the affinity, the steps of a random walk; the authors take one.

    Source: CVPR 2022, section 3.4; there the affinity is a matrix, here it is applied without forming it.
    """
    return propagate(output, class_maps, num_layers, num_steps) if num_steps else class_maps


def take_classes(maps: Float[Tensor, "b c gh gw"], class_index: Int[Tensor, "b k"]) -> Float[Tensor, "b k gh gw"]:
    """Select the maps of the wanted classes of each image."""
    index = class_index[:, :, None, None].expand(-1, -1, *maps.shape[-2:])
    return maps.gather(1, index)


def scale_min_max(maps: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
    """Scale every map to [0, 1] by its minimum and maximum; a map that is constant up to rounding becomes zero."""
    low, high = maps.flatten(2).aminmax(dim=2)
    precision = torch.finfo(maps.dtype)
    spread = high - low
    # The higher of high and -low is the largest absolute value.
    least = (torch.maximum(high, -low) * (NOISE * precision.eps)).clamp_min(precision.tiny)
    spread = spread.masked_fill_(spread <= least, torch.inf)
    return (maps - low[..., None, None]) / spread[..., None, None]
