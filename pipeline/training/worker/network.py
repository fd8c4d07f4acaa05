"""The network before its first step."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from models.importers import load_backbone_weights, load_timm_backbone
from models.mctformer import MCTformer, MCTformerConfig, Variant
from models.weights import CheckpointError
from pipeline.training.config import ModelConfig
from pipeline.training.seeds import derive_seed

DOWNLOADED, RANDOM = "pretrained", "none"
"""Values of `backbone_weights` that are not files."""
PLAIN_MEAN = PLAIN_STD = (0.5, 0.5, 0.5)
"""Input statistics of a network without a named backbone, for pixels in [0, 1]."""


class InitialModel(NamedTuple):
    """A network before its first step, and its input statistics for pixels in [0, 1]."""

    network: MCTformer
    input_mean: tuple[float, float, float]
    input_std: tuple[float, float, float]
    notes: tuple[str, ...] = ()
    """Lines for the user on the weights that the backbone starts from."""


def build_initial_model(config: ModelConfig, class_names: Sequence[str], rng_seed: int) -> InitialModel:
    """Build the network: weights of the backbone where there is one, all others random.

    Raises:
        CheckpointError: timm has no such backbone, or its weights cannot be read, do not fit or are not finite.
        ValueError: The image size is not a multiple of the backbone's patch size.
    """
    if not config.backbone:
        sizes = {name: getattr(config, name) for name in ("patch_size", "width", "depth", "num_heads", "mlp_ratio")}
        plain = _make_network(config, sizes, len(class_names), rng_seed)
        spread_tokens(plain, config.token_spread, rng_seed)
        return InitialModel(plain, PLAIN_MEAN, PLAIN_STD)
    is_file = config.backbone_weights not in (DOWNLOADED, RANDOM)
    backbone = load_timm_backbone(
        config.backbone,
        pretrained=config.backbone_weights == DOWNLOADED,
        weights_path=Path(config.backbone_weights) if is_file else None,
        key=config.backbone_key or None,
    )
    if config.image_size % backbone.patch_size:
        raise ValueError(f"need an image_size divisible by {backbone.patch_size}, got {config.image_size}")
    sizes = {name: getattr(backbone, name) for name in ("patch_size", "width", "depth", "num_heads", "mlp_ratio")}
    network = _make_network(config, sizes, len(class_names), rng_seed)
    if config.backbone_weights != RANDOM:
        try:
            load_backbone_weights(network, backbone.weights)
        except CheckpointError as error:
            raise CheckpointError(f"weights '{config.backbone_weights}' of '{config.backbone}': {error}") from error
    spread_tokens(network, config.token_spread, rng_seed)
    return InitialModel(network, backbone.input_mean, backbone.input_std, backbone.notes)


def spread_tokens(network: MCTformer, spread: float, rng_seed: int) -> None:
    """Add random offsets to the class tokens, in place.

    Tokens that are copies of one token have nearly the same gradient for many steps.

    Args:
        network: Before its first step.
        spread: Standard deviation of the offsets, relative to that of the tokens; 0: no offsets.
        rng_seed: Of the run.
    """
    if not spread:
        return
    generator = torch.Generator().manual_seed(derive_seed(rng_seed, 0, "class tokens"))
    with torch.no_grad():
        offsets = torch.randn(network.cls_token.shape, generator=generator)
        network.cls_token.add_(spread * network.cls_token.std() * offsets)


def _make_network(config: ModelConfig, sizes: dict[str, int | float], num_classes: int, rng_seed: int) -> MCTformer:
    torch.manual_seed(rng_seed)
    return MCTformer(
        MCTformerConfig(
            variant=Variant(config.variant),
            num_classes=num_classes,
            rank_decay=config.rank_decay,
            image_size=config.image_size,
            patch_size=int(sizes["patch_size"]),
            width=int(sizes["width"]),
            depth=int(sizes["depth"]),
            num_heads=int(sizes["num_heads"]),
            mlp_ratio=float(sizes["mlp_ratio"]),
            drop_path=config.drop_path,
        )
    )
