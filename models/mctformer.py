"""MCTformer V1, V2 and plus: a ViT with one class token per class.

Source: Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation" (CVPR 2022) and
"MCTformer+" (TPAMI 2024). Module names are timm's and the authors', so that their weights load by name. We differ in
that the attention matrix is not computed: the forward pass returns queries and keys instead.
"""

import copy
from collections.abc import Iterable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.attention import attend
from models.configuration import MCTformerConfig as MCTformerConfig
from models.configuration import Variant as Variant
from models.output import MCTformerOutput
from models.vision_transformer import Block, PatchEmbed, fill_normal

DINO_OFFSET = 0.1
"""Offset with which V1 and V2 resize position embeddings; their weights depend on it at other image sizes."""


class MCTformer(nn.Module):
    """A ViT with one class token per class."""

    def __init__(self, config: MCTformerConfig) -> None:
        """Build a model with random weights."""
        super().__init__()
        self.config = config
        c, d, num_patches = config.num_classes, config.width, config.grid_side**2
        self.patch_embed = PatchEmbed(config.patch_size, d)
        self.cls_token = nn.Parameter(torch.zeros(1, c, d))
        if config.variant == Variant.PLUS:
            self.pos_embed_cls = nn.Parameter(torch.zeros(1, c, d))
            self.pos_embed_pat = nn.Parameter(torch.zeros(1, num_patches, d))
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, c + num_patches, d))
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(d, config.num_heads, config.mlp_ratio, drop_path=rate) for rate in rates)
        if config.variant != Variant.V1:
            self.head = nn.Conv2d(d, c, kernel_size=3, padding=1)
        self.apply(_initialise_linear)
        for name, parameter in self.named_parameters():
            if name.startswith(("cls_token", "pos_embed")):
                fill_normal(parameter, std=0.02)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> MCTformerOutput:
        """Run the model.

        Args:
            images: Normalised RGB of any size of at least one patch; pixels at the right and at the bottom that fill
                no patch are ignored.
        """
        patches = self.patch_embed(images)
        grid = (patches.shape[2], patches.shape[3])
        class_positions, patch_positions = self._fit_positions(grid, is_square=images.shape[2] == images.shape[3])
        patch_tokens = patches.flatten(2).transpose(1, 2) + patch_positions
        class_tokens = (self.cls_token + class_positions).expand(len(images), -1, -1)
        tokens = torch.cat([class_tokens, patch_tokens], dim=1)
        num_classes = self.config.num_classes
        queries, keys, class_tokens_of = [], [], []
        for block in cast(Iterable[Block], self.blocks):
            attended = attend(block.attn, block.norm1(tokens))
            tokens = block.add_attended(tokens, attended.tokens)
            queries.append(attended.queries)
            keys.append(attended.keys)
            class_tokens_of.append(tokens[:, :num_classes])
        patch_cam, patch_logits = self._score_patches(tokens[:, num_classes:], grid)
        return MCTformerOutput(
            class_logits=tokens[:, :num_classes].mean(-1),
            patch_logits=patch_logits,
            patch_cam=patch_cam,
            class_tokens=torch.stack(class_tokens_of),
            queries=tuple(queries),
            keys=tuple(keys),
            grid=grid,
        )

    def _fit_positions(
        self, grid: tuple[int, int], is_square: bool
    ) -> tuple[Float[Tensor, "1 c d"], Float[Tensor, "1 n d"]]:
        for_classes: Tensor
        for_patches: Tensor
        if self.config.variant == Variant.PLUS:
            for_classes, for_patches = self.pos_embed_cls, self.pos_embed_pat
        else:
            for_classes, for_patches = self.pos_embed.tensor_split([self.config.num_classes], dim=1)
        if is_square and grid[0] * grid[1] == for_patches.shape[1]:
            return for_classes, for_patches
        offset = 0.0 if self.config.variant == Variant.PLUS else DINO_OFFSET
        return for_classes, resize_positions(for_patches, grid, offset=offset)

    def _score_patches(
        self, patch_tokens: Float[Tensor, "b n d"], grid: tuple[int, int]
    ) -> tuple[Float[Tensor, "b c gh gw"] | None, Float[Tensor, "b c"] | None]:
        if self.config.variant == Variant.V1:
            return None, None
        patch_cam = self.head(patch_tokens.transpose(1, 2).unflatten(2, grid))
        if self.config.variant == Variant.V2:
            return patch_cam, patch_cam.mean((2, 3))
        return patch_cam, pool_by_rank(patch_cam, self.config.rank_decay)


def hold_in_bf16(model: MCTformer) -> MCTformer:
    """Copy a model for passes under bfloat16 autocast: the weights that it casts are bfloat16 already; others stay."""
    fast = copy.deepcopy(model)
    for module in fast.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)
    return fast


def resize_positions(
    table: Float[Tensor, "1 n d"], grid: tuple[int, int], *, offset: float = 0.0
) -> Float[Tensor, "1 m d"]:
    """Resize the position embeddings of a square grid to another grid, bicubically.

    Args:
        table: Of a square grid.
        grid: Wanted rows and columns.
        offset: Added to rows and columns where the scale is computed; moves the sampling points slightly.

    Source: for `offset` 0.1 `interpolate_pos_encoding` of DINO, which the authors of V1 and V2 use.
    """
    side = round(table.shape[1] ** 0.5)
    square = table.transpose(1, 2).unflatten(2, (side, side))
    if offset:
        factors = ((grid[0] + offset) / side, (grid[1] + offset) / side)
        resized = functional.interpolate(square, scale_factor=factors, mode="bicubic")
    else:
        resized = functional.interpolate(square, size=grid, mode="bicubic")
    return resized.flatten(2).transpose(1, 2)


def pool_by_rank(patch_cam: Float[Tensor, "b c gh gw"], decay: float) -> Float[Tensor, "b c"]:
    """Pool each class by global weighted ranking: the weight of the n-th best patch, from 0, is `decay` ** n.

    Source: Kolesnikov and Lampert, "Seed, Expand and Constrain" (ECCV 2016), section 3.2.
    """
    ranked = patch_cam.flatten(2).sort(dim=-1, descending=True).values
    weights = decay ** torch.arange(ranked.shape[-1], device=ranked.device, dtype=torch.float32)
    return (ranked * weights).sum(-1) / weights.sum()


def _initialise_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        fill_normal(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
