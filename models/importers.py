"""Importers of foreign weights: checkpoints of the authors' code, and timm's backbones.

Errors name every key without a place in the model, and every weight of the model without a key.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor

from models.bundle import ModelBundle, make_empty_model
from models.checkpoints.loading import load_checkpoint
from models.checkpoints.recognition import describe_weights, guess_variant, list_some_keys, measure_vit
from models.mctformer import MCTformer, MCTformerConfig, Variant, resize_positions
from models.weights import CheckpointError, StateDict, load_weights, require_finite

AUTHORS_UNUSED = ("norm.weight", "norm.bias")
"""Weights of the final norm, which the authors' models have and their forward pass does not use."""


def _report_nothing(_: str) -> None:
    """Ignore a line."""


def import_authors_checkpoint(
    path: Path,
    *,
    variant: Variant,
    class_names: tuple[str, ...],
    input_mean: tuple[float, float, float],
    input_std: tuple[float, float, float],
    num_heads: int | None = None,
    key: str | None = None,
    report: Callable[[str], None] = _report_nothing,
) -> tuple[MCTformer, ModelBundle]:
    """Import a checkpoint of the authors' code; infer the sizes from its shapes.

    Args:
        path: File of `torch.save` or safetensors, with a state dict under any wrappers and prefixes.
        variant: Of the authors' models.
        class_names: In the order of the class tokens.
        input_mean: Of each channel, as in training, for pixels in [0, 1].
        input_std: Likewise.
        num_heads: Attention heads; None: one per 64 of the width, as in every ViT and DeiT.
        key: Which weights to take where the file has several, such as `model_ema`.
        report: Called with each line that the user should read: the weights taken, conversions.

    Returns:
        The model in evaluation mode, and its description.

    Raises:
        CheckpointError: The file cannot be read, keys or shapes do not fit, or values are not finite; the message
            names all of them.
    """
    checkpoint = load_checkpoint(path, key)
    weights = checkpoint.weights
    _require_variant(path, weights, variant)
    config = _infer_config(weights, variant, num_heads)
    if config.num_classes != len(class_names):
        raise CheckpointError(
            f"'{path}' has {config.num_classes} class tokens, got {len(class_names)} class names "
            f"({', '.join(class_names)}); pass the classes that it was trained on, in their order"
        )
    for note in checkpoint.notes:
        report(note)
    model = make_empty_model(config)
    unused = {Variant.V1: (*AUTHORS_UNUSED, "head.weight", "head.bias"), Variant.V2: AUTHORS_UNUSED}
    left_out = unused.get(variant, (*AUTHORS_UNUSED, "pos_embed"))
    try:
        load_weights(model, weights, unused=left_out, name=str(variant))
    except CheckpointError as error:
        raise CheckpointError(f"'{path}': {error}") from error
    bundle = ModelBundle(config=config, class_names=class_names, input_mean=input_mean, input_std=input_std)
    return model.eval(), bundle


def load_backbone_weights(model: MCTformer, weights: StateDict) -> tuple[str, ...]:
    """Load the weights of timm's ViT or DeiT into a new model.

    The class token and its position embedding are repeated for every class. The position embeddings of the patches are
    resized to the model's grid.

    Returns:
        Keys that the model does not use by design: the classifier and the final norm.

    Raises:
        CheckpointError: Another key has no place, a weight has no key, or a shape does not fit.
    """
    unused = tuple(name for name in weights if name.startswith(("head.", "head_dist.", "norm.", "fc_norm.")))
    fitted = {name: tensor for name, tensor in weights.items() if name not in unused}
    _require_plain_vit(weights)
    config = model.config
    require_finite(fitted)
    token, positions = fitted["cls_token"], fitted.pop("pos_embed")
    if token.ndim != 3 or positions.ndim != 3:
        raise CheckpointError(
            f"the backbone has a cls_token of {list(token.shape)} and a pos_embed of {list(positions.shape)}, need "
            "three axes each; only ViT and DeiT with a class token fit"
        )
    _require_sizes(weights, config)
    fitted["cls_token"] = token[:, :1].repeat(1, config.num_classes, 1)
    num_extra = positions.shape[1] - int(positions.shape[1] ** 0.5) ** 2
    for_classes = positions[:, :1].repeat(1, config.num_classes, 1)
    for_patches = _fit_positions(positions[:, num_extra:], config.grid_side)
    if config.variant == Variant.PLUS:
        fitted |= {"pos_embed_cls": for_classes, "pos_embed_pat": for_patches}
    else:
        fitted["pos_embed"] = torch.cat([for_classes, for_patches], dim=1)
    own_head = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("head.")}
    load_weights(model, fitted | own_head, unused=("dist_token",), name=str(config.variant))
    return unused


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A timm model that training starts from: its sizes, input statistics and weights."""

    name: str
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_ratio: float
    input_mean: tuple[float, float, float]
    input_std: tuple[float, float, float]
    weights: dict[str, Tensor]
    """Empty for random weights."""
    notes: tuple[str, ...] = ()
    """Lines for the user: which weights of the file were taken, what was converted."""


def load_timm_backbone(
    name: str, *, pretrained: bool = False, weights_path: Path | None = None, key: str | None = None
) -> Backbone:
    """Load a timm ViT: its sizes, input statistics and weights.

    Args:
        name: Such as `vit_tiny_patch16_224` or `deit_small_patch16_224`.
        pretrained: Download the published weights with timm.
        weights_path: File of the weights; replaces the download.
        key: Which weights of the file to take where it has several.

    Raises:
        CheckpointError: timm has no such model, it is not a plain ViT, or its weights cannot be downloaded.
    """
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=5))
        raise CheckpointError(f"timm has no model '{name}'; names near it: {near or 'none'}")
    is_download = pretrained and weights_path is None
    network = _create_timm_model(name, is_download)
    try:
        block = network.blocks[0]
        sizes = {
            "patch_size": network.patch_embed.patch_size[0],
            "width": network.embed_dim,
            "depth": len(network.blocks),
            "num_heads": block.attn.num_heads,
            "mlp_ratio": block.mlp.fc1.out_features / network.embed_dim,
        }
    except (AttributeError, TypeError, IndexError) as error:
        raise CheckpointError(
            f"timm's '{name}' is not a plain ViT ({error}); choose a vit_* or deit_* model"
        ) from error
    weights: dict[str, Tensor] = {}
    notes: tuple[str, ...] = ()
    if weights_path is not None:
        checkpoint = load_checkpoint(weights_path, key)
        weights, notes = checkpoint.weights, checkpoint.notes
    elif is_download:
        weights = dict(network.state_dict())
    mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    return Backbone(name=name, input_mean=tuple(mean), input_std=tuple(std), weights=weights, notes=notes, **sizes)


def _create_timm_model(name: str, is_download: bool) -> Any:
    """Create a timm model; the type declares no attributes, and only plain ViTs have those that are read."""
    try:
        return timm.create_model(name, pretrained=is_download, num_classes=0)
    except Exception as error:  # what a failed download raises depends on the client library and its version
        if not is_download:
            raise
        raise CheckpointError(
            f"the weights of timm's '{name}' cannot be downloaded ({_read_first_line(error)}); "
            "give them as a file, or `none` for random ones"
        ) from error


def _require_variant(path: Path, weights: StateDict, variant: Variant) -> None:
    found = guess_variant(weights)
    if found == variant:
        return
    remedy = f"import it with --variant {found}"
    # A ViT without its classifier cannot be told from a V1 of one class.
    if found is None or (found == Variant.V1 and weights["cls_token"].shape[1] == 1):
        remedy = "import a checkpoint of MCTformer; training starts from a plain ViT by --backbone-weights"
    raise CheckpointError(
        f"'{path}' is not a checkpoint of MCTformer {variant}: it looks like {describe_weights(weights)}; {remedy}"
    )


def _require_plain_vit(weights: StateDict) -> None:
    looks = f"it looks like {describe_weights(weights)}"
    for name in ("cls_token", "pos_embed"):
        if name not in weights and guess_variant(weights) != Variant.PLUS:
            raise CheckpointError(f"the backbone has no '{name}'; {looks}; only ViT and DeiT with a class token fit")
    if guess_variant(weights) == Variant.PLUS or weights["cls_token"].shape[1:2] > (1,):
        raise CheckpointError(
            f"the weights are not those of a backbone: {looks}; give a plain ViT or DeiT, or import it with "
            "tagmask import-checkpoint"
        )


def _require_sizes(weights: StateDict, config: MCTformerConfig) -> None:
    sizes = measure_vit(weights)
    differences = [
        f"{name.replace('_', ' ')} {got}, the model {getattr(config, name)}"
        for name, got in sizes._asdict().items()
        if got is not None and got != getattr(config, name)
    ]
    if differences:
        raise CheckpointError(
            f"the backbone has {'; '.join(differences)}; it looks like {describe_weights(weights)}; choose its own "
            "--backbone"
        )


def _fit_positions(positions: Float[Tensor, "1 n d"], side: int) -> Float[Tensor, "1 m d"]:
    return positions if positions.shape[1] == side * side else resize_positions(positions, (side, side))


def _infer_config(weights: StateDict, variant: Variant, num_heads: int | None) -> MCTformerConfig:
    try:
        _, num_classes, width = weights["cls_token"].shape
        patch_size = weights["patch_embed.proj.weight"].shape[-1]
        if variant == Variant.PLUS:
            num_patches = weights["pos_embed_pat"].shape[1]
        else:
            num_patches = weights["pos_embed"].shape[1] - num_classes
        hidden = weights["blocks.0.mlp.fc1.weight"].shape[0]
        depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
        side = round(num_patches**0.5)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise CheckpointError(
            f"this is not a checkpoint of MCTformer {variant}: {error} is missing or has another shape; it has "
            f"{list_some_keys(weights)}"
        ) from error
    if side * side != num_patches:
        raise CheckpointError(
            f"the position embeddings have {num_patches} patches, which is not a square number; is it {variant}?"
        )
    try:
        return MCTformerConfig(
            variant=variant,
            num_classes=num_classes,
            image_size=side * patch_size,
            patch_size=patch_size,
            width=width,
            depth=depth,
            num_heads=num_heads or max(1, width // 64),
            mlp_ratio=hidden / max(1, width),
        )
    except ValueError as error:
        raise CheckpointError(f"the shapes of the weights fit no model: {error}; is it {variant}?") from error


def _read_first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
