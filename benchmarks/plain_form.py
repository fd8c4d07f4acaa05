"""Class maps by their definition: every attention matrix is formed and stacked, as in the authors' script."""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from models.mctformer import DINO_OFFSET, MCTformer, resize_positions

NUM_CLASSES = 20
CLASS_INDEX = (0, 7, 14)
NUM_LAYERS = 3


def compute_maps_plainly(model: MCTformer, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k gh gw"]:
    """Refined maps by the definition: all attention matrices, stacked. Images are square."""
    patches = model.patch_embed.proj(images)
    grid = (patches.shape[2], patches.shape[3])
    for_classes, for_patches = model.pos_embed.tensor_split([NUM_CLASSES], dim=1)
    if grid != (model.config.grid_side, model.config.grid_side):
        for_patches = resize_positions(for_patches, grid, offset=DINO_OFFSET)
    class_tokens = (model.cls_token + for_classes).expand(len(images), -1, -1)
    tokens = torch.cat([class_tokens, patches.flatten(2).transpose(1, 2) + for_patches], dim=1)
    stacked = []
    for module in model.blocks:
        block = cast(Any, module)
        normed = block.norm1(tokens)
        b, t, d = normed.shape
        qkv = block.attn.qkv(normed).reshape(b, t, 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        attention = (qkv[0] @ qkv[1].transpose(-2, -1) * block.attn.scale).softmax(-1)
        tokens = tokens + block.attn.proj((attention @ qkv[2]).transpose(1, 2).reshape(b, t, d))
        tokens = tokens + block.mlp(block.norm2(tokens))
        stacked.append(attention)
    attention = torch.stack(stacked).mean(2)
    patch_cam = model.head(tokens[:, NUM_CLASSES:].transpose(1, 2).unflatten(2, grid)).relu()
    class_to_patch = attention[-NUM_LAYERS:].sum(0)[:, :NUM_CLASSES, NUM_CLASSES:].unflatten(2, grid)
    fused = (class_to_patch * patch_cam)[:, list(CLASS_INDEX)]
    affinity = attention.sum(0)[:, NUM_CLASSES:, NUM_CLASSES:]
    return (affinity @ fused.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, grid)
