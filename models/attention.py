"""Class-to-patch attention and patch affinity, without the full attention matrix.

Class maps need two parts of a ViT's attention: the rows of the class tokens, and products of the patch-to-patch part
with a few maps. Both are computed from the queries and keys of each layer, which are small. The rows are computed for
the wanted classes only. The product is attention with the maps as values.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from timm.layers import Attention
from torch import Tensor
from torch.nn import functional

from models.output import MCTformerOutput


class Attended(NamedTuple):
    """Output of an attention layer, and its queries and keys."""

    tokens: Float[Tensor, "b t d"]
    queries: Float[Tensor, "b heads t hd"]
    keys: Float[Tensor, "b heads t hd"]


def attend(attention: Attention, tokens: Float[Tensor, "b t d"]) -> Attended:
    """Run timm's attention layer with the fused kernel; return its queries and keys, too."""
    b, t, _ = tokens.shape
    qkv = attention.qkv(tokens).reshape(b, t, 3, attention.num_heads, attention.head_dim)
    queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    mixed = functional.scaled_dot_product_attention(queries, keys, values)
    mixed = mixed.transpose(1, 2).reshape(b, t, attention.attn_dim)
    return Attended(attention.proj_drop(attention.proj(mixed)), queries, keys)


def compute_class_to_patch(
    output: MCTformerOutput, num_layers: int, class_index: Int[Tensor, "b k"]
) -> Float[Tensor, "b k gh gw"]:
    """Compute the class-to-patch attention of the wanted classes: sum over the last layers, mean over heads.

    Args:
        output: Of the model.
        num_layers: Number of layers, counted from the last.
        class_index: Wanted classes of each image, from 0; they may repeat.

    Raises:
        ValueError: The model has fewer layers.
    """
    _require_layers(output, num_layers)
    num_patches = output.grid[0] * output.grid[1]
    num_classes = output.queries[0].shape[2] - num_patches
    queries = torch.cat([layer[:, :, :num_classes] for layer in output.queries[-num_layers:]], 1).float()
    keys = torch.cat(output.keys[-num_layers:], 1).float()
    rows = class_index[:, None, :, None].expand(-1, queries.shape[1], -1, queries.shape[3])
    scores = queries.gather(2, rows) @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5
    return (scores.softmax(-1)[..., -num_patches:].mean(1) * num_layers).unflatten(-1, output.grid)


def propagate(
    output: MCTformerOutput, maps: Float[Tensor, "b k gh gw"], num_layers: int | None = None, num_steps: int = 1
) -> Float[Tensor, "b k gh gw"]:
    """Multiply maps by the patch affinity: head-mean attention between patches, summed over layers.

    The affinity has (gh gw)^2 entries and is not computed. Attention with the maps as values, and zero as the value of
    every class token, is the same product. All layers are heads of one attention call. Queries and keys in bfloat16
    stay so, which the fast kernels need. The maps are then split into a bfloat16 part and what it lacks, so that only
    the product of each head is rounded.

    Args:
        output: Of the model.
        maps: One value per patch, of any scale.
        num_layers: Number of layers, counted from the last; None: all.
        num_steps: Number of multiplications.

    Raises:
        ValueError: The model has fewer layers.
    """
    num_layers = len(output.queries) if num_layers is None else num_layers
    _require_layers(output, num_layers)
    num_patches = output.grid[0] * output.grid[1]
    # Layers become heads: one launch instead of one a layer.
    queries = torch.cat([layer[:, :, -num_patches:] for layer in output.queries[-num_layers:]], 1)
    keys = torch.cat(output.keys[-num_layers:], 1)
    if queries.dtype == torch.bfloat16:
        multiply = _multiply_in_bf16
    else:
        queries, keys, multiply = queries.float(), keys.float(), _multiply
    flat = maps.float().flatten(2)
    # The fused kernels need values as wide as the keys, so maps are split into slices of that width.
    slices = list(flat.split(queries.shape[-1] // (2 if multiply is _multiply_in_bf16 else 1), dim=1))
    for _ in range(num_steps):
        slices = [multiply(queries, keys, part) * num_layers for part in slices]
    return torch.cat(slices, dim=1).unflatten(-1, output.grid)


def _multiply(
    queries: Float[Tensor, "b heads n hd"], keys: Float[Tensor, "b heads t hd"], maps: Float[Tensor, "b k n"]
) -> Float[Tensor, "b k n"]:
    """Multiply maps by the mean over heads of the attention between patches; the first keys are class tokens."""
    values = functional.pad(maps.transpose(1, 2), (0, keys.shape[-1] - maps.shape[1], keys.shape[2] - maps.shape[2], 0))
    values = values[:, None].expand(-1, keys.shape[1], -1, -1)
    spread = functional.scaled_dot_product_attention(queries, keys, values)
    return spread[..., : maps.shape[1]].float().mean(1).transpose(1, 2)


def _multiply_in_bf16(
    queries: Float[Tensor, "b heads n hd"], keys: Float[Tensor, "b heads t hd"], maps: Float[Tensor, "b k n"]
) -> Float[Tensor, "b k n"]:
    """Do the same for bfloat16 queries and keys: the maps rounded, and their rounding errors, are maps of their own."""
    # Without their scale small maps would be subnormal numbers.
    peak = maps.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    scaled = maps / peak
    rounded = scaled.bfloat16()
    rest = (scaled - rounded.float()).bfloat16()
    spread = _multiply(queries, keys, torch.cat([rounded, rest], 1))
    coarse, fine = spread.chunk(2, 1)
    return (coarse + fine) * peak


def _require_layers(output: MCTformerOutput, num_layers: int) -> None:
    if not 1 <= num_layers <= len(output.queries):
        raise ValueError(f"need 1 <= num_layers <= {len(output.queries)}, the depth of the model, got {num_layers}")
