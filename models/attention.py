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
    if not 1 <= num_layers <= len(output.queries):
        raise ValueError(f"need 1 <= num_layers <= {len(output.queries)}, the depth of the model, got {num_layers}")
    num_patches = output.grid[0] * output.grid[1]
    b, k = class_index.shape
    total = torch.zeros(b, k, num_patches, device=class_index.device)
    for queries, keys in zip(output.queries[-num_layers:], output.keys[-num_layers:], strict=True):
        rows = class_index[:, None, :, None].expand(-1, queries.shape[1], -1, queries.shape[3])
        scores = queries.float().gather(2, rows) @ keys.float().transpose(-2, -1) * queries.shape[-1] ** -0.5
        total += scores.softmax(-1)[..., -num_patches:].mean(1)
    return total.unflatten(-1, output.grid)


def propagate(
    output: MCTformerOutput, maps: Float[Tensor, "b k gh gw"], num_layers: int | None = None
) -> Float[Tensor, "b k gh gw"]:
    """Multiply maps by the patch affinity: head-mean attention between patches, summed over layers.

    The affinity has (gh gw)^2 entries and is not computed. Attention with the maps as values, and zero as the value of
    every class token, is the same product.

    Args:
        output: Of the model.
        maps: One value per patch.
        num_layers: Number of layers, counted from the last; None: all.

    Raises:
        ValueError: The model has fewer layers.
    """
    depth = len(output.queries)
    num_layers = depth if num_layers is None else num_layers
    if not 1 <= num_layers <= depth:
        raise ValueError(f"need 1 <= num_layers <= {depth}, the depth of the model, got {num_layers}")
    num_patches = output.grid[0] * output.grid[1]
    head_dim = output.queries[0].shape[-1]
    flat = maps.float().flatten(2)
    # The fused kernels need values as wide as the keys, so maps are split into slices of that width.
    slices = [_propagate_slice(output, part, num_patches, num_layers) for part in flat.split(head_dim, dim=1)]
    return torch.cat(slices, dim=1).unflatten(-1, output.grid)


def _propagate_slice(
    output: MCTformerOutput, maps: Float[Tensor, "b k n"], num_patches: int, num_layers: int
) -> Float[Tensor, "b k n"]:
    k = maps.shape[1]
    _, num_heads, num_tokens, head_dim = output.queries[0].shape
    values = functional.pad(maps.transpose(1, 2), (0, head_dim - k, num_tokens - num_patches, 0))
    values = values[:, None].expand(-1, num_heads, -1, -1)
    total = torch.zeros_like(maps)
    for queries, keys in zip(output.queries[-num_layers:], output.keys[-num_layers:], strict=True):
        spread = functional.scaled_dot_product_attention(queries[:, :, -num_patches:].float(), keys.float(), values)
        total += spread[..., :k].mean(1).transpose(1, 2)
    return total
