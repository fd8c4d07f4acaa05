"""Class-to-patch attention and patch affinity, without the full attention matrix.

Class maps need two parts of a ViT's attention: the rows of the class tokens, and products of the patch-to-patch part
with a few maps. Both are computed from the queries and keys of each layer, which are small. The rows are computed for
the wanted classes only. The product is attention with the maps as values.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from models.output import MCTformerOutput
from models.vision_transformer import Attention


class Attended(NamedTuple):
    """Output of an attention layer, and its queries and keys."""

    tokens: Float[Tensor, "b t d"]
    queries: Float[Tensor, "b heads t hd"]
    keys: Float[Tensor, "b heads t hd"]


def attend(attention: Attention, tokens: Float[Tensor, "b t d"]) -> Attended:
    """Run an attention layer with the fused kernel; return its queries and keys, too."""
    b, t, _ = tokens.shape
    qkv = attention.qkv(tokens).reshape(b, t, 3, attention.num_heads, attention.head_dim)
    queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    mixed = functional.scaled_dot_product_attention(queries, keys, values)
    mixed = mixed.transpose(1, 2).reshape(b, t, -1)
    return Attended(attention.proj(mixed), queries, keys)


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
    if queries.dtype != torch.bfloat16:
        queries, keys = queries.float(), keys.float()
    # The fused kernels need values as wide as the keys, so maps are split into slices of that width.
    most = max(1, keys.shape[-1] // _count_parts(keys))
    slices = maps.float().flatten(2).transpose(1, 2).split(most, dim=2)
    sums = [_multiply(queries, keys, part, num_steps) for part in slices]
    joined = sums[0] if len(sums) == 1 else torch.cat(sums, 2)
    # Attention is the mean over the heads of a layer.
    num_heads = queries.shape[1] // num_layers
    return (joined / num_heads**num_steps).transpose(1, 2).unflatten(-1, output.grid)


def _multiply(
    queries: Float[Tensor, "b heads n hd"],
    keys: Float[Tensor, "b heads t hd"],
    maps: Float[Tensor, "b n k"],
    num_steps: int,
) -> Float[Tensor, "b n k"]:
    """Multiply maps repeatedly by the sum over heads of the attention between patches.

    The first keys are class tokens, whose values are zero. For bfloat16 queries and keys the maps rounded, and their
    rounding errors, are maps of their own.
    """
    k, num_parts = maps.shape[2], _count_parts(keys)
    # Memory as large as the keys, once for all steps. Values that heads shared, by a stride of 0, would take less, but
    # cuDNN's and the memory-efficient kernels have returned wrong results for them (PyTorch #175764, #191937).
    values = keys.new_zeros(*keys.shape[:3], max(keys.shape[3], num_parts))
    of_patches = values[:, :, -maps.shape[1] :, : num_parts * k]
    for _ in range(num_steps):
        of_patches[..., :k] = maps[:, None]
        if num_parts == 2:
            of_patches[..., k:] = maps[:, None] - of_patches[:, :1, :, :k]
        spread = functional.scaled_dot_product_attention(queries, keys, values)
        maps = spread[..., : num_parts * k].unflatten(-1, (num_parts, k)).sum((1, 3), dtype=torch.float32)
    return maps


def _count_parts(keys: Tensor) -> int:
    """Count the numbers that stand for a value of a map: of bfloat16, what it rounds away is the second."""
    return 2 if keys.dtype == torch.bfloat16 else 1


def _require_layers(output: MCTformerOutput, num_layers: int) -> None:
    if not 1 <= num_layers <= len(output.queries):
        raise ValueError(f"need 1 <= num_layers <= {len(output.queries)}, the depth of the model, got {num_layers}")
