"""What foreign weights look like: a variant of MCTformer, a plain ViT, or another architecture."""

from typing import NamedTuple

from torch import Tensor

from models.mctformer import Variant
from models.weights import StateDict

PLAIN_VITS = {
    (192, 12, 16): "deit_tiny_patch16_224 or vit_tiny_patch16_224",
    (384, 12, 16): "deit_small_patch16_224 or vit_small_patch16_224",
    (384, 12, 32): "vit_small_patch32_224",
    (384, 12, 8): "vit_small_patch8_224",
    (768, 12, 16): "deit_base_patch16_224 or vit_base_patch16_224",
    (768, 12, 32): "vit_base_patch32_224",
    (768, 12, 8): "vit_base_patch8_224",
    (1024, 24, 16): "vit_large_patch16_224",
    (1024, 24, 14): "vit_large_patch14_224",
    (1280, 32, 14): "vit_huge_patch14_224",
}
"""timm's names by width, depth and patch size."""
MARKS = (
    ("patch_embeddings.projection.weight", "a ViT of Hugging Face's transformers; take timm's weights of the same ViT"),
    ("encoder_layer_0.self_attention.in_proj_weight", "a ViT of torchvision; take timm's weights of the same ViT"),
    ("visual.conv1.weight", "a CLIP model of OpenAI; take timm's weights of the same ViT"),
    ("relative_position_bias_table", "a Swin or BEiT"),
    ("layer1.0.conv1.weight", "a ResNet"),
    ("stages.0.blocks.0.conv_dw.weight", "a ConvNeXt"),
    ("downsample_layers.0.0.weight", "a ConvNeXt"),
)
"""Endings of keys that one architecture has."""


class ViTSizes(NamedTuple):
    """Sizes of a ViT; None where no weight determines them."""

    width: int | None
    depth: int
    patch_size: int | None


def measure_vit(weights: StateDict) -> ViTSizes:
    """Measure the sizes of a ViT by the shapes of its weights."""
    token, patches = weights.get("cls_token"), weights.get("patch_embed.proj.weight")
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.") and name.count(".") > 1})
    return ViTSizes(
        width=token.shape[-1] if token is not None and token.ndim == 3 else None,
        depth=depth,
        patch_size=patches.shape[-1] if patches is not None and patches.ndim == 4 else None,
    )


def guess_variant(weights: StateDict) -> Variant | None:
    """Guess the variant of MCTformer by the keys and shapes that only one of them has; None: of none."""
    token, head = weights.get("cls_token"), weights.get("head.weight")
    if token is None or token.ndim != 3:
        return None
    if "pos_embed_pat" in weights or "pos_embed_cls" in weights:
        return Variant.PLUS
    if _is_patch_head(head):
        return Variant.V2
    has_classifier = head is not None and head.ndim == 2 and head.shape[0] != token.shape[1]
    is_plain_vit = "dist_token" in weights or (token.shape[1] == 1 and has_classifier)
    return None if is_plain_vit else Variant.V1


def describe_weights(weights: StateDict) -> str:
    """Describe what weights look like, in words that fit behind "looks like"."""
    sizes, variant = measure_vit(weights), guess_variant(weights)
    shown = f"width {sizes.width}, depth {sizes.depth}, patches of {sizes.patch_size} px"
    if variant is not None and not (weights["cls_token"].shape[1] == 1 and variant == Variant.V1):
        features = {
            Variant.V1: "no patch head",
            Variant.V2: "a patch head and one table of positions",
            Variant.PLUS: "position tables pos_embed_cls and pos_embed_pat",
        }
        return f"MCTformer {variant} ({features[variant]}, {weights['cls_token'].shape[1]} class tokens, {shown})"
    for ending, words in MARKS:
        if any(name.endswith(ending) for name in weights):
            return words
    if "cls_token" not in weights:
        return f"another model; it has {list_some_keys(weights)}"
    name = None if None in sizes else PLAIN_VITS.get((sizes.width or 0, sizes.depth, sizes.patch_size or 0))
    return f"a plain ViT or DeiT ({shown}{f', as {name}' if name else ''})"


def list_some_keys(weights: StateDict, most: int = 6) -> str:
    """Join the first keys, and the number of the others."""
    names = list(weights)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more keys" if len(names) > most else "")


def _is_patch_head(head: Tensor | None) -> bool:
    return head is not None and head.ndim == 4
